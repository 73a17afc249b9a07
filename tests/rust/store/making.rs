//! A small checkpoint and the jobs that make a store of it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use airllm_rs::dtype::Dtype;
use airllm_rs::error::Error;
use airllm_rs::extent::Extent;
use airllm_rs::quant::encode::Effort;
use airllm_rs::quant::scheme::Scheme;
use airllm_rs::store::Step;
use airllm_rs::store::job::{FileJob, TensorJob};
use airllm_rs::store::manifest::{FileRecord, Manifest, NAME, VERSION};
use airllm_rs::store::progress::Progress;
use airllm_rs::store::writer::{Options, write};

pub(crate) const ROWS: u64 = 70;
pub(crate) const COLS: u64 = 128;

pub(crate) const OPTIONS: Options = Options {
    threads: 3,
    block_nbytes: 8192,
    effort: Effort::Fast,
};

pub(crate) struct Made {
    pub(crate) home: TempDir,
    pub(crate) source: Vec<u8>,
}

impl Made {
    pub(crate) fn new() -> Self {
        let home = tempdir().unwrap();
        // Halves of finite bf16 numbers, none the same as its neighbours.
        let source = (0..100_000_u32)
            .flat_map(|n| ((n.wrapping_mul(40_503) % 0x3fff) as u16).to_le_bytes())
            .collect::<Vec<_>>();
        fs::write(home.path().join("source"), &source).unwrap();
        fs::create_dir(home.path().join("store")).unwrap();
        Self { home, source }
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.home.path().join("store")
    }

    pub(crate) fn write(
        &self,
        jobs: Vec<FileJob>,
        watch: &(dyn Fn(Step, &Path) -> io::Result<()> + Sync),
    ) -> (Result<Vec<FileRecord>, Error>, Progress) {
        let progress = Progress::default();
        let sources = [self.home.path().join("source")];
        let records = write(&[self.store()], &sources, jobs, OPTIONS, &progress, watch);
        (records, progress)
    }

    pub(crate) fn make(&self, jobs: Vec<FileJob>) -> Vec<FileRecord> {
        self.write(jobs, &|_, _| Ok(())).0.unwrap()
    }

    pub(crate) fn commit(&self, files: Vec<FileRecord>) -> Manifest {
        let manifest = Manifest {
            format_version: VERSION,
            id: "0123".to_owned(),
            scheme: None,
            source: Value::Null,
            directories: vec![".".to_owned()],
            companions: vec![],
            files,
        };
        let text = serde_json::to_vec(&json!(manifest)).unwrap();
        fs::write(self.store().join(NAME), text).unwrap();
        manifest
    }
}

// A matrix of the source, at this offset.
pub(crate) fn matrix(name: &str, offset: u64, scheme: Option<Scheme>) -> TensorJob {
    tensor(name, offset, &[ROWS, COLS], scheme)
}

pub(crate) fn tensor(name: &str, offset: u64, shape: &[u64], scheme: Option<Scheme>) -> TensorJob {
    let nbytes = 2 * shape.iter().product::<u64>();
    TensorJob {
        name: name.to_owned(),
        dtype: Dtype::BF16,
        shape: shape.to_vec(),
        source: Extent {
            file: 0,
            offset,
            nbytes,
        },
        scheme,
        starts_unit: nbytes > 4096,
    }
}

pub(crate) fn job(name: &str, tensors: Vec<TensorJob>) -> FileJob {
    FileJob {
        name: format!("{name}.safetensors"),
        layer: name.to_owned(),
        directory: 0,
        tensors,
        metadata: BTreeMap::from([("format".to_owned(), "pt".to_owned())]),
    }
}

// Layers that share nothing, from places that no block is aligned to.
pub(crate) fn three_layers(scheme: Option<Scheme>) -> Vec<FileJob> {
    let layer = |n: u64| {
        let at = 30 + n * 40_000;
        let name = format!("layers.{n}");
        let tensors = vec![
            matrix(&format!("{name}.q.weight"), at, scheme),
            matrix(&format!("{name}.k.weight"), at + 2 * ROWS * COLS, scheme),
            tensor(&format!("{name}.norm.weight"), at + 7, &[COLS], None),
        ];
        job(&name, tensors)
    };
    (0..3).map(layer).collect()
}

//! Shard stores, for Python.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::Builder;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::dtype::Dtype;
use crate::error::Error;
use crate::extent::Extent;
use crate::python::errors::raise;
use crate::quant::encode::Effort;
use crate::quant::scheme::Scheme;
use crate::store::job::{FileJob, TensorJob};
use crate::store::manifest::Manifest;
use crate::store::progress::Progress;
use crate::store::verify::verify;
use crate::store::writer::{Options, write};
use crate::sync::Arc;

// Ctrl-C is noticed this soon.
const SIGNAL_POLL: Duration = Duration::from_millis(100);

type Tensor = (
    String,
    String,
    Vec<u64>,
    (u32, u64, u64),
    Option<String>,
    bool,
);
type File = (String, String, usize, BTreeMap<String, String>, Vec<Tensor>);
type Record = (String, String, usize, u64, Vec<u32>, Vec<String>);

#[pyfunction]
#[pyo3(signature = (
    directories, sources, files, *, threads, block_bytes, is_thorough = true, progress = None
))]
#[expect(
    clippy::too_many_arguments,
    reason = "keywords of the Python signature"
)]
pub(crate) fn write_store(
    py: Python<'_>,
    directories: Vec<PathBuf>,
    sources: Vec<PathBuf>,
    files: Vec<File>,
    threads: usize,
    block_bytes: usize,
    is_thorough: bool,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<Vec<Record>> {
    let jobs: Vec<_> = files.into_iter().map(job).collect::<PyResult<_>>()?;
    let is_given = |job: &FileJob| {
        let mut tensors = job.tensors.iter();
        job.directory < directories.len()
            && tensors.all(|tensor| (tensor.source.file as usize) < sources.len())
    };
    if !jobs.iter().all(is_given) || threads == 0 || block_bytes == 0 {
        let message =
            "a file names a directory or a source that is not given, or there are no threads";
        return Err(PyValueError::new_err(message));
    }
    let options = Options {
        threads,
        block_nbytes: block_bytes,
        effort: if is_thorough {
            Effort::Search
        } else {
            Effort::Fast
        },
    };
    let work = move |progress: &Progress| {
        write(&directories, &sources, jobs, options, progress, &|_, _| {
            Ok(())
        })
    };
    let records = watched(py, work, progress)?;
    let flat = records.into_iter().map(|record| {
        (
            record.name,
            record.layer,
            record.directory,
            record.nbytes,
            record.crc32c,
            record.not_finite,
        )
    });
    Ok(flat.collect())
}

#[pyfunction]
#[pyo3(signature = (directory, *, threads, manifest = None, progress = None))]
pub(crate) fn verify_store(
    py: Python<'_>,
    directory: PathBuf,
    threads: usize,
    manifest: Option<String>,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<u64> {
    let given = manifest.map(|json| Manifest::parse(json.as_bytes()));
    let given = given
        .transpose()
        .map_err(|fault| PyValueError::new_err(fault.to_string()))?;
    let work = move |progress: &Progress| {
        let manifest = match given {
            Some(manifest) => Some(manifest),
            None => Manifest::read(&directory)?,
        };
        let manifest = manifest.ok_or_else(|| Error::NoCheckpoint {
            path: directory.clone(),
        })?;
        verify(&directory, &manifest, threads, progress)?;
        Ok(progress.nbytes())
    };
    watched(py, work, progress)
}

#[pyfunction]
pub(crate) fn read_manifest(py: Python<'_>, directory: PathBuf) -> PyResult<Option<String>> {
    let manifest = py.detach(|| Manifest::read(&directory)).map_err(raise)?;
    let text = manifest.map(|manifest| serde_json::to_string(&manifest));
    text.transpose()
        .map_err(|error| PyValueError::new_err(error.to_string()))
}

// Do the work on a thread of its own; tell how far it is, and end it at Ctrl-C.
fn watched<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce(&Progress) -> Result<T, Error> + Send + 'static,
    callback: Option<Bound<'_, PyAny>>,
) -> PyResult<T> {
    let progress = Arc::new(Progress::default());
    let (sender, mut receiver) = channel();
    let theirs = Arc::clone(&progress);
    let thread = Builder::new()
        .name("airllm-store".to_owned())
        .spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(|| work(&theirs)));
            // Nobody listens after an interruption.
            let _ = sender.send(result.unwrap_or(Err(Error::WorkerPanicked)));
        })?;
    let mut interrupted = None;
    let result = loop {
        let (found, back) = py.detach(move || (receiver.recv_timeout(SIGNAL_POLL), receiver));
        match found {
            Ok(result) => break result,
            Err(RecvTimeoutError::Disconnected) => break Err(Error::WorkerPanicked),
            Err(RecvTimeoutError::Timeout) => receiver = back,
        }
        if interrupted.is_none()
            && let Err(error) = report(py, &progress, callback.as_ref())
        {
            progress.stop();
            interrupted = Some(error);
        }
    };
    py.detach(|| thread.join())
        .map_err(|_| raise(Error::WorkerPanicked))?;
    if let Some(error) = interrupted {
        return Err(error);
    }
    let result = result.map_err(raise)?;
    report(py, &progress, callback.as_ref())?;
    Ok(result)
}

fn report(
    py: Python<'_>,
    progress: &Progress,
    callback: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    py.check_signals()?;
    if let Some(callback) = callback {
        callback.call1((progress.nbytes(), progress.made(), progress.reused()))?;
    }
    Ok(())
}

fn job((name, layer, directory, metadata, tensors): File) -> PyResult<FileJob> {
    let tensors = tensors.into_iter().map(tensor).collect::<PyResult<_>>()?;
    Ok(FileJob {
        name,
        layer,
        directory,
        tensors,
        metadata,
    })
}

fn tensor((name, dtype, shape, source, scheme, starts_unit): Tensor) -> PyResult<TensorJob> {
    let known = |scheme: String| {
        Scheme::from_name(&scheme)
            .ok_or_else(|| PyValueError::new_err(format!("there is no scheme {scheme:?}")))
    };
    let (file, offset, nbytes) = source;
    Ok(TensorJob {
        name,
        dtype: Dtype::from_code(&dtype).map_err(raise)?,
        shape,
        source: Extent {
            file,
            offset,
            nbytes,
        },
        scheme: scheme.map(known).transpose()?,
        starts_unit,
    })
}

//! The readahead without a model: bytes per second from a file, and what taking a ready unit costs.

use std::hint::black_box;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use airllm_rs::error::Error;
use airllm_rs::extent::{Extent, Part};
use airllm_rs::io::{EngineChoice, IoOptions, open};
use airllm_rs::readahead::{Options, Readahead, Source, Unit};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const UNIT: u64 = 16 << 20;
const UNITS: u32 = 16;

fn file_of(directory: &Path) -> PathBuf {
    let path = directory.join("units");
    let mut file = std::fs::File::create(&path).expect("a temporary file can be made");
    let block: Vec<u8> = (0..UNIT)
        .map(|at| at.wrapping_mul(0x9e37_79b9) as u8)
        .collect();
    for _ in 0..UNITS {
        file.write_all(&block).expect("the disk has room");
    }
    file.sync_all().expect("the file is on the disk");
    path
}

fn readahead(path: &Path, residents: &[u32]) -> Result<Readahead, Error> {
    let units = (0..UNITS)
        .map(|unit| Unit {
            name: unit.to_string(),
            parts: vec![Part {
                extent: Extent {
                    file: 0,
                    offset: u64::from(unit) * UNIT,
                    nbytes: UNIT,
                },
                item_size: 2,
            }],
        })
        .collect();
    let files = vec![path.to_owned()];
    let opener = move || {
        let engine = open(&files, EngineChoice::Auto, IoOptions::default())?;
        Ok(Source {
            engine,
            identity: Box::new(|| Ok(())),
            devices: Vec::new(),
        })
    };
    let options = Options {
        ring_bytes: 96 << 20,
        ..Options::default()
    };
    Readahead::new(units, residents, options, Box::new(opener))
}

fn streaming(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let path = file_of(directory.path());
    let mut group = criterion.benchmark_group("readahead");

    let streamed = readahead(&path, &[]).expect("the file can be read");
    let order: Vec<u32> = (0..UNITS).collect();
    streamed
        .schedule(&order, true)
        .expect("every unit fits the ring");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(UNIT * u64::from(UNITS)));
    group.bench_function("sweep", |bencher| {
        bencher.iter(|| {
            for &unit in &order {
                drop(streamed.take(unit).expect("the unit comes"));
            }
        });
    });
    drop(streamed);

    let resident = readahead(&path, &[0]).expect("the file can be read");
    drop(resident.take(0).expect("the resident comes"));
    group.throughput(Throughput::Elements(1));
    group.bench_function("take a resident", |bencher| {
        bencher.iter(|| black_box(resident.take(0).expect("it is there")));
    });
    group.finish();
}

criterion_group!(benches, streaming);
criterion_main!(benches);

//! The readahead without a model: bytes per second from a file, and what taking a ready unit costs.

use std::hint::black_box;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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

fn readahead(
    path: &Path,
    unit_bytes: u64,
    residents: &[u32],
    options: Options,
) -> Result<Readahead, Error> {
    let count = UNIT * u64::from(UNITS) / unit_bytes;
    let units = (0..count)
        .map(|unit| Unit {
            name: unit.to_string(),
            parts: vec![Part {
                extent: Extent {
                    file: 0,
                    offset: unit * unit_bytes,
                    nbytes: unit_bytes,
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
    Readahead::new(units, residents, options, Box::new(opener))
}

fn streaming(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let path = file_of(directory.path());
    let mut group = criterion.benchmark_group("readahead");

    let options = Options {
        ring_bytes: 96 << 20,
        ..Options::default()
    };
    let streamed = readahead(&path, UNIT, &[], options).expect("the file can be read");
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

    let resident = readahead(&path, UNIT, &[0], options).expect("the file can be read");
    drop(resident.take(0).expect("the resident comes"));
    group.throughput(Throughput::Elements(1));
    group.bench_function("take and drop a resident", |bencher| {
        bencher.iter(|| black_box(resident.take(0).expect("it is there")));
    });
    group.bench_function("take and drop a resident, one consumer", |bencher| {
        let mut consumer = resident.consumer().expect("nobody else takes");
        bencher.iter(|| black_box(consumer.take_ready(0).expect("it is there")));
    });
    for trace in [false, true] {
        let name = if trace { ", traced" } else { "" };
        group.bench_function(format!("take a ready unit{name}"), |bencher| {
            bencher.iter_custom(|rounds| take_ready_units(&path, trace, rounds));
        });
    }
    group.finish();
}

// Time to take so many streamed units that lie ready, their drops apart.
fn take_ready_units(path: &Path, trace: bool, rounds: u64) -> Duration {
    const SMALL: u64 = 4096;
    const READY: u32 = 512;
    let options = Options {
        ring_bytes: READY as usize * SMALL as usize,
        trace,
        ..Options::default()
    };
    let streamed = readahead(path, SMALL, &[], options).expect("the file can be read");
    let order: Vec<u32> = (0..READY).collect();
    streamed
        .schedule(&order, true)
        .expect("every unit fits the ring");
    let mut leases = Vec::with_capacity(READY as usize);
    let mut time = Duration::ZERO;
    let mut left = rounds;
    let mut filled = 0;
    while left > 0 {
        filled += u64::from(READY) * SMALL;
        while streamed.stats().bytes_read < filled {
            std::thread::yield_now();
        }
        let mut consumer = streamed.consumer().expect("nobody else takes");
        // The last ones may still be on their way from the counter to the consumer.
        let count = left.min(u64::from(READY) / 2);
        let started = Instant::now();
        for &unit in order.iter().take(count as usize) {
            leases.push(consumer.take_ready(unit));
        }
        time += started.elapsed();
        assert!(leases.iter().all(Option::is_some), "not ready");
        left -= count;
        for &unit in order.iter().skip(count as usize) {
            leases.push(
                consumer
                    .wait(unit, Duration::from_secs(60))
                    .expect("it can be read"),
            );
        }
        leases.clear();
    }
    time
}

criterion_group!(benches, streaming);
criterion_main!(benches);

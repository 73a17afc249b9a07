//! A measurement reads what it says, and counts what it read.

use std::path::PathBuf;
use std::time::Duration;

use airllm_rs::arena::Pages;
use airllm_rs::error::Error;
use airllm_rs::extent::Extent;
use airllm_rs::io::bench::{Bench, Measured, Point, Work};
use airllm_rs::io::{EngineChoice, IoOptions};

use crate::io::place::{content, directory, write};

const BLOCK: usize = 16 << 10;
const SLICE: Duration = Duration::from_millis(100);

/// A cold measurement of these files.
pub(crate) fn point(paths: &[PathBuf], choice: EngineChoice, nbytes: Option<u64>) -> Point {
    Point {
        paths: paths.to_vec(),
        choice,
        options: IoOptions {
            queue_depth: 3,
            ..IoOptions::default()
        },
        pages: Pages::Huge,
        is_cold: true,
        work: Work::InOrder {
            block_bytes: BLOCK,
            nbytes,
        },
    }
}

/// Measure it.
pub(crate) fn measure(point: Point) -> Result<Measured, Error> {
    let mut bench = Bench::new(point)?;
    while !bench.run_for(SLICE)? {}
    Ok(bench.measured())
}

const CHOICES: [EngineChoice; 3] = [
    EngineChoice::Auto,
    EngineChoice::Buffered,
    EngineChoice::Mmap,
];

#[test]
fn all_files_are_read_once_in_blocks() {
    let directory = directory();
    let contents = [content(1, 5 * BLOCK + 1), Vec::new(), content(2, BLOCK)];
    let paths = write(directory.path(), &contents);
    for choice in CHOICES {
        let measured = measure(point(&paths, choice, None)).unwrap();
        assert_eq!(measured.bytes, 6 * BLOCK as u64 + 1, "{choice:?}");
        assert_eq!(measured.requests, 7);
        assert!(measured.wall > Duration::ZERO);
        let latency = measured.latency;
        assert!(latency.p50_ns > 0 && latency.p50_ns <= latency.p99_ns);
        assert!(latency.p99_ns <= latency.p999_ns && latency.p999_ns <= latency.max_ns);
        assert!(u128::from(latency.max_ns) <= measured.wall.as_nanos());
        assert!(measured.memory.resident >= 3 * BLOCK as u64 || cfg!(not(target_os = "linux")));
    }
}

#[test]
fn more_than_the_files_begins_again_except_where_that_would_be_warm() {
    let directory = directory();
    let paths = write(directory.path(), &[content(1, 3 * BLOCK)]);
    let nbytes = 10 * BLOCK as u64 + 5;
    let measured = measure(point(&paths, EngineChoice::Auto, Some(nbytes))).unwrap();
    assert_eq!((measured.bytes, measured.requests), (nbytes, 11));
    let cold = point(&paths, EngineChoice::Mmap, Some(nbytes));
    let warm = Point {
        is_cold: false,
        ..cold.clone()
    };
    assert!(matches!(measure(cold), Err(Error::IoOption { .. })));
    assert_eq!(measure(warm).unwrap().bytes, nbytes);
}

#[test]
fn a_replay_reads_its_extents_wherever_they_lie() {
    let directory = directory();
    let paths = write(directory.path(), &[content(1, 100_000), content(2, 50_000)]);
    let extents = vec![
        Extent {
            file: 1,
            offset: 7,
            nbytes: 9000,
        },
        Extent {
            file: 0,
            offset: 99_999,
            nbytes: 1,
        },
        Extent {
            file: 0,
            offset: 4095,
            nbytes: 2,
        },
    ];
    for choice in CHOICES {
        let work = Work::Replay(extents.clone());
        let replay = |work| Point {
            work,
            ..point(&paths, choice, None)
        };
        let measured = measure(replay(work)).unwrap();
        assert_eq!((measured.bytes, measured.requests), (9003, 3));
        let beyond = Extent {
            file: 1,
            offset: 49_999,
            nbytes: 2,
        };
        let failed = measure(replay(Work::Replay(vec![beyond])));
        assert!(matches!(failed, Err(Error::UnexpectedEof { .. })));
        let absent = Extent { file: 2, ..beyond };
        let failed = measure(replay(Work::Replay(vec![absent])));
        assert!(matches!(failed, Err(Error::BadRequest { .. })));
    }
}

#[test]
fn work_that_makes_no_sense_is_refused() {
    let directory = directory();
    let paths = write(directory.path(), &[content(1, BLOCK), Vec::new()]);
    let mut odd = point(&paths, EngineChoice::Buffered, None);
    odd.work = Work::InOrder {
        block_bytes: 0,
        nbytes: None,
    };
    for point in [odd, point(&paths[1..], EngineChoice::Auto, None)] {
        assert!(matches!(measure(point), Err(Error::IoOption { .. })));
    }
}

#[test]
fn a_measurement_may_be_given_up() {
    let directory = directory();
    let paths = write(directory.path(), &[content(1, 8 * BLOCK)]);
    let mut point = point(&paths, EngineChoice::Auto, Some(1 << 40));
    point.options.latency_us = 1000;
    let mut bench = Bench::new(point).unwrap();
    assert!(!bench.run_for(Duration::from_millis(5)).unwrap());
}

#[cfg(target_os = "linux")]
#[test]
fn cold_is_cold_and_leaves_nothing_or_is_refused() {
    crate::io::place::in_one_of_five_tries(check_cold);
}

#[cfg(target_os = "linux")]
fn check_cold() {
    let directory = directory();
    let paths = write(directory.path(), &[content(1, 64 * BLOCK)]);
    std::fs::read(&paths[0]).unwrap();
    for choice in [EngineChoice::Auto, EngineChoice::Buffered] {
        let measured = measure(point(&paths, choice, None)).unwrap();
        assert_eq!((measured.cached_bytes, measured.left.cached), (0, 0));
        assert_eq!(measured.left.sampled, 32);
    }
    // What a mapping reads stays.
    let measured = measure(point(&paths, EngineChoice::Mmap, None)).unwrap();
    assert!(measured.left.cached > 0);

    // Memory is the only home of such files.
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let paths = write(memory.path(), &[content(1, BLOCK)]);
    match measure(point(&paths, EngineChoice::Auto, None)) {
        Err(Error::NotCold {
            cached, sampled, ..
        }) => assert_eq!((cached, sampled), (4, 4)),
        other => panic!("{other:?}"),
    }
}

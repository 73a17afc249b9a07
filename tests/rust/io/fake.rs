//! The faults that a kernel rarely shows end as they must.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use airllm_rs::error::Error;
use airllm_rs::io::IoEngine as _;
use airllm_rs::io::fake::{FakeEngine, Fault, Faults};

use crate::io::place::{Read, content, run};

const WHOLE: Read = Read {
    file: 0,
    offset: 0,
    nbytes: 65_536,
    needed: 65_536,
};

fn engine(at: &[(u64, Fault)]) -> FakeEngine {
    let faults = Faults {
        at: at.to_vec(),
        ..Faults::default()
    };
    FakeEngine::new(vec![content(1, 65_536)], faults)
}

#[test]
fn interrupted_and_short_reads_are_continued_for_every_seed() {
    let contents = [content(1, 65_536), content(2, 30_000)];
    let plan = [
        WHOLE,
        Read {
            file: 1,
            offset: 4096,
            nbytes: 28_672,
            needed: 25_904,
        },
    ];
    for seed in 0..50 {
        for alignment in [1, 512, 4096] {
            let faults = Faults {
                seed,
                alignment,
                retry_percent: 40,
                short_percent: 50,
                is_shuffled: true,
                at: Vec::new(),
            };
            let mut engine = FakeEngine::new(contents.to_vec(), faults);
            for (read, (result, bytes)) in plan.iter().zip(run(&mut engine, &plan)) {
                assert!(result.unwrap() >= read.needed);
                let start = read.offset as usize;
                let expected = &contents[read.file as usize][start..start + read.needed];
                assert!(
                    bytes[..read.needed] == *expected,
                    "seed {seed}, alignment {alignment}"
                );
            }
        }
    }
}

#[test]
fn a_short_read_goes_on_at_the_block_before() {
    let mut engine = engine(&[(0, Fault::Short(5000))]);
    assert_eq!(run(&mut engine, &[WHOLE]).remove(0).0.unwrap(), 65_536);
    assert_eq!(engine.control().reads(), 2);
}

#[test]
fn a_short_read_that_brings_all_that_is_needed_ends_it() {
    let mut engine = engine(&[(0, Fault::Short(5000))]);
    let read = Read {
        needed: 5000,
        ..WHOLE
    };
    assert_eq!(run(&mut engine, &[read]).remove(0).0.unwrap(), 5000);
    assert_eq!(engine.control().reads(), 1);
}

#[test]
fn a_failed_read_is_an_error_with_errno_and_place_and_the_others_arrive() {
    let eio = 5;
    let mut engine = engine(&[(0, Fault::Short(8192)), (1, Fault::Fails(eio))]);
    let results = run(&mut engine, &[WHOLE, WHOLE]);
    match &results[0].0 {
        Err(Error::Io {
            source,
            path,
            offset,
            nbytes,
            engine,
        }) => {
            assert_eq!(source.raw_os_error(), Some(eio));
            assert_eq!(path.to_str(), Some("fake-0"));
            assert_eq!((*offset, *nbytes, *engine), (8192, 57_344, "fake"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(results[1].0.as_ref().unwrap(), &65_536);
}

#[test]
fn a_read_that_only_ever_asks_for_another_try_ends_with_its_errno() {
    let faults = Faults {
        at: (0..5000).map(|k| (k, Fault::Again)).collect(),
        ..Faults::default()
    };
    let mut engine = FakeEngine::new(vec![content(1, 65_536)], faults);
    let (result, _) = run(&mut engine, &[WHOLE]).remove(0);
    assert!(matches!(result, Err(Error::Io { .. })));
}

#[test]
fn a_read_that_does_not_get_on_ends() {
    let at = (0..5000).map(|k| (k, Fault::Short(511))).collect();
    let faults = Faults {
        at,
        ..Faults::default()
    };
    let mut engine = FakeEngine::new(vec![content(1, 65_536)], faults);
    let (result, _) = run(&mut engine, &[WHOLE]).remove(0);
    assert!(matches!(result, Err(Error::Io { .. })));
}

#[test]
fn more_bytes_than_were_asked_for_are_an_error() {
    let mut engine = engine(&[(0, Fault::Oversized)]);
    let (result, _) = run(&mut engine, &[WHOLE]).remove(0);
    assert!(matches!(result, Err(Error::EngineFailed { .. })));
}

#[test]
fn a_stalled_read_ends_when_it_is_released() {
    let mut engine = engine(&[(0, Fault::Stalls)]);
    let control = engine.control();
    let arena = airllm_rs::arena::Arena::new(65_536).unwrap();
    engine.submit(WHOLE.request(3, &arena, 0)).unwrap();
    let mut done = Vec::new();
    engine
        .wait(&mut done, Some(Duration::from_millis(1)))
        .unwrap();
    assert!(done.is_empty());
    assert_eq!(engine.in_flight(), 1);
    thread::scope(|scope| {
        scope.spawn(|| control.release());
        engine.wait(&mut done, None).unwrap();
    });
    assert_eq!(done[0].result.as_ref().unwrap(), &65_536);
}

#[test]
fn a_panic_comes_out_of_wait() {
    let mut engine = engine(&[(0, Fault::Panics)]);
    let panicked = catch_unwind(AssertUnwindSafe(|| run(&mut engine, &[WHOLE])));
    assert!(panicked.is_err());
}

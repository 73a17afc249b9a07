//! What goes wrong reaches whom it concerns, as what it was, and nothing is left behind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;

use airllm_rs::error::Error;
use airllm_rs::io::IoEngine as _;
use airllm_rs::io::fake::{FakeControl, FakeEngine, Fault, Faults};
use airllm_rs::readahead::{Closed, EventKind, Opener, Options, Readahead, Source, Unit};

use super::engine::{Hand, file, noise, part, row, small};

const UNIT: u64 = 16_384;

type Controls = Arc<Mutex<Vec<FakeControl>>>;

fn fake(content: Vec<u8>, faults: Faults) -> (Box<Opener>, Controls) {
    let controls = Controls::default();
    let opened = Arc::clone(&controls);
    let opener = move || {
        let engine = FakeEngine::new(vec![content.clone()], faults.clone());
        opened.lock().unwrap().push(engine.control());
        Ok(Source {
            engine: Box::new(engine),
            identity: Box::new(|| Ok(())),
            devices: Vec::new(),
        })
    };
    (Box::new(opener), controls)
}

fn options(units_in_ring: usize) -> Options {
    Options {
        ring_bytes: units_in_ring * UNIT as usize,
        request_bytes: 4096,
        queue_depth: 4,
        ..Options::default()
    }
}

fn is_whole(readahead: &Readahead, unit: u32, content: &[u8]) -> Result<(), Error> {
    let lease = readahead.take(unit)?;
    let start = unit as usize * UNIT as usize;
    assert!(lease.bytes() == &content[start..start + UNIT as usize]);
    Ok(())
}

#[test]
fn an_io_error_at_any_request_reaches_the_taker_of_that_unit_only() {
    let content = noise(6 * UNIT as usize, 1);
    for at in 0..24 {
        let faults = Faults {
            at: vec![(at, Fault::Fails(5))],
            ..Faults::default()
        };
        let (opener, _) = fake(content.clone(), faults);
        let readahead = Readahead::new(row(6, UNIT), &[], options(3), opener).unwrap();
        readahead.schedule(&[0, 1, 2, 3, 4, 5], false).unwrap();
        let mut failed = Vec::new();
        for unit in 0..6 {
            match is_whole(&readahead, unit, &content) {
                Ok(()) => {}
                Err(Error::Io { source, offset, .. }) => {
                    assert_eq!(source.raw_os_error(), Some(5));
                    assert_eq!(offset / UNIT, u64::from(unit));
                    failed.push(unit);
                    // Whoever asks again is served again, though the schedule has it no more.
                    is_whole(&readahead, unit, &content).unwrap();
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(failed.len(), 1, "request {at} failed {failed:?}");
    }
}

#[test]
fn short_interrupted_and_shuffled_reads_are_nobodys_business() {
    let content = noise(6 * UNIT as usize, 2);
    for seed in 0..30 {
        let faults = Faults {
            seed,
            retry_percent: 20,
            short_percent: 30,
            is_shuffled: true,
            ..Faults::default()
        };
        let (opener, _) = fake(content.clone(), faults);
        let readahead = Readahead::new(row(6, UNIT), &[2], options(3), opener).unwrap();
        readahead.schedule(&[0, 1, 2, 3, 4, 5], true).unwrap();
        for turn in 0..18 {
            is_whole(&readahead, turn % 6, &content).unwrap();
        }
    }
}

#[test]
fn a_file_that_is_cut_off_while_it_is_streamed_is_said_to_end_early() {
    let content = noise(4 * UNIT as usize, 3);
    let (opener, controls) = fake(content.clone(), Faults::default());
    let readahead = Readahead::new(row(4, UNIT), &[], options(1), opener).unwrap();
    readahead.schedule(&[0, 1, 2, 3], true).unwrap();
    is_whole(&readahead, 0, &content).unwrap();
    controls.lock().unwrap()[0].truncate(0, 2 * UNIT as usize + 5000);
    for _ in 0..3 {
        for unit in 1..5_u32 {
            match is_whole(&readahead, unit % 4, &content) {
                Ok(()) => assert!(unit % 4 < 2),
                Err(Error::UnexpectedEof { .. }) => assert!(unit % 4 >= 2),
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn a_stalled_read_holds_its_own_unit_up_and_no_other() {
    let content = noise(4 * UNIT as usize, 4);
    let faults = Faults {
        at: vec![(1, Fault::Stalls)],
        ..Faults::default()
    };
    let (opener, controls) = fake(content.clone(), faults);
    let readahead = Readahead::new(row(4, UNIT), &[], options(4), opener).unwrap();
    readahead.schedule(&[0, 1, 2, 3], false).unwrap();
    for unit in [1, 2, 3] {
        is_whole(&readahead, unit, &content).unwrap();
    }
    let mut consumer = readahead.consumer().unwrap();
    let brief = std::time::Duration::from_millis(1);
    assert!(consumer.wait(0, brief).unwrap().is_none());
    assert!(consumer.silence(brief).is_some());
    drop(consumer);
    controls.lock().unwrap()[0].release();
    is_whole(&readahead, 0, &content).unwrap();
}

#[test]
fn a_panic_among_many_reads_ends_every_wait() {
    let faults = Faults {
        at: vec![(9, Fault::Panics)],
        ..Faults::default()
    };
    let (opener, _) = fake(noise(4 * UNIT as usize, 5), faults);
    let readahead = Readahead::new(row(4, UNIT), &[3], options(3), opener).unwrap();
    readahead.schedule(&[0, 1, 2], true).unwrap();
    let mut ends = (0..20).map(|turn| readahead.take(turn % 3));
    assert!(ends.any(|end| matches!(end, Err(Error::WorkerPanicked))));
    assert!(matches!(readahead.take(3), Err(Error::WorkerPanicked)));
    assert!(matches!(readahead.demand(&[1]), Err(Error::WorkerPanicked)));
    assert_eq!(readahead.close(), Closed::Joined);
}

#[test]
fn a_consumer_that_stops_halfway_leaves_nothing_behind() {
    let hand = Hand::open(file(16));
    for turn in 0..200_u32 {
        let readahead = small(&hand, 16, &[3, 4], 5);
        readahead
            .schedule(&(0..16).collect::<Vec<u32>>(), true)
            .unwrap();
        let leases: Vec<_> = (0..turn % 5)
            .map(|unit| readahead.take(unit).unwrap())
            .collect();
        if turn % 2 == 0 {
            drop(readahead);
        } else {
            assert_eq!(readahead.close(), Closed::Joined);
        }
        for lease in leases {
            let extent = part(0, u64::from(lease.unit()) * 4096, 4096).extent;
            assert!(lease.bytes() == hand.expected(extent));
        }
        hand.wait_for_dropped(turn as usize + 1);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn thousands_of_readaheads_leave_no_descriptor_and_no_thread() {
    use airllm_rs::io::{EngineChoice, IoOptions, open};

    let named = |name: &str| {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks
            .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
        names.filter(|found| found.trim_end() == name).count()
    };
    // Descriptors of this file only: other tests open theirs meanwhile.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("only-here");
    std::fs::write(&path, noise(8 * 4096, 6)).unwrap();
    let opened = || {
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
        let targets = descriptors.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
        targets.filter(|target| *target == path).count()
    };
    for turn in 0..1000_u32 {
        let files = vec![path.clone()];
        let opener = move || {
            Ok(Source {
                engine: open(&files, EngineChoice::Auto, IoOptions::default())?,
                identity: Box::new(|| Ok(())),
                devices: Vec::new(),
            })
        };
        let options = Options {
            ring_bytes: 4 * 4096,
            request_bytes: 4096,
            ..Options::default()
        };
        let readahead = Readahead::new(row(8, 4096), &[1], options, Box::new(opener)).unwrap();
        readahead.schedule(&[0, 1, 2, 3, 4, 5, 6, 7], true).unwrap();
        if turn % 3 > 0 {
            readahead.take(0).unwrap();
        }
    }
    assert_eq!(opened(), 0);
    // Those of other tests come and go; a thousand would stay.
    assert!(named("airllm-io") < 100);
}

#[test]
fn the_trace_has_every_request_wait_and_lease_once() {
    let hand = Hand::shut(file(6));
    let options = Options {
        ring_bytes: 3 * 4096,
        request_bytes: 4096,
        queue_depth: 2,
        trace: true,
        ..Options::default()
    };
    let readahead = Readahead::new(row(6, 4096), &[0, 5], options, hand.opener()).unwrap();
    readahead.schedule(&[0, 1, 2, 3, 4], false).unwrap();
    hand.wait_for_submitted(2);
    let mut consumer = readahead.consumer().unwrap();
    let brief = std::time::Duration::from_millis(1);
    // Two calls, one wait.
    assert!(consumer.wait(0, brief).unwrap().is_none());
    hand.allow(usize::MAX);
    drop(consumer.wait(0, super::engine::PATIENCE).unwrap().unwrap());
    // A resident that needs no waiting is no event.
    drop(consumer.take_ready(0).unwrap());
    drop(consumer);
    for unit in 1..5 {
        readahead.take(unit).unwrap();
    }
    drop(readahead.take(5).unwrap());
    hand.wait_for_idle();
    let events = readahead.trace();
    assert!(
        events
            .iter()
            .all(|event| event.begin_ns <= event.end_ns && event.nbytes == 4096)
    );
    assert!(
        events
            .windows(2)
            .all(|pair| pair[0].begin_ns <= pair[1].begin_ns)
    );
    let units = |wanted: fn(EventKind) -> bool| {
        let mut units: Vec<u32> = events
            .iter()
            .filter(|event| wanted(event.kind))
            .map(|event| event.unit)
            .collect();
        units.sort_unstable();
        units
    };
    for event in &events {
        if let EventKind::Request { file, offset } = event.kind {
            assert_eq!((file, offset), (0, u64::from(event.unit) * 4096));
        }
    }
    assert_eq!(
        units(|kind| matches!(kind, EventKind::Request { .. })),
        [0, 1, 2, 3, 4, 5]
    );
    assert_eq!(units(|kind| kind == EventKind::Wait)[..1], [0]);
    let leases: HashMap<u32, usize> =
        units(|kind| kind == EventKind::Lease)
            .iter()
            .fold(HashMap::new(), |mut counts, &unit| {
                *counts.entry(unit).or_default() += 1;
                counts
            });
    assert!((0..5).all(|unit| leases[&unit] == 1));
    assert_eq!(readahead.trace(), []);
    assert_eq!(readahead.stats().trace_dropped, 0);
}

#[test]
fn without_a_trace_there_is_none() {
    let hand = Hand::open(file(2));
    let readahead = small(&hand, 2, &[], 2);
    readahead.schedule(&[0, 1], false).unwrap();
    readahead.take(0).unwrap();
    assert_eq!(readahead.trace(), []);
}

#[test]
fn a_demand_and_an_eviction_at_once_leave_no_unit_without_a_thread() {
    for _ in 0..100 {
        let hand = Hand::open(file(3));
        let readahead = small(&hand, 3, &[0, 1, 2], 2);
        hand.wait_for_dropped(1);
        thread::scope(|scope| {
            scope.spawn(|| readahead.demand(&[1]).unwrap());
            scope.spawn(|| readahead.evict(&[1]).unwrap());
        });
        match readahead.take(1) {
            Ok(_) | Err(Error::NotScheduled { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn files_that_changed_while_the_thread_was_away_are_noticed_by_an_eviction() {
    let hand = Hand::open(file(3));
    let readahead = small(&hand, 3, &[0, 1, 2], 2);
    readahead.schedule(&[0, 1, 2], true).unwrap();
    hand.wait_for_dropped(1);
    hand.change_files();
    let outcome = readahead.evict(&[1]);
    assert!(matches!(outcome, Err(Error::CheckpointChanged { .. })));
    assert!(matches!(
        readahead.take(1),
        Err(Error::CheckpointChanged { .. })
    ));
}

#[test]
fn a_unit_has_no_bytes_of_another_after_reads_were_given_up() {
    let hand = Hand::shut(vec![noise(6 * UNIT as usize, 7)]);
    let readahead = Readahead::new(row(6, UNIT), &[4], options(2), hand.opener()).unwrap();
    for turn in 0..200_u32 {
        let first = turn % 4;
        readahead.schedule(&[first, (first + 1) % 4], true).unwrap();
        hand.allow(turn as usize % 7);
    }
    hand.allow(usize::MAX);
    readahead.schedule(&[2, 3, 4], true).unwrap();
    for unit in [2, 3, 4, 2, 3, 4] {
        let lease = readahead.take(unit).unwrap();
        let extent = part(0, u64::from(unit) * UNIT, UNIT).extent;
        assert!(lease.bytes() == hand.expected(extent));
    }
}

#[test]
fn the_fake_engine_is_as_aligned_as_the_units_need() {
    let engine = FakeEngine::new(vec![vec![0; 8]], Faults::default());
    let unit = Unit {
        name: String::new(),
        parts: vec![part(0, 3, 2)],
    };
    assert_eq!(engine.alignment(), 4096);
    let (opener, _) = fake(vec![1, 2, 3, 4, 5, 6, 7, 8], Faults::default());
    let readahead = Readahead::new(vec![unit], &[0], options(0), opener).unwrap();
    let lease = readahead.take(0).unwrap();
    let at = readahead.offsets(0).unwrap()[0];
    assert_eq!(lease.bytes()[at..at + 2], [4, 5]);
}

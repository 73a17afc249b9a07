//! What the consumer may rely on, case by case.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use airllm_rs::error::Error;
use airllm_rs::readahead::{Closed, Lease, Options, Readahead, Unit};

use super::engine::{Fault, Hand, PATIENCE, file, noise, part, row, small, units_of};

fn assert_holds(lease: &Lease, hand: &Hand, unit: u32) {
    assert_eq!(lease.unit(), unit);
    let expected = hand.expected(part(0, u64::from(unit) * 4096, 4096).extent);
    assert!(
        lease.bytes()[..4096] == *expected,
        "unit {unit} holds other bytes"
    );
}

fn take_all(readahead: &Readahead, hand: &Hand, units: impl IntoIterator<Item = u32>) {
    for unit in units {
        assert_holds(&readahead.take(unit).unwrap(), hand, unit);
    }
}

#[test]
fn units_of_many_parts_and_files_arrive_whole() {
    let hand = Hand::open(vec![noise(70_000, 1), noise(50_001, 2)]);
    let parts = [
        vec![part(0, 0, 40_000)],
        vec![
            part(1, 513, 1),
            part(0, 65_000, 5_000),
            part(1, 20_000, 30_001),
        ],
        vec![part(0, 12_288, 4096), part(0, 16_384, 512)],
    ];
    let units: Vec<Unit> = parts
        .iter()
        .map(|parts| Unit {
            name: String::new(),
            parts: parts.clone(),
        })
        .collect();
    let options = Options {
        ring_bytes: 64 << 10,
        request_bytes: 8192,
        queue_depth: 3,
        ..Options::default()
    };
    let readahead = Readahead::new(units, &[], options, hand.opener()).unwrap();
    readahead.schedule(&[0, 1, 2], true).unwrap();
    for turn in 0..30 {
        let unit = turn % 3;
        let lease = readahead.take(unit).unwrap();
        let offsets = readahead.offsets(unit).unwrap();
        for (part, offset) in parts[unit as usize].iter().zip(offsets) {
            let nbytes = part.extent.nbytes as usize;
            assert!(lease.bytes()[offset..offset + nbytes] == *hand.expected(part.extent));
        }
        assert_eq!(lease.as_ptr() as usize % 4096, 0);
    }
    assert!(hand.submitted().iter().all(|&(.., nbytes)| nbytes <= 8192));
    assert!(hand.most_in_flight() <= 3);
}

#[test]
fn items_are_aligned_whatever_their_offset_in_the_file() {
    let hand = Hand::open(vec![noise(20_000, 3)]);
    let mut odd = part(0, 1001, 4000);
    odd.extent.offset = 1001;
    odd.item_size = 4;
    let unit = Unit {
        name: String::new(),
        parts: vec![odd, part(0, 6000, 77)],
    };
    let options = Options {
        ring_bytes: 64 << 10,
        ..Options::default()
    };
    let readahead = Readahead::new(vec![unit], &[], options, hand.opener()).unwrap();
    readahead.schedule(&[0], false).unwrap();
    let lease = readahead.take(0).unwrap();
    let offsets = readahead.offsets(0).unwrap();
    assert_eq!(offsets[0] % 4, 0);
    assert!(lease.bytes()[offsets[0]..offsets[0] + 4000] == *hand.expected(odd.extent));
    assert!(lease.bytes()[offsets[1]..][..77] == *hand.expected(part(0, 6000, 77).extent));
}

#[test]
fn a_unit_is_whole_when_its_reads_end_out_of_order() {
    let hand = Hand::shut(vec![noise(6 * 16_384, 1)]);
    hand.complete_newest_first();
    let options = Options {
        ring_bytes: 3 * 16_384,
        request_bytes: 4096,
        queue_depth: 8,
        ..Options::default()
    };
    let readahead = Readahead::new(row(6, 16_384), &[], options, hand.opener()).unwrap();
    readahead.schedule(&[0, 1, 2, 3, 4, 5], true).unwrap();
    hand.wait_for_submitted(8);
    hand.allow(usize::MAX);
    for turn in 0..18_u32 {
        let unit = turn % 6;
        let lease = readahead.take(unit).unwrap();
        let expected = hand.expected(part(0, u64::from(unit) * 16_384, 16_384).extent);
        assert!(lease.bytes() == expected);
    }
}

#[test]
fn the_ring_is_filled_while_the_consumer_computes() {
    let hand = Hand::open(file(8));
    let readahead = small(&hand, 8, &[], 4);
    readahead
        .schedule(&[0, 1, 2, 3, 4, 5, 6, 7], false)
        .unwrap();
    let lease = readahead.take(0).unwrap();
    // Four places, one of them leased: three more units, and no fourth.
    hand.wait_for_submitted(4);
    readahead.take(1).unwrap();
    hand.wait_for_submitted(5);
    assert_eq!(units_of(&hand.submitted()), [0, 1, 2, 3, 4]);
    drop(lease);
    hand.wait_for_submitted(6);
    take_all(&readahead, &hand, 2..8);
}

#[test]
fn the_next_cycle_is_read_while_the_last_units_of_this_one_are_used() {
    let hand = Hand::open(file(3));
    let readahead = small(&hand, 3, &[], 2);
    readahead.schedule(&[0, 1, 2], true).unwrap();
    take_all(&readahead, &hand, 0..2);
    let _lease = readahead.take(2).unwrap();
    assert_eq!(units_of(&hand.wait_for_submitted(4)), [0, 1, 2, 0]);
}

#[test]
fn units_of_all_sizes_pass_through_a_ring_smaller_than_a_layer() {
    let sizes = [4096, 12_288, 20_480, 4096, 8192, 16_384, 4096, 24_576];
    let hand = Hand::open(vec![noise(sizes.iter().sum(), 5)]);
    let mut offset = 0;
    let units: Vec<Unit> = sizes
        .iter()
        .map(|&nbytes| {
            let parts = vec![part(0, offset, nbytes as u64)];
            offset += nbytes as u64;
            Unit {
                name: String::new(),
                parts,
            }
        })
        .collect();
    let options = Options {
        ring_bytes: 28_672,
        request_bytes: 8192,
        queue_depth: 4,
        ..Options::default()
    };
    let readahead = Readahead::new(units.clone(), &[], options, hand.opener()).unwrap();
    readahead.schedule(&[0, 1, 2, 3, 4, 5, 6, 7], true).unwrap();
    for turn in 0..64 {
        let unit = turn % 8;
        let lease = readahead.take(unit).unwrap();
        let extent = units[unit as usize].parts[0].extent;
        assert!(lease.bytes()[..extent.nbytes as usize] == *hand.expected(extent));
    }
    assert_eq!(readahead.stats().units, 64);
}

#[test]
fn a_unit_without_bytes_is_there_at_once() {
    let hand = Hand::shut(file(1));
    let units = vec![
        Unit::default(),
        Unit {
            name: String::new(),
            parts: vec![part(0, 7, 0)],
        },
    ];
    let options = Options {
        ring_bytes: 8192,
        ..Options::default()
    };
    let readahead = Readahead::new(units, &[], options, hand.opener()).unwrap();
    readahead.schedule(&[0, 1, 0], false).unwrap();
    for unit in [0, 1, 0] {
        readahead.take(unit).unwrap();
    }
    assert_eq!(hand.submitted(), []);
}

#[test]
fn units_in_the_window_may_be_taken_in_any_order() {
    let hand = Hand::open(file(6));
    let readahead = small(&hand, 6, &[], 3);
    readahead.schedule(&[0, 1, 2, 3, 4, 5], false).unwrap();
    hand.wait_for_submitted(3);
    take_all(&readahead, &hand, [2, 0, 1, 4, 3, 5]);
}

#[test]
fn a_unit_nobody_asked_for_is_refused_at_once() {
    let hand = Hand::shut(file(4));
    let readahead = small(&hand, 4, &[], 2);
    assert!(matches!(readahead.take(1), Err(Error::NotScheduled { unit }) if unit == "layers.1"));
    readahead.schedule(&[0, 2], false).unwrap();
    assert!(matches!(readahead.take(1), Err(Error::NotScheduled { .. })));
    hand.allow(usize::MAX);
    take_all(&readahead, &hand, [0, 2]);
    assert!(matches!(readahead.take(0), Err(Error::NotScheduled { .. })));
    assert!(readahead.take(9).is_err());
    assert!(readahead.schedule(&[9], false).is_err());
}

#[test]
fn a_unit_larger_than_the_ring_is_refused_when_it_is_scheduled() {
    let hand = Hand::open(file(4));
    let options = Options {
        ring_bytes: 4096,
        ..Options::default()
    };
    let readahead = Readahead::new(row(2, 8192), &[], options, hand.opener()).unwrap();
    let error = readahead.schedule(&[0], false).unwrap_err().to_string();
    assert!(error.contains("layers.0") && error.contains("8192") && error.contains("4096"));
    assert!(readahead.demand(&[1]).is_err());
}

#[test]
fn leases_in_the_way_are_named_and_dropping_one_helps() {
    let hand = Hand::open(file(4));
    let readahead = small(&hand, 4, &[], 2);
    readahead.schedule(&[0, 1, 2, 3], false).unwrap();
    let first = readahead.take(0).unwrap();
    let second = readahead.take(1).unwrap();
    match readahead.take(2) {
        Err(Error::LeaseHeld { units }) => assert_eq!(units, ["layers.0", "layers.1"]),
        other => panic!("{other:?}"),
    }
    drop(second);
    take_all(&readahead, &hand, [2, 3]);
    assert_holds(&first, &hand, 0);
}

#[test]
fn units_that_the_consumer_passes_over_are_thrown_out() {
    let hand = Hand::open(file(6));
    let readahead = small(&hand, 6, &[], 2);
    readahead.schedule(&[0, 1, 2, 3, 4, 5], true).unwrap();
    for _ in 0..4 {
        take_all(&readahead, &hand, [0, 3, 5]);
    }
}

#[test]
fn a_demanded_unit_is_read_before_the_schedule() {
    let hand = Hand::shut(file(8));
    let readahead = small(&hand, 8, &[], 8);
    readahead.schedule(&[0, 1, 2, 3, 4, 5], false).unwrap();
    hand.wait_for_submitted(4);
    readahead.demand(&[7, 6]).unwrap();
    hand.allow(usize::MAX);
    take_all(&readahead, &hand, [7, 0, 1, 2, 6, 3, 4, 5]);
    assert_eq!(units_of(&hand.submitted()), [0, 1, 2, 3, 7, 6, 4, 5]);
}

#[test]
fn a_demand_throws_out_what_is_wanted_last_and_that_is_read_again() {
    let hand = Hand::open(file(8));
    let readahead = small(&hand, 8, &[], 3);
    readahead.schedule(&[0, 1, 2, 3], false).unwrap();
    hand.wait_for_submitted(3);
    readahead.demand(&[7]).unwrap();
    take_all(&readahead, &hand, [7, 0, 1, 2, 3]);
    assert_eq!(units_of(&hand.submitted())[..5], [0, 1, 2, 7, 2]);
}

#[test]
fn each_demand_is_for_one_take_of_its_own() {
    let hand = Hand::open(file(4));
    let readahead = small(&hand, 4, &[], 4);
    readahead.schedule(&[1], false).unwrap();
    readahead.demand(&[1]).unwrap();
    take_all(&readahead, &hand, [1, 1]);
    assert!(matches!(readahead.take(1), Err(Error::NotScheduled { .. })));
}

#[test]
fn more_demands_than_fit_come_one_after_the_other() {
    let hand = Hand::open(file(8));
    let readahead = small(&hand, 8, &[], 2);
    readahead.demand(&[1, 2, 3, 4, 5]).unwrap();
    take_all(&readahead, &hand, 1..6);
    assert_eq!(units_of(&hand.submitted()), [1, 2, 3, 4, 5]);
}

#[test]
fn a_new_schedule_keeps_what_serves_as_its_head() {
    let hand = Hand::open(file(8));
    let readahead = small(&hand, 8, &[], 4);
    readahead.schedule(&[0, 1, 2, 3, 4], false).unwrap();
    hand.wait_for_submitted(4);
    readahead.schedule(&[1, 3, 5, 6], false).unwrap();
    take_all(&readahead, &hand, [1, 3, 5, 6]);
    assert_eq!(units_of(&hand.submitted()), [0, 1, 2, 3, 5, 6]);
    assert!(matches!(readahead.take(0), Err(Error::NotScheduled { .. })));
}

#[test]
fn a_fill_that_nobody_wants_any_more_is_not_handed_out() {
    let hand = Hand::shut(file(8));
    let readahead = small(&hand, 8, &[], 2);
    readahead.schedule(&[0, 1], false).unwrap();
    hand.wait_for_submitted(2);
    readahead.schedule(&[4, 5], true).unwrap();
    assert!(matches!(readahead.take(0), Err(Error::NotScheduled { .. })));
    hand.allow(usize::MAX);
    take_all(&readahead, &hand, [4, 5, 4, 5]);
}

#[test]
fn an_error_reaches_who_takes_its_unit_and_nobody_else() {
    for fault in [Fault::Fails, Fault::Lies] {
        let hand = Hand::shut(file(4));
        hand.spoil(1, fault);
        let readahead = small(&hand, 4, &[], 3);
        readahead.schedule(&[0, 1, 2, 3], true).unwrap();
        hand.allow(usize::MAX);
        take_all(&readahead, &hand, [0]);
        readahead.take(1).unwrap_err();
        take_all(&readahead, &hand, [2, 3, 0, 1, 2, 3]);
    }
}

#[test]
fn an_error_in_one_of_many_reads_fails_the_unit_after_all_have_ended() {
    let hand = Hand::shut(vec![noise(3 * 65_536, 1)]);
    hand.spoil(2, Fault::Fails);
    let options = Options {
        ring_bytes: 2 * 65_536,
        request_bytes: 4096,
        queue_depth: 4,
        ..Options::default()
    };
    let readahead = Readahead::new(row(3, 65_536), &[], options, hand.opener()).unwrap();
    readahead.schedule(&[0, 1, 2], false).unwrap();
    hand.wait_for_submitted(4);
    hand.allow(usize::MAX);
    readahead.take(0).unwrap_err();
    for unit in [1, 2] {
        let lease = readahead.take(unit).unwrap();
        let expected = hand.expected(part(0, u64::from(unit) * 65_536, 65_536).extent);
        assert!(lease.bytes() == expected);
    }
    // The reads of unit 0 that were not submitted when it failed never were.
    assert!(hand.submitted().len() < 3 * 16);
}

#[test]
fn a_panicking_thread_is_an_error_and_never_a_hang() {
    let hand = Hand::shut(file(4));
    hand.spoil(1, Fault::Panics);
    let readahead = small(&hand, 4, &[], 1);
    readahead.schedule(&[0, 1, 2], false).unwrap();
    hand.allow(usize::MAX);
    take_all(&readahead, &hand, [0]);
    assert!(matches!(readahead.take(1), Err(Error::WorkerPanicked)));
    assert!(matches!(readahead.take(2), Err(Error::WorkerPanicked)));
    assert!(matches!(
        readahead.schedule(&[0], false),
        Err(Error::WorkerPanicked)
    ));
    assert_eq!(readahead.close(), Closed::Joined);
}

#[test]
fn closing_while_filling_ends_at_once_and_leaves_leases_alone() {
    let hand = Hand::shut(file(8));
    let readahead = small(&hand, 8, &[], 4);
    readahead.schedule(&[0, 1, 2, 3, 4], true).unwrap();
    hand.wait_for_submitted(4);
    hand.allow(1);
    let lease = readahead.take(0).unwrap();
    thread::scope(|scope| {
        let closing = scope.spawn(|| readahead.close());
        hand.allow(usize::MAX);
        assert_eq!(closing.join().unwrap(), Closed::Joined);
    });
    assert!(readahead.is_closed() && !readahead.is_reading());
    assert!(matches!(readahead.take(1), Err(Error::Closed)));
    assert!(matches!(
        readahead.schedule(&[0], false),
        Err(Error::Closed)
    ));
    assert_eq!(readahead.close(), Closed::Joined);
    drop(readahead);
    assert_holds(&lease, &hand, 0);
}

#[test]
fn a_device_that_never_answers_is_left_behind() {
    let hand = Hand::shut(file(2));
    let readahead = small(&hand, 2, &[], 2);
    readahead.schedule(&[0], false).unwrap();
    hand.wait_for_submitted(1);
    assert_eq!(readahead.close(), Closed::Detached);
    assert_eq!(readahead.close(), Closed::Joined);
    drop(readahead);
    hand.allow(usize::MAX);
    hand.wait_for_dropped(1);
}

#[test]
fn closing_ends_a_wait_in_another_thread() {
    let hand = Hand::shut(file(2));
    let readahead = small(&hand, 2, &[], 2);
    readahead.schedule(&[0], false).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| readahead.take(0).map(drop));
        hand.wait_for_submitted(1);
        readahead.close();
        assert!(matches!(waiting.join().unwrap(), Err(Error::Closed)));
    });
    hand.allow(usize::MAX);
}

#[test]
fn a_wait_can_be_given_up_and_taken_up_again() {
    let hand = Hand::shut(file(2));
    let readahead = small(&hand, 2, &[], 2);
    readahead.schedule(&[0, 1], false).unwrap();
    hand.wait_for_submitted(2);
    let mut consumer = readahead.consumer().unwrap();
    assert!(consumer.take_ready(0).is_none());
    assert!(
        consumer
            .wait(0, Duration::from_millis(1))
            .unwrap()
            .is_none()
    );
    assert_eq!(consumer.silence(Duration::ZERO).unwrap().file, 0);
    hand.allow(usize::MAX);
    assert!(consumer.wait(0, PATIENCE).unwrap().is_some());
    drop(consumer);
    take_all(&readahead, &hand, [1]);
    assert!(readahead.stats().stall_ns >= 1_000_000);
}

#[test]
fn two_cannot_take_at_once() {
    let hand = Hand::open(file(2));
    let readahead = small(&hand, 2, &[], 2);
    readahead.schedule(&[0, 1], false).unwrap();
    let consumer = readahead.consumer().unwrap();
    assert!(matches!(readahead.take(0), Err(Error::ConsumerBusy)));
    drop(consumer);
    take_all(&readahead, &hand, [0, 1]);
}

#[test]
fn residents_are_loaded_in_order_of_use_between_the_streamed() {
    let hand = Hand::shut(file(8));
    let options = Options {
        ring_bytes: 3 * 4096,
        request_bytes: 4096,
        queue_depth: 1,
        ..Options::default()
    };
    let residents = [1, 3, 6, 7];
    let readahead = Readahead::new(row(8, 4096), &residents, options, hand.opener()).unwrap();
    hand.wait_for_submitted(1);
    readahead.schedule(&[0, 1, 2, 3, 4, 5, 6], true).unwrap();
    hand.allow(usize::MAX);
    // Loading began with the first resident; when the ring is full, the rest of them follows.
    assert_eq!(units_of(&hand.wait_for_submitted(7)), [1, 0, 2, 3, 4, 6, 7]);
    for _ in 0..3 {
        take_all(&readahead, &hand, [7, 0, 1, 2, 3, 4, 5, 6]);
    }
    let resident_reads = units_of(&hand.submitted())
        .iter()
        .filter(|&&unit| residents.contains(&(unit as u32)))
        .count();
    assert_eq!(resident_reads, residents.len());
    assert_eq!(readahead.stats().resident_bytes_loaded, 4 * 4096);
}

#[test]
fn a_resident_that_is_waited_for_comes_first() {
    let hand = Hand::shut(file(8));
    let options = Options {
        ring_bytes: 0,
        request_bytes: 4096,
        queue_depth: 1,
        ..Options::default()
    };
    let residents = [0, 1, 2, 3, 4, 5, 6, 7];
    let readahead = Readahead::new(row(8, 4096), &residents, options, hand.opener()).unwrap();
    hand.wait_for_submitted(1);
    let mut consumer = readahead.consumer().unwrap();
    assert!(
        consumer
            .wait(5, Duration::from_millis(1))
            .unwrap()
            .is_none()
    );
    thread::scope(|scope| {
        let waiting = scope.spawn(|| consumer.wait(5, PATIENCE).unwrap().unwrap());
        // The wait has begun, or began too late to matter: unit 5 comes second or in its turn.
        hand.allow(usize::MAX);
        assert_holds(&waiting.join().unwrap(), &hand, 5);
    });
}

#[test]
fn the_thread_ends_when_everything_is_resident_and_loaded() {
    let hand = Hand::open(file(3));
    let readahead = small(&hand, 3, &[2, 0, 1], 0);
    hand.wait_for_dropped(1);
    take_all(&readahead, &hand, [0, 1, 2, 2, 1]);
    readahead.schedule(&[0, 1, 2], true).unwrap();
    let twice = (readahead.take(0).unwrap(), readahead.take(0).unwrap());
    assert_eq!(twice.0.as_ptr(), twice.1.as_ptr());
    assert_eq!(hand.opened(), 1);
    assert_eq!(readahead.stats().units, 0);
}

#[test]
fn a_resident_that_fails_is_read_again_when_asked_for_again() {
    let hand = Hand::shut(file(2));
    hand.spoil(1, Fault::Fails);
    let readahead = small(&hand, 2, &[0, 1], 0);
    hand.allow(usize::MAX);
    take_all(&readahead, &hand, [0]);
    readahead.take(1).unwrap_err();
    take_all(&readahead, &hand, [1]);
    hand.wait_for_dropped(1);
}

#[test]
fn residents_given_up_are_streamed_and_the_thread_comes_back() {
    let hand = Hand::open(file(4));
    let readahead = small(&hand, 4, &[0, 1, 2, 3], 2);
    hand.wait_for_dropped(1);
    let lease = readahead.take(1).unwrap();
    match readahead.evict(&[0, 1, 2]) {
        Err(Error::LeaseHeld { units }) => assert_eq!(units, ["layers.1"]),
        other => panic!("{other:?}"),
    }
    // None was given up.
    assert!(matches!(readahead.take(0), Ok(lease) if lease.is_resident()));
    drop(lease);
    readahead.evict(&[0, 1, 2]).unwrap();
    assert_eq!(readahead.stats().resident_bytes_loaded, 4096);
    assert!(matches!(readahead.take(0), Err(Error::NotScheduled { .. })));
    readahead.schedule(&[0, 1, 2, 3], true).unwrap();
    for _ in 0..3 {
        take_all(&readahead, &hand, 0..4);
    }
    assert_eq!(hand.opened(), 2);
}

#[test]
fn residents_given_up_under_a_schedule_are_streamed_by_it() {
    let hand = Hand::open(file(4));
    let readahead = small(&hand, 4, &[0, 1, 2, 3], 2);
    readahead.schedule(&[0, 1, 2, 3], true).unwrap();
    hand.wait_for_dropped(1);
    readahead.evict(&[2, 0]).unwrap();
    for _ in 0..3 {
        take_all(&readahead, &hand, 0..4);
    }
}

#[test]
fn a_resident_may_be_given_up_while_it_is_loaded() {
    let hand = Hand::shut(file(3));
    let readahead = small(&hand, 3, &[0, 1, 2], 1);
    hand.wait_for_submitted(3);
    readahead.evict(&[1]).unwrap();
    hand.allow(usize::MAX);
    readahead.schedule(&[0, 1, 2], true).unwrap();
    take_all(&readahead, &hand, [0, 1, 2, 0, 1, 2]);
    assert_eq!(readahead.stats().resident_bytes_loaded, 2 * 4096);
}

#[test]
fn files_that_changed_are_noticed_at_the_next_cycle() {
    let hand = Hand::open(file(3));
    let readahead = small(&hand, 3, &[], 1);
    readahead.schedule(&[0, 1, 2], true).unwrap();
    take_all(&readahead, &hand, [0]);
    hand.change_files();
    let outcomes: Vec<_> = [1, 2, 0, 1, 2]
        .iter()
        .map(|&unit| readahead.take(unit).map(drop))
        .collect();
    assert!(matches!(
        outcomes.last(),
        Some(Err(Error::CheckpointChanged { .. }))
    ));
}

#[test]
fn files_that_changed_are_noticed_by_a_new_schedule() {
    let hand = Hand::open(file(3));
    let readahead = small(&hand, 3, &[], 2);
    readahead.schedule(&[0, 1, 2], true).unwrap();
    take_all(&readahead, &hand, [0]);
    hand.change_files();
    let outcome = readahead.schedule(&[0, 1, 2], true);
    assert!(matches!(outcome, Err(Error::CheckpointChanged { .. })));
    assert!(matches!(
        readahead.take(1),
        Err(Error::CheckpointChanged { .. })
    ));
}

#[test]
fn leases_may_be_dropped_by_any_thread_while_the_consumer_goes_on() {
    let hand = Hand::open(file(16));
    let readahead = small(&hand, 16, &[], 6);
    let order: Vec<u32> = (0..16).collect();
    readahead.schedule(&order, true).unwrap();
    let dropped = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::sync_channel::<Lease>(2);
        scope.spawn(|| {
            for lease in receiver {
                drop(lease);
                dropped.fetch_add(1, Ordering::Relaxed);
            }
        });
        for turn in 0..4000_u32 {
            let unit = turn % 16;
            let lease = readahead.take(unit).unwrap();
            assert_holds(&lease, &hand, unit);
            sender.send(lease).unwrap();
        }
        drop(sender);
    });
    assert_eq!(dropped.into_inner(), 4000);
}

#[test]
fn the_counters_count() {
    let hand = Hand::open(file(4));
    let readahead = small(&hand, 4, &[3], 2);
    readahead.schedule(&[0, 1, 2], false).unwrap();
    take_all(&readahead, &hand, 0..4);
    let stats = readahead.stats();
    assert_eq!(
        (stats.bytes_read, stats.requests, stats.units),
        (4 * 4096, 4, 3)
    );
    assert_eq!(stats.resident_bytes_loaded, 4096);
    assert!(stats.busy_ns > 0);
    assert!(cfg!(not(target_os = "linux")) || stats.peak_anon_bytes > 1 << 16);
}

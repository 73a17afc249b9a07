//! The device is never idle while there is room, and every device has its own queue.

use airllm_rs::error::Error;
use airllm_rs::readahead::{Options, Readahead, Unit};

use super::engine::{Hand, file, noise, part, row, small, units_of};

// Units of one page, unit n in file n modulo the number of files.
fn striped(count: u32, files: u32) -> Vec<Unit> {
    (0..count)
        .map(|unit| Unit {
            name: format!("layers.{unit}"),
            parts: vec![part(unit % files, u64::from(unit / files) * 4096, 4096)],
        })
        .collect()
}

fn two_disks(count: u32, units_in_ring: usize, depth: usize) -> (Hand, Readahead) {
    let nbytes = count as usize * 4096;
    let hand = Hand::shut(vec![noise(nbytes, 1), noise(nbytes, 2)]).on_devices(&[7, 9]);
    let options = Options {
        ring_bytes: units_in_ring * 4096,
        request_bytes: 4096,
        queue_depth: depth,
        ..Options::default()
    };
    let readahead = Readahead::new(striped(count, 2), &[], options, hand.opener()).unwrap();
    (hand, readahead)
}

fn files_of(submitted: &[(u32, u64, usize)]) -> Vec<u32> {
    submitted.iter().map(|&(file, ..)| file).collect()
}

#[test]
fn the_queue_is_topped_up_after_every_completion() {
    let hand = Hand::shut(vec![noise(16 * 16_384, 1)]);
    let options = Options {
        ring_bytes: 8 * 16_384,
        request_bytes: 4096,
        queue_depth: 4,
        ..Options::default()
    };
    let readahead = Readahead::new(row(16, 16_384), &[], options, hand.opener()).unwrap();
    readahead
        .schedule(&(0..16).collect::<Vec<u32>>(), true)
        .unwrap();
    // Across units, one for one: 4 in flight after each single completion, in file order.
    for ended in 0..24 {
        let submitted = hand.wait_for_submitted(4 + ended);
        assert_eq!(submitted.len(), 4 + ended);
        assert_eq!(hand.in_flight(), 4);
        hand.allow(1);
    }
    let offsets = units_of(&hand.wait_for_submitted(28));
    assert_eq!(offsets, (0..28).collect::<Vec<u64>>());
}

#[test]
fn the_queue_stays_full_where_a_cycle_ends() {
    let hand = Hand::shut(file(5));
    let readahead = small(&hand, 5, &[], 40);
    readahead.schedule(&[0, 1, 2, 3, 4], true).unwrap();
    for ended in 0..20 {
        hand.wait_for_submitted(4 + ended);
        assert_eq!(hand.in_flight(), 4);
        hand.allow(1);
    }
    let expected: Vec<u64> = (0..24).map(|turn| turn % 5).collect();
    assert_eq!(units_of(&hand.wait_for_submitted(24)), expected);
}

#[test]
fn the_queue_stays_full_when_the_same_order_is_scheduled_again() {
    let hand = Hand::shut(file(6));
    let readahead = small(&hand, 6, &[], 40);
    let order = [0, 1, 2, 3, 4, 5];
    readahead.schedule(&order, true).unwrap();
    hand.wait_for_submitted(4);
    for sweep in 1..6_usize {
        readahead.schedule(&order, true).unwrap();
        assert_eq!(hand.in_flight(), 4);
        hand.allow(6);
        let submitted = units_of(&hand.wait_for_submitted(4 + 6 * sweep));
        let expected: Vec<u64> = (0..submitted.len() as u64).map(|turn| turn % 6).collect();
        assert_eq!(submitted, expected);
        for unit in order {
            readahead.take(unit).unwrap();
        }
    }
}

#[test]
fn reading_goes_on_as_soon_as_a_slow_consumer_makes_room() {
    let hand = Hand::open(file(8));
    let readahead = small(&hand, 8, &[], 3);
    readahead
        .schedule(&(0..8).collect::<Vec<u32>>(), true)
        .unwrap();
    for turn in 0..40_u32 {
        // The ring is full and the thread asleep: nothing is read until a lease is dropped.
        assert_eq!(
            hand.wait_for_submitted(3 + turn as usize).len(),
            3 + turn as usize
        );
        let lease = readahead.take(turn % 8).unwrap();
        assert_eq!(hand.submitted().len(), 3 + turn as usize);
        drop(lease);
    }
    let stats = readahead.stats();
    assert_eq!((stats.takes, stats.units), (40, 40));
}

#[test]
fn time_without_room_is_told_from_time_without_work() {
    let hand = Hand::open(file(4));
    let readahead = small(&hand, 4, &[], 2);
    readahead.schedule(&[0, 1, 2, 3], false).unwrap();
    hand.wait_for_submitted(2);
    // Idle, and more to come.
    while readahead.stats().ring_full_ns == 0 {
        std::thread::yield_now();
    }
    for unit in 0..4 {
        readahead.take(unit).unwrap();
    }
    hand.wait_for_idle();
    // Idle, and nothing to come: the clock stands still.
    let before = readahead.stats();
    std::thread::yield_now();
    assert_eq!(readahead.stats().ring_full_ns, before.ring_full_ns);
}

#[test]
fn a_take_counts_as_a_wait_once_however_long_it_takes() {
    let hand = Hand::shut(file(3));
    let readahead = small(&hand, 3, &[], 3);
    readahead.schedule(&[0, 1, 2], false).unwrap();
    let mut consumer = readahead.consumer().unwrap();
    for _ in 0..3 {
        let wait = consumer
            .wait(0, std::time::Duration::from_millis(1))
            .unwrap();
        assert!(wait.is_none());
    }
    hand.allow(usize::MAX);
    consumer.wait(0, super::engine::PATIENCE).unwrap().unwrap();
    drop(consumer);
    let stats = readahead.stats();
    assert_eq!((stats.takes, stats.waits), (1, 1));
}

#[test]
fn reads_of_units_that_nobody_wants_any_more_are_not_submitted() {
    let hand = Hand::shut(vec![noise(4 * 65_536, 1)]);
    let options = Options {
        ring_bytes: 4 * 65_536,
        request_bytes: 4096,
        queue_depth: 4,
        ..Options::default()
    };
    let readahead = Readahead::new(row(4, 65_536), &[], options, hand.opener()).unwrap();
    readahead.schedule(&[0, 1], false).unwrap();
    hand.wait_for_submitted(4);
    readahead.schedule(&[3], false).unwrap();
    hand.allow(usize::MAX);
    readahead.take(3).unwrap();
    // Four of unit 0 were in flight; its other twelve never were.
    let units: Vec<u64> = units_of(&hand.submitted())
        .iter()
        .map(|at| at / 16)
        .collect();
    assert_eq!(units, [vec![0; 4], vec![3; 16]].concat());
}

#[test]
fn a_demand_is_submitted_before_the_rest_of_the_unit_that_is_being_read() {
    let hand = Hand::shut(vec![noise(4 * 65_536, 1)]);
    let options = Options {
        ring_bytes: 4 * 65_536,
        request_bytes: 4096,
        queue_depth: 4,
        ..Options::default()
    };
    let readahead = Readahead::new(row(4, 65_536), &[], options, hand.opener()).unwrap();
    readahead.schedule(&[0, 1], false).unwrap();
    hand.wait_for_submitted(4);
    readahead.demand(&[2]).unwrap();
    hand.allow(usize::MAX);
    for unit in [2, 0, 1] {
        readahead.take(unit).unwrap();
    }
    let units: Vec<u64> = units_of(&hand.submitted())
        .iter()
        .map(|at| at / 16)
        .collect();
    assert_eq!(units[..20], [vec![0; 4], vec![2; 16]].concat());
}

#[test]
fn a_stalled_disk_does_not_keep_the_other_from_a_full_queue() {
    let (hand, readahead) = two_disks(64, 32, 4);
    hand.stall(&[0]);
    readahead
        .schedule(&(0..64).collect::<Vec<u32>>(), false)
        .unwrap();
    // The other disk reads ahead as far as the ring goes, 4 at a time.
    hand.wait_for_submitted(8);
    for ended in 0..12 {
        let files = files_of(&hand.wait_for_submitted(8 + ended));
        assert_eq!(files.iter().filter(|&&file| file == 0).count(), 4);
        assert_eq!((hand.in_flight_of(0), hand.in_flight_of(1)), (4, 4));
        hand.allow(1);
    }
    // Of 32 places half are the stalled disk's, in the order of use.
    hand.allow(4);
    hand.wait_for_in_flight(4);
    assert_eq!(hand.submitted().len(), 4 + 16);
    hand.stall(&[]);
    hand.allow(usize::MAX);
    for unit in 0..64 {
        let lease = readahead.take(unit).unwrap();
        let extent = part(unit % 2, u64::from(unit / 2) * 4096, 4096).extent;
        assert!(lease.bytes() == hand.expected(extent));
    }
    let devices = readahead.stats().devices;
    let bytes: Vec<u64> = devices.iter().map(|device| device.bytes_read).collect();
    assert_eq!(bytes, [32 * 4096, 32 * 4096]);
}

#[test]
fn a_full_queue_takes_no_room_for_units_that_start_nothing() {
    let (hand, readahead) = two_disks(64, 32, 4);
    // The second disk is idle, but has nothing to read within the ring.
    let order: Vec<u32> = (0..64).filter(|unit| unit % 2 == 0).collect();
    readahead.schedule(&order, false).unwrap();
    assert_eq!(files_of(&hand.wait_for_submitted(4)), [0; 4]);
    readahead.demand(&[1]).unwrap();
    // Room is left for it, at once.
    assert_eq!(files_of(&hand.wait_for_submitted(5))[4], 1);
    hand.allow(usize::MAX);
    readahead.take(1).unwrap();
    for unit in order {
        readahead.take(unit).unwrap();
    }
}

#[test]
fn a_unit_on_two_disks_is_read_from_both_at_once() {
    let hand = Hand::shut(vec![noise(65_536, 1), noise(65_536, 2)]).on_devices(&[1, 0]);
    let unit = Unit {
        name: String::new(),
        parts: vec![part(0, 0, 65_536), part(1, 0, 65_536)],
    };
    let options = Options {
        ring_bytes: 131_072,
        request_bytes: 4096,
        queue_depth: 2,
        ..Options::default()
    };
    let readahead = Readahead::new(vec![unit], &[], options, hand.opener()).unwrap();
    readahead.schedule(&[0], false).unwrap();
    hand.wait_for_submitted(4);
    assert_eq!((hand.in_flight_of(0), hand.in_flight_of(1)), (2, 2));
    hand.allow(usize::MAX);
    readahead.take(0).unwrap();
}

#[test]
fn a_silent_disk_is_noticed_beside_one_that_answers() {
    let (hand, readahead) = two_disks(64, 32, 4);
    hand.stall(&[0]);
    readahead
        .schedule(&(0..64).collect::<Vec<u32>>(), false)
        .unwrap();
    hand.wait_for_submitted(8);
    let mut consumer = readahead.consumer().unwrap();
    for _ in 0..3 {
        hand.allow(1);
        let patience = std::time::Duration::from_millis(2);
        assert!(consumer.wait(0, patience).unwrap().is_none());
    }
    let silence = consumer
        .silence(std::time::Duration::from_millis(5))
        .unwrap();
    assert_eq!(silence.file, 0);
    drop(consumer);
    hand.stall(&[]);
    hand.allow(usize::MAX);
}

#[test]
fn what_the_expectation_may_be_is_checked() {
    for gbps in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let options = Options {
            expected_gbps: Some(gbps),
            ..Options::default()
        };
        let error = Readahead::new(row(1, 4096), &[], options, Hand::open(file(1)).opener());
        assert!(matches!(
            error,
            Err(Error::IoOption {
                option: "expected_gbps",
                ..
            })
        ));
    }
}

#[test]
fn other_settings_are_tried_while_the_model_reads_itself() {
    const UNIT: usize = 16 << 20;
    let hand = Hand::open(vec![vec![7; UNIT]]);
    let units = vec![
        Unit {
            name: String::new(),
            parts: vec![part(0, 0, UNIT as u64)],
        };
        2
    ];
    let options = Options {
        ring_bytes: 8 * UNIT,
        request_bytes: 2 << 20,
        queue_depth: 4,
        ..Options::default()
    };
    let readahead = Readahead::new(units, &[], options, hand.opener()).unwrap();
    readahead.schedule(&[0, 1], true).unwrap();
    let mut turn = 0;
    while !readahead.stats().main_device().is_tuned {
        assert!(turn < 4000, "{:?}", readahead.stats());
        drop(readahead.take(turn % 2).unwrap());
        turn += 1;
    }
    let device = readahead.stats().main_device();
    assert!(device.gbps > 0.0);
    let mut sizes: Vec<usize> = hand.submitted().iter().map(|read| read.2).collect();
    sizes.sort_unstable();
    sizes.dedup();
    assert!(sizes.len() > 1 && sizes.contains(&(2 << 20)), "{sizes:?}");
    // Half of the ring at most.
    assert!(device.request_bytes * device.queue_depth <= 4 * UNIT);
}

//! Ring, schedule and the whole, against models that are too simple to be wrong.

use std::collections::VecDeque;

use airllm_rs::error::Error;
use airllm_rs::readahead::ring::{GRAIN, Ring};
use airllm_rs::readahead::schedule::{Schedule, matching_head};
use airllm_rs::readahead::{Lease, Options, Readahead, Unit};
use proptest::prelude::*;

use super::engine::{Fault, Hand, noise, part};

#[derive(Clone, Copy, Debug)]
enum RingStep {
    Allocate(usize),
    FreeOldest,
    Free(usize),
}

fn ring_step() -> impl Strategy<Value = RingStep> {
    prop_oneof![
        4 => (0_usize..6 * GRAIN).prop_map(RingStep::Allocate),
        3 => Just(RingStep::FreeOldest),
        1 => any::<usize>().prop_map(RingStep::Free),
    ]
}

#[derive(Clone, Copy, Debug)]
enum ScheduleStep {
    Next,
    Demand(u32),
    GiveBack,
    Promote(u32),
}

fn schedule_step() -> impl Strategy<Value = ScheduleStep> {
    prop_oneof![
        6 => Just(ScheduleStep::Next),
        1 => (0_u32..6).prop_map(ScheduleStep::Demand),
        1 => Just(ScheduleStep::GiveBack),
        1 => (0_u32..6).prop_map(ScheduleStep::Promote),
    ]
}

#[derive(Clone, Copy, Debug)]
enum Step {
    TakeNext,
    TakeSecond,
    DropOldest,
    DropAll,
    Demand(usize),
    Restart(usize),
    Replace(usize, bool),
    Evict(usize),
    Spoil(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => Just(Step::TakeNext),
        2 => Just(Step::TakeSecond),
        8 => Just(Step::DropOldest),
        1 => Just(Step::DropAll),
        1 => any::<usize>().prop_map(Step::Demand),
        1 => any::<usize>().prop_map(Step::Restart),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, lies)| Step::Replace(at, lies)),
        1 => (0_usize..9).prop_map(Step::Spoil),
        1 => any::<usize>().prop_map(Step::Evict),
    ]
}

proptest! {
    #[test]
    fn places_are_aligned_inside_the_ring_and_apart(
        capacity in 0_usize..20 * GRAIN,
        steps in prop::collection::vec(ring_step(), 1..200),
    ) {
        let mut ring = Ring::new(capacity);
        let mut live: VecDeque<(usize, usize)> = VecDeque::new();
        for step in steps {
            match step {
                RingStep::Allocate(nbytes) => {
                    let fits = ring.would_fit(nbytes, |_| true);
                    let place = ring.allocate(nbytes);
                    prop_assert_eq!(place.is_some(), fits);
                    let Some(start) = place else { continue };
                    let end = start + Ring::footprint(nbytes);
                    prop_assert!(start % GRAIN == 0 && end <= capacity);
                    prop_assert!(live.iter().all(|&(from, to)| end <= from || to <= start));
                    live.push_back((start, end));
                }
                RingStep::FreeOldest => {
                    if let Some((start, _)) = live.pop_front() {
                        prop_assert!(ring.free(start));
                        prop_assert!(!ring.free(start));
                    }
                }
                RingStep::Free(at) => {
                    if !live.is_empty() && let Some((start, _)) = live.remove(at % live.len()) {
                        prop_assert!(ring.free(start));
                    }
                }
            }
            prop_assert_eq!(ring.used(), live.iter().map(|(from, to)| to - from).sum::<usize>());
        }
        for (start, _) in live {
            ring.free(start);
        }
        prop_assert_eq!(ring.allocate(ring.capacity()).is_some(), ring.capacity() > 0);
    }

    #[test]
    fn equal_places_follow_each_other_round_the_ring(count in 1_usize..9, turns in 1_usize..40) {
        let mut ring = Ring::new(count * GRAIN + 7);
        let mut live = VecDeque::new();
        for turn in 0..turns {
            if live.len() == count {
                ring.free(live.pop_front().unwrap());
            }
            let place = ring.allocate(GRAIN).unwrap();
            prop_assert_eq!(place, turn % count * GRAIN);
            live.push_back(place);
        }
    }

    // A model that spells the order out.
    #[test]
    fn every_turn_comes_once_whatever_is_demanded_or_promoted(
        order in prop::collection::vec(0_u32..6, 0..8),
        cyclic in any::<bool>(),
        steps in prop::collection::vec(schedule_step(), 1..60),
    ) {
        let mut schedule = Schedule::default();
        schedule.replace(order.clone(), cyclic, 0);
        let laps = if cyclic { 200 } else { 1 };
        let mut front: VecDeque<u32> = VecDeque::new();
        let mut returned: VecDeque<u32> = VecDeque::new();
        let mut plan: VecDeque<u32> =
            std::iter::repeat_n(&order, laps).flatten().copied().collect();
        let mut last = None;
        for step in steps {
            match step {
                ScheduleStep::Next => {
                    let expected = front
                        .pop_front()
                        .map(|unit| (unit, true))
                        .or_else(|| returned.pop_front().map(|unit| (unit, false)))
                        .or_else(|| plan.pop_front().map(|unit| (unit, false)));
                    let next = schedule.peek().map(|next| (next.unit, next.demanded));
                    prop_assert_eq!(next, expected);
                    if next.is_some() {
                        schedule.advance();
                    }
                    last = next.map(|(unit, _)| unit);
                }
                ScheduleStep::Demand(unit) => {
                    schedule.demand([unit]);
                    front.push_back(unit);
                }
                ScheduleStep::GiveBack => {
                    if let Some(unit) = last.take() {
                        schedule.give_back(unit);
                        returned.push_front(unit);
                    }
                }
                ScheduleStep::Promote(unit) => {
                    let mut is_there = false;
                    for queue in [&mut front, &mut returned, &mut plan] {
                        if let Some(at) = queue.iter().position(|&other| other == unit) {
                            queue.remove(at);
                            is_there = true;
                            break;
                        }
                    }
                    prop_assert_eq!(schedule.contains(unit), is_there);
                    prop_assert_eq!(schedule.promote(unit), is_there);
                    if is_there {
                        front.push_front(unit);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_kept_for_a_new_order_is_its_head(
        untaken in prop::collection::vec(0_u32..4, 0..10),
        order in prop::collection::vec(0_u32..4, 0..6),
        cyclic in any::<bool>(),
    ) {
        let (kept, matched) = matching_head(&untaken, &order, cyclic);
        let units: Vec<u32> =
            untaken.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(unit, _)| *unit).collect();
        let laps = if cyclic { 20 } else { 1 };
        let head: Vec<u32> =
            std::iter::repeat_n(&order, laps).flatten().copied().take(matched).collect();
        prop_assert_eq!(units, head);
    }
}

struct Driver {
    hand: Hand,
    units: Vec<Unit>,
    readahead: Readahead,
    leases: VecDeque<Lease>,
    room: usize,
    // Reads that were told to go wrong.
    spoiled: usize,
}

impl Driver {
    // Unit n lies in file n modulo 2, each on a disk of its own.
    fn new(sizes: &[usize], residents: &[u32], spare: usize, newest_first: bool) -> Self {
        let nbytes = sizes.iter().sum::<usize>() + 1;
        let files = vec![noise(nbytes, 9), noise(nbytes, 10)];
        let hand = Hand::open(files).on_devices(&[3, 1]);
        if newest_first {
            hand.complete_newest_first();
        }
        let mut offset = 1;
        let units: Vec<Unit> = sizes
            .iter()
            .enumerate()
            .map(|(index, &nbytes)| {
                let parts = vec![part(index as u32 % 2, offset, nbytes as u64)];
                offset += nbytes as u64;
                Unit {
                    name: String::new(),
                    parts,
                }
            })
            .collect();
        // Over-read and rounding add up to two grains.
        let largest = sizes.iter().max().unwrap().next_multiple_of(GRAIN) + 2 * GRAIN;
        let room = 3 * largest + spare;
        let options = Options {
            ring_bytes: room,
            request_bytes: 4096,
            queue_depth: 3,
            trace: spare.is_multiple_of(2),
            ..Options::default()
        };
        let readahead = Readahead::new(units.clone(), residents, options, hand.opener()).unwrap();
        Self {
            hand,
            units,
            readahead,
            leases: VecDeque::new(),
            room: room / largest,
            spoiled: 0,
        }
    }

    fn take(&mut self, unit: u32) {
        // One place stays free of leases, so that there is always a way on.
        while self
            .leases
            .iter()
            .filter(|lease| !lease.is_resident())
            .count()
            + 2
            > self.room
        {
            self.leases.pop_front();
        }
        let lease = loop {
            match self.readahead.take(unit) {
                Ok(lease) => break lease,
                // Each fault is seen once at most, and the next take is served.
                Err(Error::Io { .. } | Error::ShortCompletion { .. }) if self.spoiled > 0 => {
                    self.spoiled -= 1;
                }
                Err(other) => panic!("unit {unit}: {other}"),
            }
        };
        self.leases.push_back(lease);
        self.check();
    }

    // Every lease holds its unit, whole.
    fn check(&self) {
        for lease in &self.leases {
            let unit = lease.unit();
            let extent = self.units[unit as usize].parts[0].extent;
            let offset = self.readahead.offsets(unit).unwrap()[0];
            let bytes = &lease.bytes()[offset..offset + extent.nbytes as usize];
            assert!(bytes == self.hand.expected(extent), "unit {unit}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_lease_holds_its_bytes_for_as_long_as_it_lives(
        sizes in prop::collection::vec(1_usize..20_000, 1..9),
        is_resident in prop::collection::vec(prop::bool::weighted(0.3), 9),
        spare in 0_usize..5 * GRAIN,
        newest_first in any::<bool>(),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let count = sizes.len() as u32;
        let residents: Vec<u32> =
            (0..count).filter(|&unit| is_resident[unit as usize]).collect();
        let mut driver = Driver::new(&sizes, &residents, spare, newest_first);
        let order: Vec<u32> = (0..count).collect();
        driver.readahead.schedule(&order, true).unwrap();
        let mut next = 0;
        for step in steps {
            match step {
                Step::TakeNext => {
                    driver.take(next);
                    next = (next + 1) % count;
                }
                Step::TakeSecond => {
                    let second = (next + 1) % count;
                    driver.take(second);
                    next = (second + 1) % count;
                }
                Step::DropOldest => drop(driver.leases.pop_front()),
                Step::DropAll => driver.leases.clear(),
                Step::Demand(unit) => {
                    let unit = unit as u32 % count;
                    driver.readahead.demand(&[unit]).unwrap();
                    driver.take(unit);
                }
                Step::Restart(at) => {
                    next = at as u32 % count;
                    let order: Vec<u32> = (0..count).map(|unit| (unit + next) % count).collect();
                    driver.readahead.schedule(&order, true).unwrap();
                }
                Step::Replace(at, is_taken) => {
                    // Another order, of which nothing or all is taken before the old one is back.
                    let backwards: Vec<u32> = (0..=at as u32 % count).rev().collect();
                    driver.readahead.schedule(&backwards, false).unwrap();
                    for unit in backwards.iter().filter(|_| is_taken) {
                        driver.take(*unit);
                    }
                    driver.readahead.schedule(&order, true).unwrap();
                    next = 0;
                }
                Step::Evict(unit) => {
                    let unit = unit as u32 % count;
                    driver.leases.retain(|lease| lease.unit() != unit);
                    driver.readahead.evict(&[unit]).unwrap();
                }
                Step::Spoil(ahead) => {
                    let fault = if ahead % 2 == 0 { Fault::Fails } else { Fault::Lies };
                    driver.hand.spoil_later(ahead, fault);
                    driver.spoiled += 1;
                }
            }
            driver.check();
        }
        let events = driver.readahead.trace().len() as u64;
        let stats = driver.readahead.stats();
        prop_assert!(events <= stats.requests + stats.takes + stats.waits);
        prop_assert!(stats.units <= stats.takes);
    }
}

#[test]
fn a_unit_promoted_lap_after_lap_still_comes_up() {
    let mut schedule = Schedule::default();
    schedule.replace(vec![0, 4], true, 0);
    for _ in 0..100 {
        assert!(schedule.promote(4));
        assert_eq!(schedule.peek().unwrap().unit, 4);
        schedule.advance();
    }
    assert!(schedule.contains(4));
}

#[test]
fn what_comes_up_is_what_peek_and_advance_show() {
    let mut schedule = Schedule::default();
    schedule.replace(vec![0, 1, 2, 3], true, 2);
    schedule.demand([7, 1]);
    schedule.give_back(6);
    schedule.promote(3);
    let upcoming: Vec<u32> = schedule.upcoming().collect();
    assert_eq!(upcoming, [3, 7, 1, 6, 2, 0, 1]);
    for unit in upcoming {
        assert_eq!(schedule.peek().unwrap().unit, unit);
        schedule.advance();
    }
}

//! The tuner finds what is fast and lets noise pass, without a clock.

use airllm_rs::readahead::tuner::{Epoch, QUEUE_DEPTHS, REQUEST_BYTES, Setting, Tuner};
use proptest::prelude::*;

const MIB: usize = 1 << 20;
const START: Setting = Setting {
    request_bytes: 8 * MIB,
    queue_depth: 8,
};

fn setting(mib: usize, queue_depth: usize) -> Setting {
    Setting {
        request_bytes: mib * MIB,
        queue_depth,
    }
}

// 10^9 bytes a second are bytes a nanosecond.
fn at(gbps: f64) -> Epoch {
    Epoch {
        nbytes: (gbps * 1e8) as u64,
        busy_ns: 100_000_000,
        was_full: true,
    }
}

const NOT_FULL: Epoch = Epoch {
    nbytes: 1 << 27,
    busy_ns: 1 << 30,
    was_full: false,
};

// Feed what a device gives until the tuner settles; the settings it read with.
fn settle(tuner: &mut Tuner, device: impl Fn(Setting) -> f64) -> Vec<Setting> {
    let mut used = Vec::new();
    while !tuner.is_tuned() {
        assert!(used.len() < 500, "no end: {tuner:?}");
        used.push(tuner.setting());
        tuner.note(at(device(tuner.setting())));
    }
    used
}

#[test]
fn the_start_stays_where_nothing_is_faster() {
    let mut tuner = Tuner::new(START, usize::MAX);
    let used = settle(&mut tuner, |_| 2.4);
    assert_eq!((tuner.kept(), tuner.setting()), (START, START));
    // Each of four neighbours once, the start before each.
    assert_eq!(used.len(), 8);
    assert!((tuner.gbps() - 2.4).abs() < 1e-6);
}

#[test]
fn a_device_that_wants_a_deep_queue_gets_one() {
    let mut tuner = Tuner::new(START, usize::MAX);
    settle(&mut tuner, |setting| setting.bytes_in_flight() as f64 / 1e8);
    assert_eq!(tuner.kept(), setting(16, 32));
}

#[test]
fn a_device_that_wants_small_reads_gets_them() {
    let mut tuner = Tuner::new(START, usize::MAX);
    settle(&mut tuner, |setting| 1e7 / setting.request_bytes as f64);
    assert_eq!(tuner.kept().request_bytes, MIB);
}

#[test]
fn no_more_than_allowed_is_ever_in_flight() {
    let mut tuner = Tuner::new(START, 64 * MIB);
    let used = settle(&mut tuner, |setting| setting.bytes_in_flight() as f64 / 1e8);
    assert!(used.iter().all(|used| used.bytes_in_flight() <= 64 * MIB));
}

#[test]
fn a_small_ring_begins_with_small_requests() {
    for (most, first) in [
        (64, setting(8, 8)),
        (63, setting(4, 8)),
        (8, setting(1, 8)),
        (1, setting(1, 8)),
    ] {
        assert_eq!(Tuner::new(START, most * MIB).setting(), first);
    }
}

#[test]
fn a_single_fast_epoch_changes_nothing() {
    let mut tuner = Tuner::new(START, usize::MAX);
    let mut turn = 0;
    while !tuner.is_tuned() {
        let is_lucky = tuner.setting() != START && turn % 4 == 1;
        tuner.note(at(if is_lucky { 5.0 } else { 2.0 }));
        turn += 1;
    }
    assert_eq!(tuner.kept(), START);
}

#[test]
fn a_gain_of_less_than_a_twentieth_is_none() {
    let mut tuner = Tuner::new(START, usize::MAX);
    settle(
        &mut tuner,
        |setting| if setting == START { 2.0 } else { 2.09 },
    );
    assert_eq!(tuner.kept(), START);
}

#[test]
fn epochs_in_which_something_else_was_the_limit_do_not_count() {
    let mut tuner = Tuner::new(START, usize::MAX);
    for _ in 0..100 {
        tuner.note(NOT_FULL);
    }
    assert_eq!(
        (tuner.setting(), tuner.is_tuned(), tuner.gbps()),
        (START, false, 0.0)
    );
    // A rival that never fills its queue is given up, and meanwhile the start is read with.
    tuner.note(at(2.0));
    assert_ne!(tuner.setting(), START);
    let rival = tuner.setting();
    tuner.note(NOT_FULL);
    assert_eq!(tuner.setting(), START);
    tuner.note(at(2.0));
    assert_eq!(tuner.setting(), rival);
    tuner.note(NOT_FULL);
    let rest = settle(&mut tuner, |_| 2.0);
    assert!(!rest.contains(&rival));
}

#[test]
fn where_nothing_can_be_tried_the_rate_is_still_known() {
    let mut tuner = Tuner::new(START, 0);
    assert!(!tuner.is_tuned());
    tuner.note(at(1.5));
    assert!(tuner.is_tuned());
    assert!((tuner.gbps() - 1.5).abs() < 1e-6);
}

#[test]
fn remembered_settings_are_kept_while_the_device_gives_what_it_gave() {
    let remembered = setting(4, 16);
    let mut tuner = Tuner::fixed(remembered, usize::MAX, Some(2.0));
    assert!(tuner.is_tuned());
    for turn in 0..100 {
        // Now and then somebody else reads too.
        tuner.note(at(if turn % 5 == 0 { 0.5 } else { 2.5 }));
        assert_eq!(tuner.setting(), remembered);
    }
}

#[test]
fn a_device_that_gives_something_else_for_long_is_asked_again() {
    for gbps in [1.2, 2.8] {
        let mut tuner = Tuner::fixed(START, usize::MAX, Some(2.0));
        for _ in 0..8 {
            assert!(tuner.is_tuned());
            tuner.note(at(gbps));
        }
        assert!(!tuner.is_tuned());
        settle(&mut tuner, |_| gbps);
        assert!((tuner.gbps() - gbps).abs() < 1e-6);
        // What it gives is what is expected of it from then on.
        for _ in 0..20 {
            tuner.note(at(gbps));
            assert!(tuner.is_tuned());
        }
    }
}

#[test]
fn fixed_settings_without_an_expectation_stay() {
    let mut tuner = Tuner::fixed(START, usize::MAX, None);
    for gbps in 1..50 {
        tuner.note(at(f64::from(gbps)));
    }
    assert_eq!((tuner.setting(), tuner.is_tuned()), (START, false));
    assert!(tuner.gbps() > 40.0);
}

proptest! {
    #[test]
    fn it_settles_on_the_grid_whatever_the_device_does(
        request in 0_usize..40 * MIB,
        depth in 0_usize..70,
        most in 0_usize..1 << 30,
        rates in prop::collection::vec((0.1_f64..10.0, any::<bool>()), 400),
    ) {
        let start = Setting { request_bytes: request, queue_depth: depth };
        let mut tuner = Tuner::new(start, most);
        let on_grid = |setting: Setting| {
            (REQUEST_BYTES.contains(&setting.request_bytes) || setting.request_bytes == request)
                && (QUEUE_DEPTHS.contains(&setting.queue_depth) || setting.queue_depth == depth)
        };
        for (gbps, was_full) in rates {
            tuner.note(Epoch { was_full, ..at(gbps) });
            prop_assert!(on_grid(tuner.setting()));
            let in_flight = tuner.setting().bytes_in_flight();
            prop_assert!(in_flight <= most || in_flight <= start.bytes_in_flight());
        }
        for _ in 0..200 {
            tuner.note(at(2.0));
        }
        prop_assert!(tuner.is_tuned());
    }
}

//! What the model checker explores: two slots, two threads, every interleaving within bounds.

use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::error::Error;
use crate::extent::{Extent, Part};
use crate::io::{Completion, IoEngine, ReadRequest, Waker};
use crate::readahead::bell::Bell;
use crate::readahead::slot::{SlotState, Slots};
use crate::readahead::{Options, Readahead, Source, Unit};

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    // Bugs of this kind show with two or three preemptions; more take hours.
    builder.preemption_bound.get_or_insert(3);
    builder.check(model);
}

#[derive(Default)]
struct Parker {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Parker {
    fn park(&self) {
        let mut woken = self.woken.lock().expect("no thread panics with it");
        while !*woken {
            woken = self.changed.wait(woken).expect("no thread panics with it");
        }
        *woken = false;
    }
}

impl Waker for Parker {
    fn wake(&self) {
        *self.woken.lock().expect("no thread panics with it") = true;
        self.changed.notify_one();
    }
}

#[test]
fn a_place_is_refilled_only_after_its_lease_ended_and_every_release_is_heard() {
    explore(|| {
        let slots = Arc::new(Slots::new(2));
        let bell = Arc::new(Bell::default());
        let parker = Arc::new(Parker::default());
        let memory = Arc::new([UnsafeCell::new(0_u64), UnsafeCell::new(0)]);
        let producer = {
            let (slots, bell) = (Arc::clone(&slots), Arc::clone(&bell));
            let (parker, memory) = (Arc::clone(&parker), Arc::clone(&memory));
            thread::spawn(move || {
                for sequence in 0..3 {
                    let is_free =
                        || sequence < 2 || slots.state(sequence - 2) == SlotState::Released;
                    while !is_free() {
                        bell.arm();
                        if !is_free() {
                            parker.park();
                        }
                        bell.disarm();
                    }
                    let place = (sequence % 2) as usize;
                    slots.open(sequence, 7, place);
                    // SAFETY: the model checker reports whoever else touches the cell.
                    memory[place].with_mut(|value| unsafe { *value = sequence });
                    assert!(slots.publish(sequence));
                }
            })
        };
        for sequence in 0..3 {
            let place = loop {
                match slots.lease(sequence, 7) {
                    Some(place) => break place,
                    None => thread::yield_now(),
                }
            };
            // SAFETY: the model checker reports whoever else touches the cell.
            memory[place].with(|value| assert_eq!(unsafe { *value }, sequence));
            slots.release(sequence);
            if bell.ring() {
                parker.wake();
            }
        }
        producer.join().expect("the producer fills three slots");
    });
}

#[test]
fn an_error_lies_ready_when_the_word_says_failed() {
    explore(|| {
        let slots = Arc::new(Slots::new(2));
        let error = Arc::new(UnsafeCell::new(0));
        slots.open(0, 7, 0);
        let producer = {
            let (slots, error) = (Arc::clone(&slots), Arc::clone(&error));
            thread::spawn(move || {
                // SAFETY: the model checker reports whoever else touches the cell.
                error.with_mut(|value| unsafe { *value = 5 });
                assert!(slots.fail(0));
            })
        };
        if slots.state(0) == SlotState::Failed {
            // SAFETY: the model checker reports whoever else touches the cell.
            error.with(|value| assert_eq!(unsafe { *value }, 5));
        }
        assert_eq!(slots.lease(0, 7), None);
        producer.join().expect("the producer fails the slot");
    });
}

#[test]
fn a_slot_is_either_leased_or_discarded() {
    explore(|| {
        let slots = Arc::new(Slots::new(2));
        slots.open(0, 7, 0);
        assert!(slots.publish(0));
        let taker = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.lease(0, 7).is_some())
        };
        let after = slots.discard(0);
        let is_taken = taker.join().expect("the taker tries once");
        assert_eq!(
            after,
            if is_taken {
                SlotState::Leased
            } else {
                SlotState::Released
            }
        );
    });
}

#[test]
fn a_discarded_fill_is_freed_by_exactly_one_side() {
    explore(|| {
        let slots = Arc::new(Slots::new(2));
        slots.open(0, 7, 0);
        let producer = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.publish(0))
        };
        let after = slots.discard(0);
        let is_published = producer.join().expect("the producer publishes once");
        assert_eq!(
            after,
            if is_published {
                SlotState::Released
            } else {
                SlotState::Discarded
            }
        );
    });
}

// Completes everything at once; only its sleep is of interest.
struct Instant {
    submitted: Vec<ReadRequest>,
    fails: bool,
    parker: std::sync::Arc<Parker>,
}

impl IoEngine for Instant {
    fn name(&self) -> &'static str {
        "instant"
    }

    fn alignment(&self) -> usize {
        1
    }

    fn submit(&mut self, request: ReadRequest) -> Result<(), Error> {
        self.submitted.push(request);
        Ok(())
    }

    fn wait(&mut self, done: &mut Vec<Completion>, _: Option<Duration>) -> Result<(), Error> {
        if self.submitted.is_empty() {
            self.parker.park();
        }
        let fails = self.fails;
        done.extend(self.submitted.drain(..).map(|request| Completion {
            token: request.token,
            result: if fails { Ok(0) } else { Ok(request.needed) },
        }));
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.submitted.len()
    }

    fn waker(&self) -> std::sync::Arc<dyn Waker> {
        std::sync::Arc::clone(&self.parker) as std::sync::Arc<dyn Waker>
    }
}

fn readahead(ring_bytes: usize, fails: bool) -> Readahead {
    let units = (0..2)
        .map(|index| Unit {
            name: index.to_string(),
            parts: vec![Part {
                extent: Extent {
                    file: 0,
                    offset: 0,
                    nbytes: 4096,
                },
                item_size: 1,
            }],
        })
        .collect();
    let options = Options {
        ring_bytes,
        // Two requests a unit: one may be in flight while the other waits.
        request_bytes: 2048,
        queue_depth: 1,
        trace: true,
        ..Options::default()
    };
    let opener = move || {
        let parker = std::sync::Arc::new(Parker::default());
        let engine = Box::new(Instant {
            submitted: Vec::new(),
            fails,
            parker,
        });
        Ok(Source {
            engine,
            identity: Box::new(|| Ok(())),
            devices: Vec::new(),
        })
    };
    Readahead::new(units, &[], options, Box::new(opener)).expect("two units fit")
}

fn explore_whole(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound.get_or_insert(2);
    builder.max_branches = 100_000;
    builder.check(model);
}

#[test]
fn a_waiting_consumer_is_told_and_a_waiting_thread_too() {
    explore_whole(|| {
        let readahead = readahead(4096, false);
        readahead.schedule(&[0, 1], false).expect("both fit");
        for unit in [0, 1] {
            drop(readahead.take(unit).expect("the unit comes"));
        }
        readahead.close();
    });
}

#[test]
fn a_schedule_replaced_while_it_is_read_leads_to_its_units_whole() {
    explore_whole(|| {
        let readahead = readahead(4096, false);
        readahead.schedule(&[0], true).expect("it fits");
        readahead.schedule(&[1, 0], false).expect("both fit");
        for unit in [1, 0] {
            drop(readahead.take(unit).expect("the unit comes"));
        }
        readahead.close();
    });
}

#[test]
fn closing_ends_the_thread_whatever_it_does() {
    explore_whole(|| {
        let readahead = readahead(4096, false);
        readahead.schedule(&[0], true).expect("it fits");
        readahead.close();
        assert!(matches!(readahead.take(0), Err(Error::Closed)));
    });
}

#[test]
fn a_failure_reaches_whoever_waits() {
    explore_whole(|| {
        let readahead = readahead(4096, true);
        readahead.schedule(&[0], false).expect("it fits");
        assert!(readahead.take(0).is_err());
    });
}

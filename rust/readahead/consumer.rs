//! Taking units: at once when the next one is ready, else waiting for it.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::readahead::clock;
use crate::readahead::lease::Lease;
use crate::readahead::shared::Shared;
use crate::readahead::state::{Sight, Target, Thread};
use crate::readahead::stats::Counters;
use crate::readahead::trace::EventKind;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

// Nobody waits for longer; more may be too far for the clock.
const LONGEST_WAIT: Duration = Duration::from_secs(1 << 30);

/// The right to take units. There is one at a time.
pub struct Consumer<'a> {
    shared: &'a Arc<Shared>,
    // The unit that is waited for, over several calls of `wait`, and since when.
    waiting: Option<(u32, u64)>,
}

/// A device that has not answered for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// The file of the oldest read in flight, as an index into the opened files.
    pub file: u32,
    /// How long no read has ended.
    pub lasted: Duration,
}

impl<'a> Consumer<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>) -> Result<Self, Error> {
        shared.refuse_forked()?;
        // Acquire pairs with the Release in `drop`: `expected` is what the last consumer left.
        if shared.consuming.swap(true, Ordering::Acquire) {
            return Err(Error::ConsumerBusy);
        }
        Ok(Self {
            shared,
            waiting: None,
        })
    }

    /// Take the unit if that needs no waiting and no lock: a loaded resident, or what is next.
    pub fn take_ready(&mut self, unit: u32) -> Option<Lease> {
        let shared = self.shared;
        if shared.is_halted() {
            return None;
        }
        if let Some((index, resident)) = shared.catalogue.resident(unit) {
            if !resident.lease() {
                return None;
            }
            Counters::count_alone(&shared.counters.takes);
            let target = Target::Resident(index);
            return Some(Lease::new(shared, unit, resident.place(), target));
        }
        // Relaxed: only the consumer touches them.
        let [plan, other] = [0, 1].map(|guess| shared.expected[guess].load(Ordering::Relaxed));
        self.lease_slot(plan, unit)
            .or_else(|| self.lease_slot(other, unit))
    }

    /// Wait for the unit, for at most `timeout`; `None` when that was too short.
    ///
    /// # Errors
    /// `NotScheduled` at once if nobody asked for the unit, `LeaseHeld` if it has no room because
    /// of leases and nothing else can make any, what went wrong with its reads, or why nothing can
    /// be taken any more.
    pub fn wait(&mut self, unit: u32, timeout: Duration) -> Result<Option<Lease>, Error> {
        let shared = self.shared;
        shared.catalogue.unit(unit)?;
        let started = Instant::now();
        let outcome = self.wait_until(unit, started + timeout.min(LONGEST_WAIT));
        Counters::add_time(&shared.counters.stall_ns, started.elapsed());
        if !matches!(outcome, Ok(None)) {
            self.end_wait();
        }
        outcome
    }

    fn wait_until(&mut self, unit: u32, deadline: Instant) -> Result<Option<Lease>, Error> {
        let shared = self.shared;
        let mut state = shared.lock();
        state.verdict = None;
        let outcome = loop {
            if let Some(halt) = &state.halt {
                break Err(halt.error());
            }
            match state.look(unit, &shared.catalogue) {
                // Nobody but a change of the schedule competes for it, and that takes the lock.
                Sight::Slot(sequence) => break Ok(self.lease_slot(sequence, unit)),
                Sight::Resident(index) => {
                    let resident = &shared.catalogue.residents()[index as usize];
                    if resident.lease() {
                        Counters::count_alone(&shared.counters.takes);
                        let target = Target::Resident(index);
                        let lease = Lease::new(shared, unit, resident.place(), target);
                        let is_waited_for = self.waiting.is_some();
                        break Ok(Some(if is_waited_for { lease.traced() } else { lease }));
                    }
                }
                Sight::Failed(error) => break Err(error),
                Sight::Unknown => {
                    break Err(Error::NotScheduled {
                        unit: shared.catalogue.name(unit),
                    });
                }
                Sight::Coming => {}
                Sight::Pending => {
                    if let Some(verdict) = state.verdict.take() {
                        break Err(verdict);
                    }
                    if state.wanted != Some(unit) {
                        state.wanted = Some(unit);
                        shared.wake();
                    }
                }
            }
            if state.thread == Thread::Absent {
                break Err(Error::EngineFailed {
                    reason: "the thread has ended".to_owned(),
                });
            }
            let now = Instant::now();
            if now >= deadline {
                break Ok(None);
            }
            self.begin_wait(unit);
            state.wanted = Some(unit);
            state = shared
                .changed
                .wait_timeout(state, deadline - now)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        };
        state.wanted = None;
        outcome
    }

    /// The device, if reads are in flight and none has ended for `limit`.
    #[must_use]
    pub fn silence(&self, limit: Duration) -> Option<Silence> {
        let (file, lasted) = self.shared.counters.silence()?;
        (lasted >= limit).then_some(Silence { file, lasted })
    }

    fn lease_slot(&mut self, sequence: u64, unit: u32) -> Option<Lease> {
        let shared = self.shared;
        let place = shared.slots.lease(sequence, unit)?;
        // Relaxed: only the consumer touches them. What comes next follows what was taken last,
        // also for a consumer that passes units over; the other guess is what the latest replaced.
        let [latest, older] = &shared.expected;
        let replaced = latest.load(Ordering::Relaxed);
        if replaced != sequence {
            older.store(replaced, Ordering::Relaxed);
        }
        latest.store(sequence + 1, Ordering::Relaxed);
        Counters::count_alone(&shared.counters.units);
        Counters::count_alone(&shared.counters.takes);
        let target = Target::Slot(sequence);
        Some(Lease::new(shared, unit, shared.ring_start + place, target).traced())
    }

    fn begin_wait(&mut self, unit: u32) {
        if self.waiting.is_some_and(|(other, _)| other != unit) {
            self.end_wait();
        }
        if self.waiting.is_none() {
            Counters::count_alone(&self.shared.counters.waits);
            self.waiting = Some((unit, clock::now_ns()));
        }
    }

    // It ended in a lease or an error, or was given up.
    fn end_wait(&mut self) {
        if let Some((unit, begin_ns)) = self.waiting.take()
            && let Some(trace) = &self.shared.trace
        {
            let nbytes = self.shared.catalogue.nbytes(unit);
            trace.note_use(EventKind::Wait, unit, nbytes, begin_ns);
        }
    }
}

impl Drop for Consumer<'_> {
    fn drop(&mut self) {
        self.end_wait();
        // Pairs with the Acquire in `new`.
        self.shared.consuming.store(false, Ordering::Release);
    }
}

//! Units from disk to memory, ahead of whoever uses them.
//!
//! One thread, `airllm-io`, reads what the schedule says into the slots of a ring and hands each
//! out when it is whole; a consumer takes units in the order of use and drops their leases.
//! Residents are read once into places of their own.

mod bell;
mod catalogue;
mod clock;
mod consumer;
mod lease;
#[cfg(all(test, loom))]
mod loom;
mod options;
mod queue;
mod resident;
pub mod ring;
pub mod schedule;
mod shared;
mod slot;
mod state;
mod stats;
mod touch;
mod trace;
pub mod tuner;
mod window;
mod worker;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

pub use crate::readahead::consumer::{Consumer, Silence};
pub use crate::readahead::lease::Lease;
pub use crate::readahead::options::{Identity, Opener, Options, Source, Unit};
pub use crate::readahead::stats::{DeviceStats, Stats};
pub use crate::readahead::trace::{Event, EventKind};

use crate::arena::Arena;
use crate::error::Error;
use crate::extent::UnitLayout;
use crate::readahead::catalogue::Catalogue;
use crate::readahead::resident::ResidentState;
use crate::readahead::ring::{GRAIN, Ring};
use crate::readahead::shared::Shared;
use crate::readahead::slot::Slots;
use crate::readahead::state::{Halt, State, Thread};
use crate::readahead::touch::Touch;
use crate::readahead::trace::Trace;
use crate::readahead::window::Window;
use crate::readahead::worker::Producer;
use crate::sync::{Arc, Mutex, MutexGuard, thread};

// Units ahead of the consumer, however small they are.
const WINDOW: usize = 1024;
// How long `close` waits for the device.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// How a readahead was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The thread has ended and the files are closed.
    Joined,
    /// The device did not answer in time: the thread and its memory were left behind.
    Detached,
}

/// Reads units ahead of their use.
pub struct Readahead {
    shared: Arc<Shared>,
    options: Options,
    opener: Box<Opener>,
    engine_name: &'static str,
    alignment: usize,
    // Why memory is not locked although it should be.
    unlocked: Option<Error>,
    // Touches the residents' memory until they are all touched, one is given up, or the end.
    touch: Mutex<Option<Touch>>,
    // Locked before the state, where both are.
    worker: Mutex<Worker>,
}

#[derive(Default)]
struct Worker {
    handle: Option<thread::JoinHandle<()>>,
    identity: Option<Arc<Box<Identity>>>,
}

impl Readahead {
    /// Open the files, lay out the units and start loading the residents, in the order given.
    ///
    /// # Errors
    /// When the files cannot be opened, a unit or resident makes no sense, or memory is short.
    pub fn new(
        units: Vec<Unit>,
        residents: &[u32],
        options: Options,
        opener: Box<Opener>,
    ) -> Result<Self, Error> {
        options.check()?;
        let source = opener()?;
        let alignment = source.engine.alignment();
        let units = units
            .into_iter()
            .map(|unit| Ok((unit.name, UnitLayout::new(&unit.parts, alignment)?)))
            .collect::<Result<Vec<_>, Error>>()?;
        let (catalogue, ring_start) = Catalogue::new(units, residents, &source.devices)?;
        let ring_bytes = options.ring_grains();
        let arena_bytes = ring_start
            .checked_add(ring_bytes)
            .ok_or(Error::ArenaTooLarge { needed: u64::MAX })?;
        let window = Window::new(Arc::new(Slots::new(WINDOW)), ring_bytes);
        let state = State::new(window, residents.len());
        let arena = Arena::new(arena_bytes.max(GRAIN))?;
        let unlocked = options.mlock.then(|| arena.lock().err()).flatten();
        let trace = options.trace.then(Trace::new);
        let readahead = Self {
            shared: Arc::new(Shared::new(arena, catalogue, ring_start, state, trace)),
            options,
            opener,
            engine_name: source.engine.name(),
            alignment,
            unlocked,
            touch: Mutex::new(None),
            worker: Mutex::new(Worker::default()),
        };
        readahead.start(&mut readahead.worker(), source)?;
        *readahead.touch() = Touch::start(&readahead.shared.arena, ring_start);
        Ok(readahead)
    }

    /// Read `units` in this order, for ever if `cyclic`; this replaces every earlier wish that is
    /// not in flight. What is in memory or in flight serves as the head of the new order where it
    /// matches. Residents that are loaded are passed over.
    ///
    /// # Errors
    /// When a unit does not exist or is larger than the ring, or a file has changed.
    pub fn schedule(&self, units: &[u32], cyclic: bool) -> Result<(), Error> {
        self.check(units)?;
        let mut worker = self.worker();
        self.ensure_thread(&mut worker)?;
        if let Some(identity) = &worker.identity
            && let Err(error) = identity()
        {
            self.shared.stop(Halt::of_changed_files(&error));
            return Err(error);
        }
        let mut state = self.shared.lock();
        state.replace_schedule(units, cyclic, &self.shared.catalogue);
        drop(state);
        self.shared.changed.notify_all();
        self.shared.wake();
        Ok(())
    }

    /// Read `units` before the rest of the schedule, each for one `take` of its own.
    ///
    /// # Errors
    /// When a unit does not exist or is larger than the ring.
    pub fn demand(&self, units: &[u32]) -> Result<(), Error> {
        self.check(units)?;
        // Held to the end: an eviction in between would leave the units without a thread.
        let mut worker = self.worker();
        self.ensure_thread(&mut worker)?;
        let mut state = self.shared.lock();
        state.schedule.demand(units.iter().copied());
        drop(state);
        self.shared.wake();
        Ok(())
    }

    /// Wait for a unit, however long it takes. See [`Consumer`] for waits that end.
    ///
    /// # Errors
    /// As [`Consumer::wait`], and when somebody else is taking a unit.
    pub fn take(&self, unit: u32) -> Result<Lease, Error> {
        let mut consumer = self.consumer()?;
        if let Some(lease) = consumer.take_ready(unit) {
            return Ok(lease);
        }
        loop {
            if let Some(lease) = consumer.wait(unit, Duration::from_secs(3600))? {
                return Ok(lease);
            }
        }
    }

    /// The right to take units.
    ///
    /// # Errors
    /// When somebody else has it, or in a forked process.
    pub fn consumer(&self) -> Result<Consumer<'_>, Error> {
        Consumer::new(&self.shared)
    }

    /// Give up residents: their pages go back to the kernel, at once or when the reads into them
    /// have ended, and the units are streamed from then on. Units that are no residents are passed
    /// over.
    ///
    /// # Errors
    /// `LeaseHeld`, and nothing is given up, if one of them is leased; as `schedule`, if one is
    /// too large for the ring and the schedule wants it.
    pub fn evict(&self, units: &[u32]) -> Result<(), Error> {
        self.shared.refuse_forked()?;
        // it would take the memory again that is given back here
        drop(self.touch().take());
        let mut worker = self.worker();
        let catalogue = &self.shared.catalogue;
        for &unit in units {
            catalogue.unit(unit)?;
        }
        let mut state = self.shared.lock();
        for &unit in units {
            if state.schedule.contains(unit) {
                self.check_size(unit)?;
            }
        }
        let given_up = state.evict(units, catalogue)?;
        let is_needed = units.iter().any(|&unit| state.schedule.contains(unit));
        drop(state);
        for (resident, was) in given_up {
            let nbytes = catalogue.nbytes(resident.unit());
            match was {
                ResidentState::Loaded => self.shared.counters.forget_resident(nbytes),
                // The I/O thread discards what it still reads.
                ResidentState::Loading => continue,
                _ => {}
            }
            self.shared.discard(resident.place(), nbytes);
        }
        if is_needed {
            self.ensure_thread(&mut worker)?;
        }
        self.shared.wake();
        Ok(())
    }

    /// Where each part of a unit starts in its lease.
    ///
    /// # Errors
    /// When the unit does not exist.
    pub fn offsets(&self, unit: u32) -> Result<Vec<usize>, Error> {
        let unit = self.shared.catalogue.unit(unit)?;
        Ok(unit
            .layout
            .parts()
            .iter()
            .map(|part| part.slot_offset)
            .collect())
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        // In a forked copy a lock may be held by a thread that is not there.
        if self.shared.is_forked() {
            return Stats::default();
        }
        self.shared.counters.sample_memory();
        let mut stats = self.shared.counters.snapshot();
        stats.trace_dropped = self.shared.trace.as_ref().map_or(0, Trace::dropped);
        stats
    }

    /// What was recorded since the last call, by the beginnings of the events; none without
    /// [`Options::trace`].
    #[must_use]
    pub fn trace(&self) -> Vec<Event> {
        // A forked copy has no events of its own, and maybe a lock that nobody opens any more.
        if self.shared.is_forked() {
            return Vec::new();
        }
        self.shared
            .trace
            .as_ref()
            .map_or_else(Vec::new, Trace::drain)
    }

    /// The engine's name.
    #[must_use]
    pub fn engine(&self) -> &'static str {
        self.engine_name
    }

    /// What a unit is called in messages.
    #[must_use]
    pub fn name(&self, unit: u32) -> String {
        self.shared.catalogue.name(unit)
    }

    /// Why the memory is not locked although [`Options::mlock`] asks for it.
    #[must_use]
    pub fn unlocked(&self) -> Option<&Error> {
        self.unlocked.as_ref()
    }

    /// Whether the I/O thread runs; it ends by itself when every unit is a loaded resident.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        !self.shared.is_forked() && self.shared.lock().thread != Thread::Absent
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.is_forked() || matches!(self.shared.lock().halt, Some(Halt::Closed))
    }

    /// All memory: the residents' places, then the ring.
    #[must_use]
    pub fn arena(&self) -> Arc<Arena> {
        Arc::clone(&self.shared.arena)
    }

    /// Stop reading, wait up to a second for what is in flight, end the thread. Leases stay good.
    /// A second call does nothing.
    pub fn close(&self) -> Closed {
        if self.shared.is_forked() {
            return Closed::Joined;
        }
        drop(self.touch().take());
        let mut worker = self.worker();
        self.shared.stop(Halt::Closed);
        self.shared.wake();
        if worker.handle.is_none() {
            return Closed::Joined;
        }
        let deadline = Instant::now() + CLOSE_WAIT;
        let mut state = self.shared.lock();
        while state.thread != Thread::Absent {
            let now = Instant::now();
            if now >= deadline {
                // The thread holds the arena, which is thereby leaked.
                worker.handle = None;
                return Closed::Detached;
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, deadline - now)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        }
        drop(state);
        worker.join();
        Closed::Joined
    }

    fn touch(&self) -> MutexGuard<'_, Option<Touch>> {
        self.touch
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn worker(&self) -> MutexGuard<'_, Worker> {
        self.worker
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn ensure_thread(&self, worker: &mut Worker) -> Result<(), Error> {
        let state = self.shared.lock();
        if let Some(halt) = &state.halt {
            return Err(halt.error());
        }
        if state.thread == Thread::Running || self.shared.catalogue.is_all_loaded() {
            return Ok(());
        }
        drop(state);
        worker.join();
        let source = (self.opener)()?;
        // Of files that were closed meanwhile.
        if let Err(error) = (source.identity)() {
            self.shared.stop(Halt::of_changed_files(&error));
            return Err(error);
        }
        self.start(worker, source)
    }

    fn start(&self, worker: &mut Worker, source: Source) -> Result<(), Error> {
        let alignment = source.engine.alignment();
        if !self.alignment.is_multiple_of(alignment) {
            let reason = format!("alignment {alignment} where it was {}", self.alignment);
            return Err(Error::EngineFailed { reason });
        }
        let identity = Arc::new(source.identity);
        worker.identity = Some(Arc::clone(&identity));
        self.shared.set_waker(Some(source.engine.waker()));
        let shared = Arc::clone(&self.shared);
        let producer = Producer::new(Arc::clone(&shared), source.engine, identity, &self.options);
        self.shared.lock().thread = Thread::Running;
        let spawned = thread::Builder::new()
            .name("airllm-io".to_owned())
            .spawn(move || {
                if catch_unwind(AssertUnwindSafe(|| producer.run())).is_err() {
                    shared.stop(Halt::Panicked);
                }
                shared.lock().thread = Thread::Absent;
                shared.changed.notify_all();
            });
        match spawned {
            Ok(handle) => {
                worker.handle = Some(handle);
                Ok(())
            }
            Err(error) => {
                self.shared.lock().thread = Thread::Absent;
                Err(Error::EngineFailed {
                    reason: format!("no thread: {error}"),
                })
            }
        }
    }

    fn check(&self, units: &[u32]) -> Result<(), Error> {
        self.shared.refuse_forked()?;
        units.iter().try_for_each(|&unit| {
            self.shared.catalogue.unit(unit)?;
            if self.shared.catalogue.resident(unit).is_some() {
                return Ok(());
            }
            self.check_size(unit)
        })
    }

    fn check_size(&self, unit: u32) -> Result<(), Error> {
        let needed = Ring::footprint(self.shared.catalogue.nbytes(unit));
        let ring = self.options.ring_grains();
        if needed > ring {
            return Err(Error::UnitTooLarge {
                unit: self.name(unit),
                needed,
                ring,
            });
        }
        Ok(())
    }
}

impl Worker {
    fn join(&mut self) {
        if let Some(handle) = self.handle.take() {
            // What a panic of the thread means was published by the thread itself.
            let _ = handle.join();
        }
    }
}

impl Drop for Readahead {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Readahead {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Readahead")
            .field("engine", &self.engine_name)
            .field("units", &self.shared.catalogue.units().len())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

//! What the I/O thread, the consumer and the leases hold together.

use crate::arena::Arena;
use crate::error::Error;
use crate::io::Waker;
use crate::readahead::bell::Bell;
use crate::readahead::catalogue::Catalogue;
use crate::readahead::clock;
use crate::readahead::ring::Ring;
use crate::readahead::slot::Slots;
use crate::readahead::state::{Halt, State};
use crate::readahead::stats::Counters;
use crate::readahead::trace::Trace;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::fork;
use crate::sync::{Arc, Condvar, Mutex, MutexGuard};

pub(crate) struct Shared {
    pub(crate) arena: Arc<Arena>,
    pub(crate) catalogue: Catalogue,
    /// Where the ring starts in the arena.
    pub(crate) ring_start: usize,
    pub(crate) slots: Arc<Slots>,
    pub(crate) bell: Bell,
    pub(crate) counters: Counters,
    /// The consumer's guesses of the next sequence number, the latest used first: one for the
    /// plan, one for demands between. Changed by the holder of `consuming`.
    pub(crate) expected: [AtomicU64; 2],
    /// Where everything is recorded, if somebody wants it.
    pub(crate) trace: Option<Trace>,
    /// Somebody is consuming.
    pub(crate) consuming: AtomicBool,
    /// Told whenever the state changed in a way that somebody may wait for.
    pub(crate) changed: Condvar,
    halted: AtomicBool,
    state: Mutex<State>,
    waker: Mutex<Option<std::sync::Arc<dyn Waker>>>,
    forks: u64,
}

impl Shared {
    pub(crate) fn new(
        arena: Arena,
        catalogue: Catalogue,
        ring_start: usize,
        state: State,
        trace: Option<Trace>,
    ) -> Self {
        let slots = Arc::clone(state.window.slots());
        Self {
            arena: Arc::new(arena),
            counters: Counters::new(catalogue.device_count()),
            catalogue,
            ring_start,
            slots,
            bell: Bell::default(),
            expected: [AtomicU64::new(0), AtomicU64::new(0)],
            trace,
            consuming: AtomicBool::new(false),
            changed: Condvar::new(),
            halted: AtomicBool::new(false),
            state: Mutex::new(state),
            waker: Mutex::new(None),
            forks: fork::count(),
        }
    }

    /// The state, also after a thread panicked with it: `halt` says so.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Hand nothing out any more.
    pub(crate) fn stop(&self, reason: Halt) {
        self.lock().stop(reason);
        // Pairs with the Acquire in `is_halted`.
        self.halted.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Whether the quick way is closed; the state says why.
    pub(crate) fn is_halted(&self) -> bool {
        // Pairs with the Release in `stop`.
        self.halted.load(Ordering::Acquire)
    }

    /// Whether this process is a copy without the I/O thread, in which no lock may be touched.
    pub(crate) fn is_forked(&self) -> bool {
        self.forks != fork::count()
    }

    /// An error in a forked copy.
    pub(crate) fn refuse_forked(&self) -> Result<(), Error> {
        if self.is_forked() {
            Err(Error::Forked)
        } else {
            Ok(())
        }
    }

    /// Give the pages of a resident that nobody looks at back to the kernel.
    pub(crate) fn discard(&self, place: usize, nbytes: usize) {
        self.arena.discard(place, Ring::footprint(nbytes));
    }

    pub(crate) fn set_waker(&self, waker: Option<std::sync::Arc<dyn Waker>>) {
        *self
            .waker
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = waker;
    }

    /// Now, if events are recorded, else 0.
    pub(crate) fn trace_ns(&self) -> u64 {
        if self.trace.is_some() {
            clock::now_ns()
        } else {
            0
        }
    }

    /// Wake the I/O thread, if there is one.
    pub(crate) fn wake(&self) {
        let waker = self
            .waker
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(waker) = waker.as_ref() {
            waker.wake();
        }
    }
}

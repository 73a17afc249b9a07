//! Threads of this package, for processes without an OpenMP library: they spin, then park.

use std::hint;
use std::ptr;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::quant::team::Job;
use crate::sync::fork;
// std, not `crate::sync`: the model checker has no statics, and a team is not modelled.
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};

// How long a thread looks for the next job before it parks: longer than the gaps within a layer.
const SPIN: Duration = Duration::from_micros(200);

// `Shared::state` holds the number of the job, whether it may be joined, and who is in it.
const OPEN: u64 = 1 << 16;
const NUMBER: u64 = 1 << 17;
const ACTIVE: u64 = OPEN - 1;

/// Threads that wait for jobs; joined on drop, except in a forked process, which has none.
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    forks: u64,
}

struct Shared {
    state: AtomicU64,
    job: AtomicPtr<Job<'static>>,
    is_closed: AtomicBool,
}

/// Threads that are worth having.
pub(super) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

impl Pool {
    /// Run a job on the pool of this process, or on this thread alone while the pool has another.
    pub(super) fn run_shared(job: &Job<'_>) {
        static POOL: Mutex<Option<Pool>> = Mutex::new(None);
        let mut pool = match POOL.try_lock() {
            Ok(pool) => pool,
            // A panic of a piece is kept in its job, so none leaves the pool half-way.
            Err(TryLockError::Poisoned(pool)) => pool.into_inner(),
            // Somebody's job is running: maybe the one that this call is a piece of. In a forked
            // process the holder may have stayed behind.
            Err(TryLockError::WouldBlock) => return job.take_part(),
        };
        let forks = fork::count();
        if pool.as_ref().is_none_or(|pool| pool.forks != forks) {
            *pool = Some(Self::new(cores() - 1));
        }
        match &*pool {
            Some(pool) => pool.run(job),
            None => job.take_part(),
        }
    }

    /// A pool of so many threads beside the one that brings the jobs, or of fewer where the system
    /// gives no more.
    fn new(others: usize) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: AtomicPtr::new(ptr::null_mut()),
            is_closed: AtomicBool::new(false),
        });
        let spawn = |index| {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name(format!("airllm-team-{index}"))
                .spawn(move || shared.serve())
        };
        let threads = (1..=others).map_while(|index| spawn(index).ok()).collect();
        Self {
            shared,
            threads,
            forks: fork::count(),
        }
    }

    /// Only one call at a time, see `run_shared`.
    fn run(&self, job: &Job<'_>) {
        let shared = &*self.shared;
        let address = ptr::from_ref(job).cast_mut().cast();
        // Relaxed: published by the Release below.
        shared.job.store(address, Ordering::Relaxed);
        // Relaxed: only this side changes the number, and nobody is active between jobs.
        let number = (shared.state.load(Ordering::Relaxed) / NUMBER + 1) * NUMBER;
        // Release: pairs with the Acquire in `join`, which makes the job visible.
        shared.state.store(number | OPEN, Ordering::Release);
        for thread in &self.threads {
            thread.thread().unpark();
        }
        job.take_part();
        // No piece is left. Those who come late stay out; AcqRel orders this after every joining.
        shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut rounds = 0_u32;
        // Acquire: pairs with the Release in `serve`, which makes the results visible.
        while shared.state.load(Ordering::Acquire) & ACTIVE > 0 {
            rounds += 1;
            if rounds.is_multiple_of(1 << 12) {
                thread::yield_now();
            }
            hint::spin_loop();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.forks != fork::count() {
            // The threads stayed in the other process; a handle must not be joined here.
            self.threads.drain(..).for_each(std::mem::forget);
            return;
        }
        // Release: pairs with the Acquire in `serve`.
        self.shared.is_closed.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // A panic of a piece is kept in its job; there is no other.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn serve(&self) {
        let mut seen = 0;
        let mut idle_since = Instant::now();
        let mut rounds = 0_u32;
        loop {
            if let Some(number) = self.join(seen) {
                seen = number;
                // Relaxed: `join` has acquired it.
                let job = self.job.load(Ordering::Relaxed);
                // SAFETY: `run` waits until nobody is active before it lets go of its job, and this
                // thread is active.
                unsafe { &*job }.take_part();
                // Release: pairs with the Acquire in `run`.
                self.state.fetch_sub(1, Ordering::Release);
                idle_since = Instant::now();
                rounds = 0;
                continue;
            }
            // Acquire: pairs with the Release in `drop`.
            if self.is_closed.load(Ordering::Acquire) {
                return;
            }
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(64) && idle_since.elapsed() > SPIN {
                // An unpark between the look above and this is not lost: it makes this return.
                thread::park();
            }
            hint::spin_loop();
        }
    }

    /// Become active in the present job, once in each; its number.
    fn join(&self, seen: u64) -> Option<u64> {
        // Relaxed: acquired below, before anything is used.
        let mut state = self.state.load(Ordering::Relaxed);
        while state & OPEN > 0 && state / NUMBER != seen {
            // Acquire: pairs with the Release in `run`. Active threads keep `run` waiting.
            match self.state.compare_exchange_weak(
                state,
                state + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(state / NUMBER),
                Err(now) => state = now,
            }
        }
        None
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn every_piece_is_done_once_in_many_small_jobs() {
        let pool = Pool::new(3);
        for round in 0..20_000_usize {
            let counts: Vec<_> = (0..round % 7).map(|_| AtomicUsize::new(0)).collect();
            let work = |piece: usize| {
                counts[piece].fetch_add(1, Ordering::Relaxed);
            };
            pool.run(&Job::new(counts.len(), 4, &work));
            assert!(counts.into_iter().all(|count| count.into_inner() == 1));
        }
    }

    #[test]
    fn parked_threads_wake() {
        let pool = Pool::new(2);
        for _ in 0..5 {
            thread::sleep(2 * SPIN);
            let started = std::sync::Barrier::new(3);
            let work = |_: usize| {
                started.wait();
            };
            // hangs unless all three take a piece
            pool.run(&Job::new(3, 3, &work));
        }
    }

    #[test]
    fn a_panic_is_kept_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let failing = Job::new(64, 3, &|piece| assert_ne!(piece, 13));
        pool.run(&failing);
        assert!(failing.panic.into_inner().unwrap().is_some());
        let count = AtomicUsize::new(0);
        let work = |_: usize| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        pool.run(&Job::new(64, 3, &work));
        assert_eq!(count.into_inner(), 64);
    }
}

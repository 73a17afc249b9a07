//! Threads for kernels: torch's own OpenMP team where it is loaded, else a pool of this package.
//!
//! A team that has just computed for torch is still spinning: work given to it starts at once, and
//! no second set of threads competes with it for the cores.

mod openmp;
mod output;
mod pool;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::quant::team::openmp::OpenMp;
pub use crate::quant::team::output::Output;
use crate::quant::team::pool::Pool;
use crate::sync::fork;
// std, not `crate::sync`: the model checker has no statics, and a team is not modelled.
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

// Ranges that the pieces of a job are cut into, one for each thread up to so many.
const RANGES: usize = 64;

/// What threads take their pieces from.
///
/// Each thread begins with a range of its own, so that it reads and writes memory in one stretch,
/// then helps with what is left of the others'.
pub(super) struct Job<'a> {
    /// How many threads have begun.
    begun: AtomicUsize,
    /// The next piece of each range.
    next: [Next; RANGES],
    ranges: usize,
    pieces: usize,
    work: &'a (dyn Fn(usize) + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// On a cache line of its own: each has one thread that changes it, mostly.
#[repr(align(64))]
struct Next(AtomicUsize);

/// Call `work` once with each number below `pieces`, on all threads of the team, and wait.
///
/// `work` may call this again; the inner call then runs on the thread that makes it.
///
/// # Panics
/// If `work` does.
pub fn run(pieces: usize, work: &(dyn Fn(usize) + Sync)) {
    if pieces <= 1 {
        (0..pieces).for_each(work);
        return;
    }
    let openmp = openmp();
    let threads = openmp.map_or_else(pool::cores, OpenMp::threads);
    let job = Job::new(pieces, threads, work);
    match openmp {
        Some(openmp) => openmp.run(&job),
        None => Pool::run_shared(&job),
    }
    if let Some(panic) = job.panic.into_inner().unwrap_or(None) {
        resume_unwind(panic);
    }
}

/// How many threads a team has.
#[must_use]
pub fn threads() -> usize {
    openmp().map_or_else(pool::cores, OpenMp::threads)
}

/// Whether there is an OpenMP team to run on.
#[must_use]
pub fn is_openmp() -> bool {
    openmp().is_some()
}

/// Notice forks from here on.
///
/// A process that was forked before does not know whether it lacks the threads of its team; where
/// torch had computed, it then hangs, in its own products as well as here.
pub fn watch_forks() {
    has_forked();
}

/// The OpenMP team, except in a forked process: its threads stayed behind, and libgomp would wait.
fn openmp() -> Option<OpenMp> {
    if has_forked() { None } else { OpenMp::found() }
}

/// Whether this process was forked since the first call.
fn has_forked() -> bool {
    static FORKS: OnceLock<u64> = OnceLock::new();
    let forks = fork::count();
    *FORKS.get_or_init(|| forks) != forks
}

impl<'a> Job<'a> {
    fn new(pieces: usize, threads: usize, work: &'a (dyn Fn(usize) + Sync)) -> Self {
        let ranges = threads.clamp(1, RANGES);
        Self {
            begun: AtomicUsize::new(0),
            next: std::array::from_fn(|index| Next(AtomicUsize::new(start(index, ranges, pieces)))),
            ranges,
            pieces,
            work,
            panic: Mutex::new(None),
        }
    }

    /// Do pieces until none is left.
    fn take_part(&self) {
        // A panic must cross neither into C nor into the pool.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            // Relaxed: only the count matters; the end of the region orders the results.
            let own = self.begun.fetch_add(1, Ordering::Relaxed);
            for range in own..own + self.ranges {
                self.take(range % self.ranges);
            }
        }));
        if let Err(panic) = outcome
            && let Ok(mut kept) = self.panic.lock()
        {
            kept.get_or_insert(panic);
        }
    }

    /// Do pieces of a range until none is left.
    fn take(&self, range: usize) {
        let end = start(range + 1, self.ranges, self.pieces);
        loop {
            // Relaxed: as above.
            let piece = self.next[range].0.fetch_add(1, Ordering::Relaxed);
            if piece >= end {
                break;
            }
            (self.work)(piece);
        }
    }
}

/// The first piece of a range.
fn start(range: usize, ranges: usize, pieces: usize) -> usize {
    let longer = range.min(pieces % ranges);
    pieces / ranges * range + longer
}

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
pub(crate) use crate::quant::team::output::Output;
use crate::quant::team::pool::Pool;
use crate::sync::fork;
// std, not `crate::sync`: the model checker has no statics, and a team is not modelled.
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

/// What threads take their pieces from.
pub(super) struct Job<'a> {
    next: AtomicUsize,
    pieces: usize,
    work: &'a (dyn Fn(usize) + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

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
    let job = Job {
        next: AtomicUsize::new(0),
        pieces,
        work,
        panic: Mutex::new(None),
    };
    match openmp() {
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

/// The OpenMP team, except in a forked process: its threads stayed behind, and libgomp would wait.
fn openmp() -> Option<OpenMp> {
    static FORKS: OnceLock<u64> = OnceLock::new();
    let forks = fork::count();
    (*FORKS.get_or_init(|| forks) == forks)
        .then(OpenMp::found)
        .flatten()
}

impl Job<'_> {
    /// Do pieces until none is left.
    fn take_part(&self) {
        // A panic must cross neither into C nor into the pool.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            loop {
                // Relaxed: only the count matters; the end of the region orders the results.
                let piece = self.next.fetch_add(1, Ordering::Relaxed);
                if piece >= self.pieces {
                    break;
                }
                (self.work)(piece);
            }
        }));
        if let Err(panic) = outcome
            && let Ok(mut kept) = self.panic.lock()
        {
            kept.get_or_insert(panic);
        }
    }
}

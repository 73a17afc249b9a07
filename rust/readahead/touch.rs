//! Touches the memory of residents ahead of the reads, so that these do not wait for pages.

use std::thread;

use crate::arena::Arena;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::fork;

/// Less memory than this is touched by the reads themselves.
const LEAST: usize = 64 << 20;
// How much is touched between two looks at whether to go on.
const STEP: usize = 8 << 20;

/// A thread that touches memory; dropping this ends it.
pub(crate) struct Touch {
    is_stopped: Arc<AtomicBool>,
    handle: Option<thread::JoinHandle<()>>,
    // In forked children there is no such thread.
    forks: u64,
}

impl Touch {
    /// Touch the first `nbytes` of an arena, if they are many. None where there is no such thread:
    /// that costs time, nothing else.
    pub(crate) fn start(arena: &Arc<Arena>, nbytes: usize) -> Option<Self> {
        if nbytes < LEAST {
            return None;
        }
        let is_stopped = Arc::new(AtomicBool::new(false));
        let (arena, stop) = (Arc::clone(arena), Arc::clone(&is_stopped));
        let spawned = thread::Builder::new()
            .name("airllm-touch".to_owned())
            .spawn(move || {
                for start in (0..nbytes).step_by(STEP) {
                    // Relaxed: only the flag itself matters.
                    let is_stopped = stop.load(Ordering::Relaxed);
                    if is_stopped || !arena.populate(start, STEP.min(nbytes - start)) {
                        break;
                    }
                }
            });
        let handle = Some(spawned.ok()?);
        Some(Self {
            is_stopped,
            handle,
            forks: fork::count(),
        })
    }
}

impl Drop for Touch {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        let handle = self.handle.take();
        if self.forks != fork::count() {
            std::mem::forget(handle);
        } else if let Some(handle) = handle {
            // It cannot panic, and what it did not touch is touched by others.
            let _ = handle.join();
        }
    }
}

//! Whether this process was forked: a copy has the memory but not the threads.

// std, not `crate::sync`: the model checker has no statics, and fork is not modelled.
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

static FORKS: AtomicU64 = AtomicU64::new(0);

/// How often this process and its ancestors were forked since the first call; no system call.
pub(crate) fn count() -> u64 {
    #[cfg(unix)]
    {
        static WATCH: Once = Once::new();
        WATCH.call_once(watch);
    }
    // Relaxed: fork orders everything before it, and the child starts with one thread.
    FORKS.load(Ordering::Relaxed)
}

#[cfg(unix)]
fn watch() {
    extern "C" fn count_one() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the handler is a function of this library, which is never unloaded, and does nothing
    // but an atomic addition, as a handler in a forked child of many threads has to.
    unsafe { libc::pthread_atfork(None, None, Some(count_one)) };
}

//! How far long work is, and whether it is still wanted; looked at from another thread.

use crate::error::{Error, StoreError};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters of what is done. Relaxed, all of them: they guard no memory.
#[derive(Debug, Default)]
pub struct Progress {
    nbytes: AtomicU64,
    made: AtomicU64,
    reused: AtomicU64,
    is_stopped: AtomicBool,
}

impl Progress {
    /// Bytes of the source that are dealt with, or bytes that are verified.
    #[must_use]
    pub fn nbytes(&self) -> u64 {
        self.nbytes.load(Ordering::Relaxed)
    }

    /// Files that were made.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Files that were there already.
    #[must_use]
    pub fn reused(&self) -> u64 {
        self.reused.load(Ordering::Relaxed)
    }

    /// Ask the work to end.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.is_stopped.load(Ordering::Relaxed) {
            return Err(StoreError::Interrupted.into());
        }
        Ok(())
    }

    pub(crate) fn add_bytes(&self, nbytes: u64) {
        self.nbytes.fetch_add(nbytes, Ordering::Relaxed);
    }

    pub(crate) fn take_back(&self, nbytes: u64) {
        self.nbytes.fetch_sub(nbytes, Ordering::Relaxed);
    }

    pub(crate) fn add_made(&self) {
        self.made.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_reused(&self) {
        self.reused.fetch_add(1, Ordering::Relaxed);
    }
}

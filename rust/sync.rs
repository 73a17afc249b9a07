//! Atomics, locks and threads, from std or, under `cfg(loom)`, from the model checker.

pub(crate) mod fork;

#[cfg(loom)]
pub use loom::{
    cell::UnsafeCell,
    sync::{Arc, Condvar, Mutex, MutexGuard, atomic},
    thread,
};
#[cfg(not(loom))]
pub use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, atomic},
    thread,
};

//! Bytes, threads and kernels of `airllm_rs`: weights move from disk to the memory that tensors look at.
//!
//! Each module uses only those before it:
//! `error < dtype < sync < arena < extent < checkpoint < quant < io < store < readahead < python`.

pub mod arena;
pub mod checkpoint;
pub mod dtype;
pub mod error;
pub mod extent;
pub mod io;
pub mod quant;
pub mod readahead;
pub mod store;
pub mod sync;

#[cfg(feature = "python")]
mod python;

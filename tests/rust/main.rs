//! Tests of the crate, one module per subsystem.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod arena;
mod checkpoint;
mod dtype;
mod extent;
mod import_order;
mod io;
mod quant;
mod readahead;

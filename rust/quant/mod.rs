//! Stub.

pub mod encode;
pub mod float;
pub mod scheme;

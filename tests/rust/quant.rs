//! Packed weights.

mod affine;
mod fp8;
mod ggml;
mod noise;

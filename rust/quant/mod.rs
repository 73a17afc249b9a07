//! Packed weights: layouts, the scalar reference, and kernels chosen at run time.
//!
//! A layout says how bytes become numbers; one file per layout holds its readable scalar decoder and
//! the SIMD kernels beside it. Dequantisation is exact: every tier gives the bits of the scalar one.
//! Products of few rows are batch-invariant within a tier: the bits of a row of the result do not
//! depend on how many rows there are, nor on what they hold.

mod affine;
mod arrange;
pub mod attention;
mod blocks;
mod dense;
pub mod dequantize;
pub mod encode;
pub mod float;
mod fp8;
mod ggml;
mod groups;
mod int8;
pub mod layout;
mod lut4;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod product;
pub mod quantize;
pub mod repack;
mod scale;
pub mod scheme;
mod scratch;
mod simd;
mod strips;
mod table8;
pub mod team;
pub mod tier;
pub mod weight;
#[cfg(target_arch = "x86_64")]
mod x86;

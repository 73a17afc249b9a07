//! Weights that are stored as plain numbers.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
pub(crate) mod convert;
pub(crate) mod dot;
#[cfg(target_arch = "x86_64")]
mod tile;

use std::ops::Range;

use crate::quant::dense::convert::convert;
use crate::quant::float::Float;
use crate::quant::layout::Layout;
use crate::quant::tier::Tier;
use crate::quant::weight::Weight;

/// See [`crate::quant::dequantize::write_columns`].
pub(crate) fn write_columns(
    tier: Tier,
    weight: &Weight<'_>,
    row: usize,
    cols: Range<usize>,
    float: Float,
    out: &mut [u8],
) {
    let &Layout::Dense(stored) = weight.layout else {
        unreachable!("dispatched by layout");
    };
    let start = (row * weight.cols + cols.start) * stored.nbytes();
    let bytes = &weight.parts.q[start..start + cols.len() * stored.nbytes()];
    convert(tier, stored, bytes, float, out);
}

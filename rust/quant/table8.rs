//! Bytes that index a table of 256: bitsandbytes' 8-bit blocks.

use std::ops::Range;

use crate::quant::float::{Float, f32_at};
use crate::quant::layout::Layout;
use crate::quant::tier::Tier;
use crate::quant::weight::Weight;

/// See [`crate::quant::dequantize::write_columns`].
pub(crate) fn write_columns(
    _tier: Tier,
    weight: &Weight<'_>,
    row: usize,
    cols: Range<usize>,
    float: Float,
    out: &mut [u8],
) {
    let Layout::Table8(table8) = weight.layout else {
        unreachable!("dispatched by layout");
    };
    let block = table8.block;
    let end = row * weight.cols + cols.end;
    let mut start = row * weight.cols + cols.start;
    let mut out = out.chunks_exact_mut(float.nbytes());
    // blocks run along the flattened tensor, so a row may begin within one
    while start < end {
        let stop = end.min((start / block + 1) * block);
        let absmax = f32_at(weight.parts.scale, start / block);
        for (&code, out) in weight.parts.q[start..stop].iter().zip(&mut out) {
            float.store(table8.codebook[usize::from(code)] * absmax, out);
        }
        start = stop;
    }
}

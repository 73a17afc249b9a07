//! Nibbles that index a table of 16: NF4, FP4, MXFP4, NVFP4, and this package's 4-bit schemes.

use std::ops::Range;

use crate::quant::dequantize::write_rounded;
use crate::quant::float::Float;
use crate::quant::layout::{Layout, Lut4};
use crate::quant::scale::Scales;
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
    let lut4 = layout(weight);
    scalar(lut4, weight, row, cols, float, out);
}

/// The reference: one weight after the other, in two multiplications and a rounding.
fn scalar(
    lut4: &Lut4,
    weight: &Weight<'_>,
    row: usize,
    cols: Range<usize>,
    float: Float,
    out: &mut [u8],
) {
    let scales = Scales::new(weight);
    let block = lut4.block.max(1);
    let start = row * weight.cols;
    let numbers = (start + cols.start..start + cols.end).map(|index| {
        let byte = weight.parts.q[index / 2];
        let is_high = index.is_multiple_of(2) != lut4.low_first;
        let code = if is_high { byte >> 4 } else { byte & 15 };
        lut4.codebook[usize::from(code)] * scales.at(index / block, row)
    });
    write_rounded(float, numbers, out);
}

fn layout<'a>(weight: &Weight<'a>) -> &'a Lut4 {
    let Layout::Lut4(lut4) = weight.layout else {
        unreachable!("dispatched by layout");
    };
    lut4
}

//! Signed bytes times a scale.

use std::ops::Range;

use crate::quant::dequantize::write_rounded;
use crate::quant::float::Float;
use crate::quant::layout::{Int8, Layout};
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
    let int8 = layout(weight);
    scalar(int8, weight, row, cols, float, out);
}

/// The reference: one weight after the other.
fn scalar(
    int8: &Int8,
    weight: &Weight<'_>,
    row: usize,
    cols: Range<usize>,
    float: Float,
    out: &mut [u8],
) {
    let scales = Scales::new(weight);
    let start = row * weight.cols;
    let numbers = (start + cols.start..start + cols.end).map(|index| {
        let code = f32::from(weight.parts.q[index].cast_signed());
        code * scales.at(index / int8.block, row)
    });
    write_rounded(float, numbers, out);
}

fn layout<'a>(weight: &Weight<'a>) -> &'a Int8 {
    let Layout::Int8(int8) = weight.layout else {
        unreachable!("dispatched by layout");
    };
    int8
}

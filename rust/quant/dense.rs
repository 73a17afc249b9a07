//! Weights that are stored as plain numbers.

use std::ops::Range;

use crate::quant::dequantize::write_rounded;
use crate::quant::float::Float;
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
    let &Layout::Dense(stored) = weight.layout else {
        unreachable!("dispatched by layout");
    };
    let start = (row * weight.cols + cols.start) * stored.nbytes();
    let bytes = &weight.parts.q[start..start + cols.len() * stored.nbytes()];
    if stored == float {
        out.copy_from_slice(bytes);
    } else {
        let numbers = (0..cols.len()).map(|index| stored.load(bytes, index));
        write_rounded(float, numbers, out);
    }
}

//! Eight-bit floats, one scale per rectangle.

use std::ops::Range;

use crate::quant::float::Float;
use crate::quant::tier::Tier;
use crate::quant::weight::Weight;

/// See [`crate::quant::dequantize::write_columns`].
pub(crate) fn write_columns(
    _tier: Tier,
    _weight: &Weight<'_>,
    _row: usize,
    _cols: Range<usize>,
    _float: Float,
    _out: &mut [u8],
) {
    todo!()
}

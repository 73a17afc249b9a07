//! Dequantisation: weights as plain numbers, exact to the bit in every tier.

use std::ops::Range;

use crate::error::Error;
use crate::quant::float::Float;
use crate::quant::layout::Layout;
use crate::quant::tier::Tier;
use crate::quant::weight::Weight;
use crate::quant::{affine, dense, fp8, ggml, int8, lut4, table8, team};

// Numbers that a thread takes at a time, about.
const PIECE: usize = 1 << 18;

/// Write `rows` of a weight as numbers of `float`, row-major, to `out`.
///
/// # Errors
/// `OutputSize` when `out` is not exactly as large as that.
///
/// # Panics
/// If the rows are not the weight's.
pub fn dequantize(
    tier: Tier,
    weight: &Weight<'_>,
    rows: Range<usize>,
    float: Float,
    out: &mut [u8],
) -> Result<(), Error> {
    weight.assert_rows(&rows);
    let row_bytes = weight.cols * float.nbytes();
    let needed = rows.len() * row_bytes;
    if out.len() != needed {
        return Err(Error::OutputSize {
            rows: rows.len(),
            row_nbytes: row_bytes,
            found: out.len(),
        });
    }
    if needed == 0 {
        return Ok(());
    }
    let step = (PIECE / weight.cols).max(1);
    let pieces = rows.len().div_ceil(step);
    let out = team::Output::new(out);
    team::run(pieces, &|piece| {
        let taken = piece * step..((piece + 1) * step).min(rows.len());
        // SAFETY: the pieces' rows are apart.
        let out = unsafe { out.part(taken.start * row_bytes..taken.end * row_bytes) };
        let first = rows.start + taken.start;
        for (row, out) in (first..).zip(out.chunks_exact_mut(row_bytes)) {
            write_columns(tier, weight, row, 0..weight.cols, float, out);
        }
    });
    Ok(())
}

/// Write columns `cols` of one row as numbers of `float`.
///
/// `cols` starts at a multiple of 256, and ends at one or with the row. `out` has the size of them.
pub(crate) fn write_columns(
    tier: Tier,
    weight: &Weight<'_>,
    row: usize,
    cols: Range<usize>,
    float: Float,
    out: &mut [u8],
) {
    debug_assert!(cols.start.is_multiple_of(256) && cols.end <= weight.cols && row < weight.rows);
    debug_assert_eq!(out.len(), cols.len() * float.nbytes());
    match weight.layout {
        Layout::Dense(_) => dense::write_columns(tier, weight, row, cols, float, out),
        Layout::Lut4(_) => lut4::write_columns(tier, weight, row, cols, float, out),
        Layout::Int8(_) => int8::write_columns(tier, weight, row, cols, float, out),
        Layout::Fp8(_) => fp8::write_columns(tier, weight, row, cols, float, out),
        Layout::Affine(_) => affine::write_columns(tier, weight, row, cols, float, out),
        Layout::Table8(_) => table8::write_columns(tier, weight, row, cols, float, out),
        Layout::Ggml(_) => ggml::write_columns(tier, weight, row, cols, float, out),
    }
}

/// Round numbers to `float` and write them: the last step of every scalar decoder.
pub(crate) fn write_rounded(float: Float, numbers: impl Iterator<Item = f32>, out: &mut [u8]) {
    for (number, out) in numbers.zip(out.chunks_exact_mut(float.nbytes())) {
        float.store(number, out);
    }
}

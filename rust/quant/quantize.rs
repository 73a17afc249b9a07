//! A matrix encoded into a scheme of this package, its rows on all threads.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::quant::dense::convert::convert;
use crate::quant::encode::{Effort, encode_row};
use crate::quant::float::Float;
use crate::quant::scheme::Scheme;
use crate::quant::scratch;
use crate::quant::team;
use crate::quant::tier::Tier;

/// Numbers of shape (rows, cols), contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Numbers<'a> {
    /// Their dtype.
    pub float: Float,
    /// Rows.
    pub rows: usize,
    /// Columns, whole blocks of the scheme.
    pub cols: usize,
    /// The numbers.
    pub bytes: &'a [u8],
}

/// Where the parts of an encoded matrix go.
#[derive(Debug)]
pub struct Encoded<'a> {
    /// Codes.
    pub q: &'a mut [u8],
    /// Scales.
    pub scale: &'a mut [u8],
    /// An f32 per row; empty for a scheme that has none.
    pub row: &'a mut [u8],
}

/// Encode a matrix; false where a row has a NaN or an infinity, and is left as it was.
///
/// # Errors
/// `ProductShape` when sizes do not fit together.
pub fn encode_matrix(
    scheme: Scheme,
    effort: Effort,
    numbers: Numbers<'_>,
    out: Encoded<'_>,
) -> Result<bool, Error> {
    let Numbers {
        float,
        rows,
        cols,
        bytes,
    } = numbers;
    let (q_bytes, scale_bytes) = (scheme.q_bytes(cols), scheme.scale_bytes(cols));
    let row_bytes = if scheme.has_row() { 4 } else { 0 };
    if !cols.is_multiple_of(scheme.block()) {
        let needed = cols.next_multiple_of(scheme.block());
        return Err(shape("columns of whole blocks", needed, cols));
    }
    for (what, per_row, found) in [
        ("bytes of numbers", cols * float.nbytes(), bytes.len()),
        ("bytes of codes", q_bytes, out.q.len()),
        ("bytes of scales", scale_bytes, out.scale.len()),
        ("bytes of factors of rows", row_bytes, out.row.len()),
    ] {
        if rows.checked_mul(per_row) != Some(found) {
            return Err(shape(what, rows.saturating_mul(per_row), found));
        }
    }
    let (q, scale) = (team::Output::new(out.q), team::Output::new(out.scale));
    let factors = team::Output::new(out.row);
    let is_finite = AtomicBool::new(true);
    let tier = Tier::best();
    team::run(rows, &|index| {
        let given = &bytes[index * cols * float.nbytes()..(index + 1) * cols * float.nbytes()];
        scratch::with(scratch::size::<f32>(cols), |values| {
            convert(tier, float, given, Float::F32, &mut values[..cols * 4]);
            let (values, _) = scratch::split::<f32>(values, cols);
            // SAFETY: each row has parts of its own.
            let q = unsafe { q.part(index * q_bytes..(index + 1) * q_bytes) };
            // SAFETY: as above.
            let scale = unsafe { scale.part(index * scale_bytes..(index + 1) * scale_bytes) };
            // SAFETY: as above.
            let factor = unsafe { factors.part(index * row_bytes..(index + 1) * row_bytes) };
            match encode_row(scheme, effort, values, q, scale) {
                Ok(found) if scheme.has_row() => factor.copy_from_slice(&found.to_le_bytes()),
                Ok(_) => {}
                // Relaxed: the end of the region orders it before the load below
                Err(_) => is_finite.store(false, Ordering::Relaxed),
            }
        });
    });
    // Relaxed: as above.
    Ok(is_finite.load(Ordering::Relaxed))
}

fn shape(what: &'static str, needed: usize, found: usize) -> Error {
    Error::ProductShape {
        what,
        needed,
        found,
    }
}

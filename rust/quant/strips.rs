//! Rows of a weight in strips, as the products of lut4 and int8 take them.

use std::ops::Range;

use crate::quant::groups::Units;
use crate::quant::product::Prepared;
use crate::quant::scale::Scales;
use crate::quant::scratch;
use crate::quant::weight::Weight;

// Rows of a weight whose scales are made at a time.
const STRIP: usize = 8;

/// What kernels are called with.
pub(crate) struct Job<'a> {
    pub(crate) weight: &'a Weight<'a>,
    pub(crate) units: Units,
    pub(crate) rows: Range<usize>,
    pub(crate) x: &'a Prepared<'a>,
}

/// A few rows, in groups of `BYTES` bytes.
pub(crate) struct Strip<'a, const BYTES: usize> {
    /// How many.
    pub(crate) rows: usize,
    /// Bytes of a row.
    pub(crate) stride: usize,
    /// Whole groups.
    pub(crate) q: [&'a [[u8; BYTES]]; STRIP],
    /// The last group, filled up, where there is a part of one.
    pub(crate) tails: Option<[[u8; BYTES]; STRIP]>,
    /// Of each row, filled up by at least 16.
    pub(crate) scales: [&'a [f32]; STRIP],
}

impl<const BYTES: usize> Strip<'_, BYTES> {
    #[inline(always)]
    pub(crate) const fn group_bytes(&self) -> usize {
        BYTES
    }
}

impl Job<'_> {
    /// Call `work` with each strip, and its sums; `cols_in_byte` is 1 or 2.
    #[inline(always)]
    pub(crate) fn strips<const BYTES: usize>(
        &self,
        cols_in_byte: usize,
        sums: &mut [f32],
        mut work: impl FnMut(&Strip<'_, BYTES>, &mut [f32]),
    ) {
        let scales = Scales::new(self.weight);
        let units = self.weight.cols.div_ceil(self.units.cols);
        let stride = units + 16;
        let mut lent = scratch::Lent::new(scratch::size::<f32>(STRIP * stride));
        let (wide, _) = scratch::split::<f32>(lent.bytes(), STRIP * stride);
        wide.fill(0.0);
        let strips = self.rows.clone().step_by(STRIP);
        for (first, sums) in strips.zip(sums.chunks_mut(STRIP * self.x.given.rows)) {
            let rows = STRIP.min(self.rows.end - first);
            // the memory's answer would take longer than the rest of a strip leaves
            scales.fetch(self.units.block, first + STRIP..first + 2 * STRIP);
            for (row, wide) in (first..first + rows).zip(wide.chunks_exact_mut(stride)) {
                scales.fill(self.units, row, 0, &mut wide[..units]);
            }
            let bytes = self.weight.cols / cols_in_byte;
            let mut strip = Strip {
                rows,
                stride: bytes,
                q: [&[]; STRIP],
                tails: (!bytes.is_multiple_of(BYTES)).then_some([[0; BYTES]; STRIP]),
                scales: std::array::from_fn(|row| &wide[row * stride..][..stride]),
            };
            for row in 0..rows {
                let q = &self.weight.parts.q[(first + row) * bytes..][..bytes];
                let (whole, tail) = q.as_chunks();
                strip.q[row] = whole;
                if let Some(tails) = &mut strip.tails {
                    tails[row][..tail.len()].copy_from_slice(tail);
                }
            }
            work(&strip, sums);
        }
    }
}

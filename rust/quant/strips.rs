//! Rows of a weight in strips, as the products of lut4 and int8 take them.

use std::ops::Range;

use crate::quant::float::f32_at;
use crate::quant::groups::Units;
use crate::quant::layout::ScaleKind;
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
    /// The number of the first.
    first: usize,
    /// How many.
    pub(crate) rows: usize,
    /// Bytes of a row.
    pub(crate) stride: usize,
    /// Whole groups.
    pub(crate) q: [&'a [[u8; BYTES]]; STRIP],
    /// The last group, filled up, where there is a part of one.
    pub(crate) tails: Option<[[u8; BYTES]; STRIP]>,
    /// Scales of a row.
    units: usize,
    /// Of each row, filled up by at least 16.
    pub(crate) scales: [&'a [f32]; STRIP],
}

impl<const BYTES: usize> Strip<'_, BYTES> {
    #[inline(always)]
    pub(crate) const fn group_bytes(&self) -> usize {
        BYTES
    }
}

/// One row, as kernels for a single row of activations take it.
pub(crate) struct Lone<'a> {
    /// Its bytes.
    pub(crate) q: &'a [u8],
    /// Its scales, one for each unit.
    pub(crate) scales: LoneScales<'a>,
}

/// The scales of a row.
#[derive(Clone, Copy)]
pub(crate) enum LoneScales<'a> {
    /// As they lie, bytes, and what they are multiplied by.
    Bytes(&'a [u8], f32),
    /// As f32.
    Wide(&'a [f32]),
}

impl Job<'_> {
    /// Write what `work` gives for each row; scales of kind `bytes` come as they lie.
    #[inline(always)]
    pub(crate) fn lone_rows(
        &self,
        cols_in_byte: usize,
        bytes: ScaleKind,
        sums: &mut [f32],
        mut work: impl FnMut(&Lone<'_>) -> f32,
    ) {
        let (weight, units) = (self.weight, self.units);
        let stride = weight.cols / cols_in_byte;
        let q = |row: usize| &weight.parts.q[row * stride..][..stride];
        if weight.layout.scale() != bytes || units.cols != units.block {
            self.strips::<64>(cols_in_byte, sums, |strip, sums| {
                for (row, sum) in sums.iter_mut().enumerate() {
                    let lone = Lone {
                        q: q(strip.first + row),
                        scales: LoneScales::Wide(&strip.scales[row][..strip.units]),
                    };
                    *sum = work(&lone);
                }
            });
            return;
        }
        let count = weight.cols / units.cols;
        let scales = Scales::new(weight);
        for (row, sum) in self.rows.clone().zip(sums) {
            scales.fetch(units.block, row + STRIP..row + STRIP + 1);
            let codes = &weight.parts.scale[row * count..][..count];
            let lone = Lone {
                q: q(row),
                scales: LoneScales::Bytes(codes, f32_at(weight.parts.row, row)),
            };
            *sum = work(&lone);
        }
    }

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
                first,
                rows,
                stride: bytes,
                q: [&[]; STRIP],
                tails: (!bytes.is_multiple_of(BYTES)).then_some([[0; BYTES]; STRIP]),
                units,
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

//! Rows in groups of columns, as the kernels of lut4 and int8 take them.

use std::ops::Range;

use crate::quant::float::Float;
use crate::quant::scale::Scales;
use crate::quant::weight::Weight;

/// Columns that kernels take without a tail.
const GROUP: usize = 64;

// Columns whose scales are made at a time.
const CHUNK: usize = 4096;

/// How the blocks of a weight meet the groups of columns that kernels take.
#[derive(Clone, Copy)]
pub(crate) struct Units {
    /// Columns from a multiple of this on have one scale: 16, 32 or 64.
    pub(crate) cols: usize,
    pub(crate) block: usize,
}

impl Units {
    /// None where a group may have more than four scales: kernels cannot do that.
    pub(crate) fn new(weight: &Weight<'_>, block: usize) -> Option<Self> {
        let is_unit = |cols: &usize| {
            block == weight.cols
                || (block.is_multiple_of(*cols) && weight.cols.is_multiple_of(*cols))
        };
        let cols = [64, 32, 16].into_iter().find(is_unit)?;
        Some(Self { cols, block })
    }
}


/// Part of a row, and what its numbers become.
#[derive(Clone)]
pub(crate) struct Span {
    pub(crate) row: usize,
    pub(crate) cols: Range<usize>,
    pub(crate) float: Float,
}

/// What writes the numbers of a span.
pub(crate) trait Kernel {
    /// Columns in a byte of the part `q`: 1 or 2.
    const COLS_IN_BYTE: usize;

    /// Write whole groups of 64 columns, of which each has 64 / `unit` scales.
    fn write_groups(&self, unit: usize, float: Float, from: (&[u8], &[f32]), out: &mut [u8]);

    /// Write any columns, whatever their scales.
    fn write_plainly(&self, span: Span, out: &mut [u8]);
}

/// Write a span: groups by the kernel, the rest of the row in a copy that is a group, and columns of
/// which some scale is not finite plainly.
pub(crate) fn write<K: Kernel>(
    kernel: &K,
    weight: &Weight<'_>,
    units: Units,
    span: Span,
    out: &mut [u8],
) {
    let all_scales = Scales::new(weight);
    let Span { row, cols, float } = span;
    let size = float.nbytes();
    let mut scales = [0.0; CHUNK / 16];
    let starts = cols.clone().step_by(CHUNK);
    for (start, out) in starts.zip(out.chunks_mut(CHUNK * size)) {
        let end = (start + CHUNK).min(cols.end);
        let scales = &mut scales[..(end - start).div_ceil(units.cols)];
        if !all_scales.fill(units, row, start, scales) {
            let cols = start..end;
            kernel.write_plainly(Span { row, cols, float }, out);
            continue;
        }
        let first = row * weight.cols;
        let q = &weight.parts.q[(first + start) / K::COLS_IN_BYTE..(first + end) / K::COLS_IN_BYTE];
        let whole = (end - start) / GROUP;
        let (q, q_tail) = q.split_at(whole * GROUP / K::COLS_IN_BYTE);
        let (scales, scales_tail) = scales.split_at(whole * GROUP / units.cols);
        let (out, out_tail) = out.split_at_mut(whole * GROUP * size);
        kernel.write_groups(units.cols, float, (q, scales), out);
        if !q_tail.is_empty() {
            let mut padded_q = [0; GROUP];
            padded_q[..q_tail.len()].copy_from_slice(q_tail);
            let mut padded_scales = [0.0; GROUP / 16];
            padded_scales[..scales_tail.len()].copy_from_slice(scales_tail);
            let mut padded_out = [0; GROUP * 4];
            let from = (
                &padded_q[..GROUP / K::COLS_IN_BYTE],
                &padded_scales[..GROUP / units.cols],
            );
            kernel.write_groups(units.cols, float, from, &mut padded_out[..GROUP * size]);
            out_tail.copy_from_slice(&padded_out[..out_tail.len()]);
        }
    }
}

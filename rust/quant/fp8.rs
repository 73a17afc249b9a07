//! Eight-bit floats, one scale per rectangle.

use std::ops::Range;

use crate::quant::dequantize::write_rounded;
use crate::quant::float::{Float, e4m3_to_f32, e5m2_to_f32, e8m0_to_f32};
use crate::quant::layout::{Fp8, Layout, ScaleKind};
use crate::quant::simd::{self, Kernel, Out, Simd};
use crate::quant::tier::Tier;
use crate::quant::weight::Weight;

/// See [`crate::quant::dequantize::write_columns`].
pub(crate) fn write_columns(
    tier: Tier,
    weight: &Weight<'_>,
    row: usize,
    cols: Range<usize>,
    float: Float,
    out: &mut [u8],
) {
    let Layout::Fp8(layout) = weight.layout else {
        unreachable!("dequantize::write_columns matches on the layout")
    };
    let across = weight.cols.div_ceil(layout.block_cols);
    let numbers = Row {
        layout,
        q: &weight.parts.q[row * weight.cols..][..weight.cols],
        scales: weight.parts.scale,
        first_scale: row / layout.block_rows * across,
    };
    let kernel = Columns {
        row: &numbers,
        cols: cols.clone(),
        out: &mut *out,
    };
    if !simd::run(tier, float, kernel) {
        write_rounded(float, cols.map(|col| numbers.number(col)), out);
    }
}

/// A row of a weight.
struct Row<'a> {
    layout: &'a Fp8,
    q: &'a [u8],
    scales: &'a [u8],
    first_scale: usize,
}

impl Row<'_> {
    fn number(&self, col: usize) -> f32 {
        let q = match self.layout.is_e5m2 {
            true => e5m2_to_f32(self.q[col]),
            false => e4m3_to_f32(self.q[col]),
        };
        q * self.scale(col / self.layout.block_cols)
    }

    #[inline(always)]
    fn scale(&self, block: usize) -> f32 {
        let index = self.first_scale + block;
        match self.layout.scale {
            ScaleKind::F32 => Float::F32.load(self.scales, index),
            ScaleKind::F16 => Float::F16.load(self.scales, index),
            ScaleKind::Bf16 => Float::Bf16.load(self.scales, index),
            ScaleKind::E8m0 => e8m0_to_f32(self.scales[index]),
            _ => unreachable!("the layout's scales are a float or E8M0"),
        }
    }
}

struct Columns<'a> {
    row: &'a Row<'a>,
    cols: Range<usize>,
    out: &'a mut [u8],
}

impl Kernel for Columns<'_> {
    #[inline(always)]
    fn run<S: Simd, O: Out>(self, simd: S) {
        match self.row.layout.is_e5m2 {
            true => self.decode::<S, O, true>(simd),
            false => self.decode::<S, O, false>(simd),
        }
    }
}

impl Columns<'_> {
    #[inline(always)]
    fn decode<S: Simd, O: Out, const E5M2: bool>(self, simd: S) {
        let block_cols = self.row.layout.block_cols;
        let mut out = self.out;
        let mut col = self.cols.start;
        let mut block = col / block_cols;
        let mut end = (block + 1) * block_cols;
        while col < self.cols.end {
            let stop = end.min(self.cols.end);
            let scale = simd.splat(self.row.scale(block));
            let (now, later) = out.split_at_mut((stop - col) * (O::CHUNK / 32));
            let (q, last) = self.row.q[col..stop].as_chunks();
            let mut outs = now.chunks_exact_mut(O::CHUNK);
            for (q, out) in q.iter().zip(&mut outs) {
                O::store(simd, numbers::<S, E5M2>(simd, q, scale), out);
            }
            if !last.is_empty() {
                let q = simd::filled_up(last);
                let numbers = numbers::<S, E5M2>(simd, &q, scale);
                O::store_first(simd, numbers, outs.into_remainder());
            }
            (out, col) = (later, stop);
            (block, end) = (block + 1, end.saturating_add(block_cols));
        }
    }
}

#[inline(always)]
fn numbers<S: Simd, const E5M2: bool>(simd: S, q: &[u8; 32], scale: S::Numbers) -> [S::Numbers; 2] {
    let q = simd.bytes(q);
    let [a, b] = match E5M2 {
        true => simd.e5m2(q),
        false => simd.e4m3(q),
    };
    [simd.mul(a, scale), simd.mul(b, scale)]
}

//! Unsigned integers with a scale and a zero point per group of columns.

use std::ops::Range;

use crate::quant::dequantize::write_rounded;
use crate::quant::float::{Float, u32_at};
use crate::quant::layout::{Affine, Layout, Zero};
use crate::quant::simd::{self, COUNT, Kernel, Out, Simd};
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
    let Layout::Affine(layout) = weight.layout else {
        unreachable!("dequantize::write_columns matches on the layout")
    };
    let nbytes = weight.cols * layout.bits / 8;
    let numbers = Row {
        layout,
        q: &weight.parts.q[row * nbytes..][..nbytes],
        scales: weight.parts.scale,
        zeros: weight.parts.zero,
        groups: weight.parts.group,
        first_group: row * weight.cols.div_ceil(layout.group),
    };
    let kernel = Columns {
        row: &numbers,
        cols: cols.clone(),
        out: &mut *out,
    };
    // a group that starts inside of a byte has no kernel: nobody writes one
    let is_odd = layout.bits == 4 && layout.group % 2 == 1 && !layout.has_group_index;
    if is_odd || !simd::run(tier, float, kernel) {
        write_rounded(float, cols.map(|col| numbers.number(col)), out);
    }
}

/// A row of a weight.
struct Row<'a> {
    layout: &'a Affine,
    q: &'a [u8],
    scales: &'a [u8],
    zeros: &'a [u8],
    groups: &'a [u8],
    first_group: usize,
}

impl Row<'_> {
    fn number(&self, col: usize) -> f32 {
        let q = match self.layout.bits {
            4 => self.q[col / 2] >> (col % 2 * 4) & 15,
            _ => self.q[col],
        };
        let (scale, zero) = self.group(self.group_of(col));
        (f32::from(q) - zero) * scale
    }

    fn group_of(&self, col: usize) -> usize {
        match self.layout.has_group_index {
            true => u32_at(self.groups, col) as usize,
            false => col / self.layout.group,
        }
    }

    /// Scale and zero point of a group.
    #[inline(always)]
    fn group(&self, group: usize) -> (f32, f32) {
        let index = self.first_group + group;
        let zero = match self.layout.zero {
            Zero::Fixed(zero) => zero as f32,
            Zero::U8 => f32::from(self.zeros[index]),
            Zero::Float(float) => float.load(self.zeros, index),
        };
        (self.layout.scale.load(self.scales, index), zero)
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
        match (self.row.layout.has_group_index, self.row.layout.bits) {
            (true, 4) => self.scattered::<S, O, 16>(simd),
            (true, _) => self.scattered::<S, O, 32>(simd),
            (false, 4) => self.nibbles::<S, O>(simd),
            (false, _) => self.bytes::<S, O>(simd),
        }
    }
}

impl Columns<'_> {
    #[inline(always)]
    fn nibbles<S: Simd, O: Out>(self, simd: S) {
        let mut out = self.out;
        let mut col = self.cols.start;
        while col < self.cols.end {
            let group = col / self.row.layout.group;
            let end = ((group + 1) * self.row.layout.group).min(self.cols.end);
            let (scale, zero) = self.row.group(group);
            let codes = simd.sub(simd.numbers(&COUNT), simd.splat(zero));
            let table = O::table(simd, simd.mul(codes, simd.splat(scale)));
            let (now, later) = out.split_at_mut((end - col) * (O::CHUNK / 32));
            simd::each_chunk::<O, 16>(&self.row.q[col / 2..end / 2], now, |q, out| {
                O::look_up(simd, table, simd.nibble_pairs(q), out);
            });
            (out, col) = (later, end);
        }
    }

    #[inline(always)]
    fn bytes<S: Simd, O: Out>(self, simd: S) {
        let mut out = self.out;
        let mut col = self.cols.start;
        while col < self.cols.end {
            let group = col / self.row.layout.group;
            let end = ((group + 1) * self.row.layout.group).min(self.cols.end);
            let (scale, zero) = self.row.group(group);
            let (scale, zero) = (simd.splat(scale), simd.splat(zero));
            let (now, later) = out.split_at_mut((end - col) * (O::CHUNK / 32));
            simd::each_chunk::<O, 32>(&self.row.q[col..end], now, |q, out| {
                let codes = simd.unsigned(simd.bytes(q));
                let numbers = codes.map(|codes| simd.mul(simd.sub(codes, zero), scale));
                O::store(simd, numbers, out);
            });
            (out, col) = (later, end);
        }
    }

    /// Columns whose groups are scattered, `N` bytes of codes at a time.
    #[inline(always)]
    fn scattered<S: Simd, O: Out, const N: usize>(self, simd: S) {
        let Range { mut start, end } = self.cols;
        let q = &self.row.q[start * N / 32..end * N / 32];
        simd::each_chunk::<O, N>(q, self.out, |q, out| {
            let mut scales = [0.0; 32];
            let mut zeros = [0.0; 32];
            let cols = start..(start + 32).min(end);
            for ((col, scale), zero) in cols.zip(&mut scales).zip(&mut zeros) {
                (*scale, *zero) = self.row.group(self.row.group_of(col));
            }
            let codes = match N {
                16 => simd.nibble_pairs(simd::fixed(q, 0)),
                _ => simd.bytes(simd::fixed(q, 0)),
            };
            let mut numbers = simd.unsigned(codes);
            for (half, numbers) in numbers.iter_mut().enumerate() {
                let scale = simd.numbers(simd::half(&scales, half));
                let zero = simd.numbers(simd::half(&zeros, half));
                *numbers = simd.mul(simd.sub(*numbers, zero), scale);
            }
            O::store(simd, numbers, out);
            start += 32;
        });
    }
}

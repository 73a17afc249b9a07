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
        cols: weight.cols,
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
    cols: usize,
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

    /// Scales and zero points of all groups of the row.
    fn all_groups(&self) -> Vec<(f32, f32)> {
        let groups = self.cols.div_ceil(self.layout.group);
        (0..groups).map(|group| self.group(group)).collect()
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
            let (q, last) = self.row.q[col / 2..end / 2].as_chunks();
            let mut outs = now.chunks_exact_mut(O::CHUNK);
            for (q, out) in q.iter().zip(&mut outs) {
                O::look_up(simd, table, simd.nibble_pairs(q), out);
            }
            if !last.is_empty() {
                let codes = simd.nibble_pairs(&simd::filled_up(last));
                O::look_up_first(simd, table, codes, outs.into_remainder());
            }
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
            let (scale, zero) = ([simd.splat(scale); 2], [simd.splat(zero); 2]);
            let (now, later) = out.split_at_mut((end - col) * (O::CHUNK / 32));
            let (q, last) = self.row.q[col..end].as_chunks();
            let mut outs = now.chunks_exact_mut(O::CHUNK);
            for (q, out) in q.iter().zip(&mut outs) {
                O::store(simd, numbers(simd, simd.bytes(q), scale, zero), out);
            }
            if !last.is_empty() {
                let codes = simd.bytes(&simd::filled_up(last));
                let numbers = numbers(simd, codes, scale, zero);
                O::store_first(simd, numbers, outs.into_remainder());
            }
            (out, col) = (later, end);
        }
    }

    /// Columns whose groups are scattered, `N` bytes of codes at a time.
    #[inline(always)]
    fn scattered<S: Simd, O: Out, const N: usize>(self, simd: S) {
        let Range { start, end } = self.cols;
        // scales and zero points are wanted once per column: convert them once per group
        let all = self.row.all_groups();
        let q = self.row.q[start * N / 32..end * N / 32].chunks(N);
        let groups = &self.row.groups.as_chunks().0[start..end];
        let groups = groups.chunks(32);
        for ((q, groups), out) in q.zip(groups).zip(self.out.chunks_mut(O::CHUNK)) {
            let mut scale = [0.0; 32];
            let mut zero = [0.0; 32];
            for ((group, scale), zero) in groups.iter().zip(&mut scale).zip(&mut zero) {
                (*scale, *zero) = all[u32::from_le_bytes(*group) as usize];
            }
            let codes = match N {
                16 => simd.nibble_pairs(&simd::filled_up(q)),
                _ => simd.bytes(&simd::filled_up(q)),
            };
            let [scale_a, scale_b] = simd::halves(&scale);
            let [zero_a, zero_b] = simd::halves(&zero);
            let scale = [simd.numbers(scale_a), simd.numbers(scale_b)];
            let zero = [simd.numbers(zero_a), simd.numbers(zero_b)];
            let numbers = numbers(simd, codes, scale, zero);
            match out.len() == O::CHUNK {
                true => O::store(simd, numbers, out),
                false => O::store_first(simd, numbers, out),
            }
        }
    }
}

#[inline(always)]
fn numbers<S: Simd>(
    simd: S,
    codes: S::Bytes,
    scale: [S::Numbers; 2],
    zero: [S::Numbers; 2],
) -> [S::Numbers; 2] {
    let [a, b] = simd.unsigned(codes);
    [
        simd.mul(simd.sub(a, zero[0]), scale[0]),
        simd.mul(simd.sub(b, zero[1]), scale[1]),
    ]
}

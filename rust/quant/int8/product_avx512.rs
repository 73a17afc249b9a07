//! Products with registers of 512 bits.

use std::arch::x86_64::*;

use crate::quant::arrange::{Halves, Numbers, Order};
use crate::quant::strips::{Job, Strip};
use crate::quant::x86::avx2::load_half;
use crate::quant::x86::avx512::{as_bf16, load_f32, load_u16, prefetch};
use crate::quant::x86::{cover, walk};

// Bytes of a row that are asked for ahead.
const AHEAD: usize = 2048;

/// In f32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn numbers(job: &Job<'_>, sums: &mut [f32]) {
    let x = job
        .x
        .arranged
        .numbers(job.x, Order::Plain)
        .as_chunks::<4>()
        .0;
    let groups = x.len() / job.x.given.rows;
    let kernel = Kernel { groups, x };
    job.strips::<64>(1, sums, |strip, sums| {
        cover!(numbers_tile(&kernel, strip), sums, [2 x 8, 4 x 4, 4 x 2, 8 x 1]);
    });
}

/// In bfloat16, summed in f32: every code is one.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) fn halves(job: &Job<'_>, sums: &mut [f32]) {
    let x = job
        .x
        .arranged
        .halves(job.x, Order::Plain)
        .as_chunks::<2>()
        .0;
    let groups = x.len() / job.x.given.rows;
    let kernel = Kernel { groups, x };
    job.strips::<64>(1, sums, |strip, sums| {
        cover!(halves_tile(&kernel, strip), sums, [2 x 8, 4 x 4, 4 x 2, 8 x 1]);
    });
}

struct Kernel<'a, X> {
    /// Of a row of the activations.
    groups: usize,
    x: &'a [X],
}

impl<X> Kernel<'_, X> {
    #[inline(always)]
    fn rows<const WIDTH: usize>(&self, m: usize) -> [&[X]; WIDTH] {
        std::array::from_fn(|row| &self.x[(m + row) * self.groups..][..self.groups])
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn numbers_tile<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Numbers; 4]>,
    strip: &Strip<'_, 64>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let x: [&[[Numbers; 4]]; WIDTH] = kernel.rows(m);
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; ROWS];
    walk!(strip[row..ROWS], x, |q, index, group| {
        let mut parts = [_mm512_setzero_ps(); WIDTH];
        for (place, q) in q.as_chunks::<16>().0.iter().enumerate() {
            let codes = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_half(q)));
            for m in 0..WIDTH {
                let x = load_f32(&x[m][group][place].0);
                parts[m] = _mm512_fmadd_ps(codes, x, parts[m]);
            }
        }
        let scale = _mm512_set1_ps(strip.scales[row + index][group]);
        for m in 0..WIDTH {
            sums[index][m] = _mm512_fmadd_ps(parts[m], scale, sums[index][m]);
        }
    });
    let mut totals = [[0.0; WIDTH]; ROWS];
    for index in 0..ROWS {
        for m in 0..WIDTH {
            totals[index][m] = _mm512_reduce_add_ps(sums[index][m]);
        }
    }
    totals
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn halves_tile<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Halves; 2]>,
    strip: &Strip<'_, 64>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let x: [&[[Halves; 2]]; WIDTH] = kernel.rows(m);
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; ROWS];
    walk!(strip[row..ROWS], x, |q, index, group| {
        let mut parts = [_mm512_setzero_ps(); WIDTH];
        let q = q.as_chunks::<16>().0;
        for place in 0..2 {
            let low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_half(&q[2 * place])));
            let high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_half(&q[2 * place + 1])));
            let codes = _mm512_cvtne2ps_pbh(high, low);
            for m in 0..WIDTH {
                let x = as_bf16(load_u16(&x[m][group][place].0));
                parts[m] = _mm512_dpbf16_ps(parts[m], codes, x);
            }
        }
        let scale = _mm512_set1_ps(strip.scales[row + index][group]);
        for m in 0..WIDTH {
            sums[index][m] = _mm512_fmadd_ps(parts[m], scale, sums[index][m]);
        }
    });
    let mut totals = [[0.0; WIDTH]; ROWS];
    for index in 0..ROWS {
        for m in 0..WIDTH {
            totals[index][m] = _mm512_reduce_add_ps(sums[index][m]);
        }
    }
    totals
}

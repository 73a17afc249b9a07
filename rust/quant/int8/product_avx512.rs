//! Products with registers of 512 bits.

use std::arch::x86_64::*;

use crate::quant::arrange::{Halves, Numbers, Order};
use crate::quant::strips::{Job, Strip};
use crate::quant::x86::avx2::load_half;
use crate::quant::x86::avx512::{as_bf16, load_f32, load_u16, prefetch};
use crate::quant::x86::cover;

// Bytes of a row that are asked for ahead.
const AHEAD: usize = 1024;

/// In f32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn numbers(job: &Job<'_>, sums: &mut [f32]) {
    let x = job.x.arranged.numbers(job.x, Order::Plain).as_chunks::<4>().0;
    let groups = x.len() / job.x.given.rows;
    let kernel = Kernel { groups, x };
    job.strips::<64>(1, sums, |strip, sums| {
        cover!(numbers_tile(&kernel, strip), sums, [2 x 8, 4 x 4, 4 x 2, 8 x 1]);
    });
}

/// In bfloat16, summed in f32: every code is one.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) fn halves(job: &Job<'_>, sums: &mut [f32]) {
    let x = job.x.arranged.halves(job.x, Order::Plain).as_chunks::<2>().0;
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
    let x = kernel.rows::<WIDTH>(m);
    let whole = strip.q[row].len();
    let q: [&[[u8; 64]]; ROWS] = std::array::from_fn(|index| &strip.q[row + index][..whole]);
    let scales: [&[f32]; ROWS] = std::array::from_fn(|index| strip.scales[row + index]);
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; ROWS];
    let step = |sums: &mut [__m512; WIDTH], q: &[u8; 64], scale: f32, x: [&[Numbers; 4]; WIDTH]| {
        let mut parts = [_mm512_setzero_ps(); WIDTH];
        for (place, q) in q.as_chunks::<16>().0.iter().enumerate() {
            let codes = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_half(q)));
            for (part, x) in parts.iter_mut().zip(x) {
                *part = _mm512_fmadd_ps(codes, load_f32(&x[place].0), *part);
            }
        }
        let scale = _mm512_set1_ps(scale);
        for (sum, part) in sums.iter_mut().zip(parts) {
            *sum = _mm512_fmadd_ps(part, scale, *sum);
        }
    };
    let whole_x = x.map(|x| &x[..whole]);
    let whole_scales = scales.map(|scales| &scales[..whole]);
    for group in 0..whole {
        let x = whole_x.map(|x| &x[group]);
        for index in 0..ROWS {
            let q = &q[index][group];
            prefetch(q, AHEAD);
            step(&mut sums[index], q, whole_scales[index][group], x);
        }
    }
    if let Some(tails) = &strip.tails {
        let x = x.map(|x| &x[whole]);
        for index in 0..ROWS {
            step(&mut sums[index], &tails[row + index], scales[index][whole], x);
        }
    }
    sums.map(|row| row.map(|lanes| _mm512_reduce_add_ps(lanes)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn halves_tile<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Halves; 2]>,
    strip: &Strip<'_, 64>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let x = kernel.rows::<WIDTH>(m);
    let whole = strip.q[row].len();
    let q: [&[[u8; 64]]; ROWS] = std::array::from_fn(|index| &strip.q[row + index][..whole]);
    let scales: [&[f32]; ROWS] = std::array::from_fn(|index| strip.scales[row + index]);
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; ROWS];
    let step = |sums: &mut [__m512; WIDTH], q: &[u8; 64], scale: f32, x: [&[Halves; 2]; WIDTH]| {
        let mut parts = [_mm512_setzero_ps(); WIDTH];
        for (place, q) in q.as_chunks::<32>().0.iter().enumerate() {
            let [low, high] = [0, 1].map(|half| {
                let q = load_half(&q.as_chunks::<16>().0[half]);
                _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q))
            });
            let codes = _mm512_cvtne2ps_pbh(high, low);
            for (part, x) in parts.iter_mut().zip(x) {
                *part = _mm512_dpbf16_ps(*part, codes, as_bf16(load_u16(&x[place].0)));
            }
        }
        let scale = _mm512_set1_ps(scale);
        for (sum, part) in sums.iter_mut().zip(parts) {
            *sum = _mm512_fmadd_ps(part, scale, *sum);
        }
    };
    let whole_x = x.map(|x| &x[..whole]);
    let whole_scales = scales.map(|scales| &scales[..whole]);
    for group in 0..whole {
        let x = whole_x.map(|x| &x[group]);
        for index in 0..ROWS {
            let q = &q[index][group];
            prefetch(q, AHEAD);
            step(&mut sums[index], q, whole_scales[index][group], x);
        }
    }
    if let Some(tails) = &strip.tails {
        let x = x.map(|x| &x[whole]);
        for index in 0..ROWS {
            step(&mut sums[index], &tails[row + index], scales[index][whole], x);
        }
    }
    sums.map(|row| row.map(|lanes| _mm512_reduce_add_ps(lanes)))
}

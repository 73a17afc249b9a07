//! Products with registers of 256 bits.

use std::arch::x86_64::*;

use crate::quant::arrange::{Numbers, Order};
use crate::quant::strips::{Job, Strip};
use crate::quant::x86::avx2::{load_f32, load_half, prefetch, total};
use crate::quant::x86::cover;

// Bytes of a row that are asked for ahead.
const AHEAD: usize = 1024;

/// In f32.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn numbers(job: &Job<'_>, sums: &mut [f32]) {
    let x = job.x.arranged.numbers(job.x, Order::Plain).as_chunks::<4>().0;
    let groups = x.len() / job.x.given.rows;
    let kernel = Kernel { groups, x };
    job.strips::<64>(1, sums, |strip, sums| {
        cover!(tile(&kernel, strip), sums, [2 x 4, 4 x 2, 4 x 1]);
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
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Numbers; 4]>,
    strip: &Strip<'_, 64>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let x = kernel.rows::<WIDTH>(m);
    let whole = strip.q[row].len();
    let q: [&[[u8; 64]]; ROWS] = std::array::from_fn(|index| &strip.q[row + index][..whole]);
    let scales: [&[f32]; ROWS] = std::array::from_fn(|index| strip.scales[row + index]);
    let mut sums = [[_mm256_setzero_ps(); WIDTH]; ROWS];
    let step = |sums: &mut [__m256; WIDTH], q: &[u8; 64], scale: f32, x: [&[Numbers; 4]; WIDTH]| {
        let mut parts = [_mm256_setzero_ps(); WIDTH];
        for (place, q) in q.as_chunks::<16>().0.iter().enumerate() {
            let q = load_half(q);
            for (half, q) in [q, _mm_srli_si128::<8>(q)].into_iter().enumerate() {
                let codes = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q));
                for (part, x) in parts.iter_mut().zip(x) {
                    let x = &x[place].0.as_chunks::<8>().0[half];
                    *part = _mm256_fmadd_ps(codes, load_f32(x), *part);
                }
            }
        }
        let scale = _mm256_set1_ps(scale);
        for (sum, part) in sums.iter_mut().zip(parts) {
            *sum = _mm256_fmadd_ps(part, scale, *sum);
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
    sums.map(|row| row.map(|lanes| total(lanes)))
}

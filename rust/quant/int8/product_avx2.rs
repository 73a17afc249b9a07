//! Products with registers of 256 bits.

use std::arch::x86_64::*;

use crate::quant::arrange::{Numbers, Order};
use crate::quant::strips::{Job, Strip};
use crate::quant::x86::avx2::{load_f32, load_half, prefetch, total};
use crate::quant::x86::{cover, walk};

// Bytes of a row that are asked for ahead.
const AHEAD: usize = 1024;

/// In f32.
#[target_feature(enable = "avx2,fma,f16c")]
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
    let x: [&[[Numbers; 4]]; WIDTH] = kernel.rows(m);
    let mut sums = [[_mm256_setzero_ps(); WIDTH]; ROWS];
    walk!(strip[row..ROWS], x, |q, index, group| {
        let mut parts = [_mm256_setzero_ps(); WIDTH];
        for (place, q) in q.as_chunks::<16>().0.iter().enumerate() {
            let q = load_half(q);
            let eights = [q, _mm_srli_si128::<8>(q)];
            for (half, eight) in eights.into_iter().enumerate() {
                let codes = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
                for m in 0..WIDTH {
                    let x = &x[m][group][place].0.as_chunks::<8>().0[half];
                    parts[m] = _mm256_fmadd_ps(codes, load_f32(x), parts[m]);
                }
            }
        }
        let scale = _mm256_set1_ps(strip.scales[row + index][group]);
        for m in 0..WIDTH {
            sums[index][m] = _mm256_fmadd_ps(parts[m], scale, sums[index][m]);
        }
    });
    let mut totals = [[0.0; WIDTH]; ROWS];
    for index in 0..ROWS {
        for m in 0..WIDTH {
            totals[index][m] = total(sums[index][m]);
        }
    }
    totals
}

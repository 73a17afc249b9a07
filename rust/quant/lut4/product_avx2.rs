//! Products with registers of 256 bits.
//!
//! 32 bytes of a row, shifted right by each multiple of four bits, are indices in every f32 lane, of 64
//! columns. The lane `i` of the sums holds the columns from `8 * i` on.

use std::arch::x86_64::*;

use crate::quant::arrange::{Numbers, Order};
use crate::quant::layout::Lut4;
use crate::quant::strips::{Job, Strip};
use crate::quant::x86::avx2::{load, load_f32, prefetch, total};
use crate::quant::x86::{cover, walk};

// Bytes of a row that are asked for ahead.
const AHEAD: usize = 1024;

/// In f32.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn numbers(lut4: &Lut4, job: &Job<'_>, sums: &mut [f32]) {
    let x = (job.x.arranged).numbers(job.x, Order::narrow(lut4.low_first));
    let groups = x.len() / job.x.given.rows / 4;
    let codebook = lut4.codebook.as_chunks::<8>().0;
    let kernel = Kernel {
        codebook: [load_f32(&codebook[0]), load_f32(&codebook[1])],
        spread: match job.units.cols {
            64 => _mm256_setzero_si256(),
            32 => _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1),
            _ => _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3),
        },
        per: 64 / job.units.cols,
        groups,
        x: x.as_chunks::<4>().0,
    };
    job.strips::<32>(2, sums, |strip, sums| {
        cover!(tile(&kernel, strip), sums, [2 x 4, 4 x 2, 4 x 1]);
    });
}

struct Kernel<'a, X> {
    codebook: [__m256; 2],
    /// Which of the scales of a group is that of each lane.
    spread: __m256i,
    /// Scales of a group.
    per: usize,
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

/// The scales of a group, from `first` on, in its lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn scales_of(scales: &[f32], first: usize, spread: __m256i) -> __m256 {
    debug_assert!(first + 8 <= scales.len());
    let scales = scales.as_ptr().wrapping_add(first);
    // SAFETY: strips fill up their scales by 16.
    let scales = unsafe { _mm256_loadu_ps(scales) };
    _mm256_permutevar8x32_ps(scales, spread)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Numbers; 4]>,
    strip: &Strip<'_, 32>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let x: [&[[Numbers; 4]]; WIDTH] = kernel.rows(m);
    let mut sums = [[_mm256_setzero_ps(); WIDTH]; ROWS];
    walk!(strip[row..ROWS], x, |q, index, group| {
        let mut parts = [_mm256_setzero_ps(); WIDTH];
        let codes = load(q);
        // each with the bit that chooses between the halves of the codebook as sign of another
        let indices = [
            (codes, _mm256_slli_epi32::<28>(codes)),
            (
                _mm256_srli_epi32::<4>(codes),
                _mm256_slli_epi32::<24>(codes),
            ),
            (
                _mm256_srli_epi32::<8>(codes),
                _mm256_slli_epi32::<20>(codes),
            ),
            (
                _mm256_srli_epi32::<12>(codes),
                _mm256_slli_epi32::<16>(codes),
            ),
            (
                _mm256_srli_epi32::<16>(codes),
                _mm256_slli_epi32::<12>(codes),
            ),
            (
                _mm256_srli_epi32::<20>(codes),
                _mm256_slli_epi32::<8>(codes),
            ),
            (
                _mm256_srli_epi32::<24>(codes),
                _mm256_slli_epi32::<4>(codes),
            ),
            (_mm256_srli_epi32::<28>(codes), codes),
        ];
        for (place, (index, sign)) in indices.into_iter().enumerate() {
            let code = _mm256_blendv_ps(
                _mm256_permutevar8x32_ps(kernel.codebook[0], index),
                _mm256_permutevar8x32_ps(kernel.codebook[1], index),
                _mm256_castsi256_ps(sign),
            );
            for m in 0..WIDTH {
                let x = &x[m][group][place / 2].0.as_chunks::<8>().0[place % 2];
                parts[m] = _mm256_fmadd_ps(code, load_f32(x), parts[m]);
            }
        }
        let scale = scales_of(strip.scales[row + index], group * kernel.per, kernel.spread);
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

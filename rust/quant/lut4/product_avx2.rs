//! Products with registers of 256 bits.
//!
//! 32 bytes of a row, shifted right by each multiple of four bits, are indices in every f32 lane, of 64
//! columns. The lane `i` of the sums holds the columns from `8 * i` on.

use std::arch::x86_64::*;

use crate::quant::arrange::{Numbers, Order};
use crate::quant::layout::Lut4;
use crate::quant::strips::{Job, Strip};
use crate::quant::x86::avx2::{load, load_f32, prefetch, total};
use crate::quant::x86::cover;

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

struct Kernel<'a> {
    codebook: [__m256; 2],
    /// Which of the scales of a group is that of each lane.
    spread: __m256i,
    /// Scales of a group.
    per: usize,
    /// Of a row of the activations.
    groups: usize,
    x: &'a [[Numbers; 4]],
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_>,
    strip: &Strip<'_, 32>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let x: [&[[Numbers; 4]]; WIDTH] =
        std::array::from_fn(|row| &kernel.x[(m + row) * kernel.groups..][..kernel.groups]);
    let whole = strip.q[row].len();
    let q: [&[[u8; 32]]; ROWS] = std::array::from_fn(|index| &strip.q[row + index][..whole]);
    let scales: [&[f32]; ROWS] = std::array::from_fn(|index| strip.scales[row + index]);
    let mut sums = [[_mm256_setzero_ps(); WIDTH]; ROWS];
    let step = |sums: &mut [__m256; WIDTH], q: &[u8; 32], scales: &[f32], x: [&[Numbers; 4]; WIDTH]| {
        let codes = load(q);
        let mut parts = [_mm256_setzero_ps(); WIDTH];
        // an index, with the bit that chooses between the halves of the codebook as sign in `top`
        let mut nibble = |index: __m256i, top: __m256i, place: usize| {
            let code = _mm256_blendv_ps(
                _mm256_permutevar8x32_ps(kernel.codebook[0], index),
                _mm256_permutevar8x32_ps(kernel.codebook[1], index),
                _mm256_castsi256_ps(top),
            );
            for (part, x) in parts.iter_mut().zip(x) {
                let x = &x[place / 2].0.as_chunks::<8>().0[place % 2];
                *part = _mm256_fmadd_ps(code, load_f32(x), *part);
            }
        };
        nibble(codes, _mm256_slli_epi32::<28>(codes), 0);
        nibble(_mm256_srli_epi32::<4>(codes), _mm256_slli_epi32::<24>(codes), 1);
        nibble(_mm256_srli_epi32::<8>(codes), _mm256_slli_epi32::<20>(codes), 2);
        nibble(_mm256_srli_epi32::<12>(codes), _mm256_slli_epi32::<16>(codes), 3);
        nibble(_mm256_srli_epi32::<16>(codes), _mm256_slli_epi32::<12>(codes), 4);
        nibble(_mm256_srli_epi32::<20>(codes), _mm256_slli_epi32::<8>(codes), 5);
        nibble(_mm256_srli_epi32::<24>(codes), _mm256_slli_epi32::<4>(codes), 6);
        nibble(_mm256_srli_epi32::<28>(codes), codes, 7);
        let scale = match scales.first_chunk() {
            Some(scales) => _mm256_permutevar8x32_ps(load_f32(scales), kernel.spread),
            None => _mm256_setzero_ps(),
        };
        for (sum, part) in sums.iter_mut().zip(parts) {
            *sum = _mm256_fmadd_ps(part, scale, *sum);
        }
    };
    let whole_x = x.map(|x| &x[..whole]);
    for group in 0..whole {
        let x = whole_x.map(|x| &x[group]);
        for index in 0..ROWS {
            let q = &q[index][group];
            prefetch(q, AHEAD);
            step(&mut sums[index], q, &scales[index][group * kernel.per..], x);
        }
    }
    if let Some(tails) = &strip.tails {
        let x = x.map(|x| &x[whole]);
        for index in 0..ROWS {
            let scales = &scales[index][whole * kernel.per..];
            step(&mut sums[index], &tails[row + index], scales, x);
        }
    }
    sums.map(|row| row.map(|lanes| total(lanes)))
}

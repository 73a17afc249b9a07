//! Products with registers of 512 bits.
//!
//! 64 bytes of a row, shifted right by each multiple of four bits, are indices in every lane: of f32
//! lanes, the eight shifts reach 128 columns; of 16-bit lanes, four do. Activations are arranged to
//! match. In either case the f32 lane `i` of the sums holds the columns from `8 * i` on.

use std::arch::x86_64::*;

use crate::quant::arrange::{Halves, Numbers, Order};
use crate::quant::layout::Lut4;
use crate::quant::strips::{Job, Strip};
use crate::quant::x86::avx512::{as_bf16, bf16, load, load_f32, load_u16, load_u32, prefetch};
use crate::quant::x86::cover;

// Bytes of a row that are asked for ahead.
const AHEAD: usize = 1024;

/// In f32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn numbers(lut4: &Lut4, job: &Job<'_>, sums: &mut [f32]) {
    let x = job.x.arranged.numbers(job.x, Order::wide(lut4.low_first));
    let groups = x.len() / job.x.given.rows / 8;
    let kernel = Kernel {
        codebook: _mm512_castps_si512(load_f32(&lut4.codebook)),
        spread: spread(job.units.cols),
        per: 128 / job.units.cols,
        groups,
        x: x.as_chunks::<8>().0,
    };
    job.strips::<64>(2, sums, |strip, sums| {
        cover!(numbers_tile(&kernel, strip), sums, [2 x 8, 4 x 4, 4 x 2, 8 x 1]);
    });
}

/// In bfloat16, summed in f32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) fn halves(lut4: &Lut4, job: &Job<'_>, sums: &mut [f32]) {
    let x = job.x.arranged.halves(job.x, Order::halves(lut4.low_first));
    let groups = x.len() / job.x.given.rows / 4;
    let codebook = load_f32(&lut4.codebook);
    let kernel = Kernel {
        // twice, so that of the five bits of an index only four matter
        codebook: bf16(codebook, codebook),
        spread: spread(job.units.cols),
        per: 128 / job.units.cols,
        groups,
        x: x.as_chunks::<4>().0,
    };
    job.strips::<64>(2, sums, |strip, sums| {
        cover!(halves_tile(&kernel, strip), sums, [2 x 8, 4 x 4, 4 x 2, 8 x 1]);
    });
}

struct Kernel<'a, X> {
    codebook: __m512i,
    /// Which of the scales of a group is that of each lane.
    spread: __m512i,
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

#[inline]
#[target_feature(enable = "avx512f")]
fn spread(unit: usize) -> __m512i {
    load_u32(&std::array::from_fn(|lane| (lane * 8 / unit) as u32))
}

/// The scales of a group, in its lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn scales_of(scales: &[f32], spread: __m512i) -> __m512 {
    match scales.first_chunk() {
        Some(scales) => _mm512_permutexvar_ps(spread, load_f32(scales)),
        None => _mm512_setzero_ps(),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn numbers_tile<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Numbers; 8]>,
    strip: &Strip<'_, 64>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let x = kernel.rows::<WIDTH>(m);
    let whole = strip.q[row].len();
    let q: [&[[u8; 64]]; ROWS] = std::array::from_fn(|index| &strip.q[row + index][..whole]);
    let scales: [&[f32]; ROWS] = std::array::from_fn(|index| strip.scales[row + index]);
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; ROWS];
    let step = |sums: &mut [__m512; WIDTH], q: &[u8; 64], scales: &[f32], x: [&[Numbers; 8]; WIDTH]| {
        let codes = load(q);
        let mut parts = [_mm512_setzero_ps(); WIDTH];
        let mut nibble = |index: __m512i, place: usize| {
            let code = _mm512_permutexvar_ps(index, _mm512_castsi512_ps(kernel.codebook));
            for (part, x) in parts.iter_mut().zip(x) {
                *part = _mm512_fmadd_ps(code, load_f32(&x[place].0), *part);
            }
        };
        nibble(codes, 0);
        nibble(_mm512_srli_epi32::<4>(codes), 1);
        nibble(_mm512_srli_epi32::<8>(codes), 2);
        nibble(_mm512_srli_epi32::<12>(codes), 3);
        nibble(_mm512_srli_epi32::<16>(codes), 4);
        nibble(_mm512_srli_epi32::<20>(codes), 5);
        nibble(_mm512_srli_epi32::<24>(codes), 6);
        nibble(_mm512_srli_epi32::<28>(codes), 7);
        let scale = scales_of(scales, kernel.spread);
        for (sum, part) in sums.iter_mut().zip(parts) {
            *sum = _mm512_fmadd_ps(part, scale, *sum);
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
    sums.map(|row| row.map(|lanes| _mm512_reduce_add_ps(lanes)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn halves_tile<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Halves; 4]>,
    strip: &Strip<'_, 64>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let x = kernel.rows::<WIDTH>(m);
    let whole = strip.q[row].len();
    let q: [&[[u8; 64]]; ROWS] = std::array::from_fn(|index| &strip.q[row + index][..whole]);
    let scales: [&[f32]; ROWS] = std::array::from_fn(|index| strip.scales[row + index]);
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; ROWS];
    let step = |sums: &mut [__m512; WIDTH], q: &[u8; 64], scales: &[f32], x: [&[Halves; 4]; WIDTH]| {
        let codes = load(q);
        let mut parts = [_mm512_setzero_ps(); WIDTH];
        let mut nibble = |index: __m512i, place: usize| {
            let code = as_bf16(_mm512_permutexvar_epi16(index, kernel.codebook));
            for (part, x) in parts.iter_mut().zip(x) {
                *part = _mm512_dpbf16_ps(*part, code, as_bf16(load_u16(&x[place].0)));
            }
        };
        nibble(codes, 0);
        nibble(_mm512_srli_epi16::<4>(codes), 1);
        nibble(_mm512_srli_epi16::<8>(codes), 2);
        nibble(_mm512_srli_epi16::<12>(codes), 3);
        let scale = scales_of(scales, kernel.spread);
        for (sum, part) in sums.iter_mut().zip(parts) {
            *sum = _mm512_fmadd_ps(part, scale, *sum);
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
    sums.map(|row| row.map(|lanes| _mm512_reduce_add_ps(lanes)))
}

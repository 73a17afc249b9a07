//! What the kernels with registers of 512 bits share.

use std::arch::x86_64::*;

use crate::quant::arrange::Numbers;
use crate::quant::blocks::Job;
use crate::quant::float::{Float, e8m0_to_f32};
use crate::quant::ggml::six_bits;
use crate::quant::layout::{Affine, Fp8, ScaleKind, Zero};
use crate::quant::simd::COUNT;
use crate::quant::x86::avx2;
use crate::quant::x86::avx512::{load, load_f32, load_u32, prefetch};

/// Bytes that are asked for ahead.
const AHEAD: usize = 1536;

/// Activations in an order, and what a kernel looks up.
pub(super) struct Kernel<'a, X> {
    pub(super) job: &'a Job<'a>,
    /// Of all rows.
    pub(super) x: &'a [X],
    /// Sums, a line for each block.
    pub(super) sums: &'a [Numbers],
    pub(super) table: [__m512i; 4],
}

impl<'a, X> Kernel<'a, X> {
    /// The bytes of a row.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &'a [u8] {
        &self.job.q[row * self.job.stride..][..self.job.stride]
    }

    /// Rows of the activations from `m` on, so many items of each.
    #[inline(always)]
    pub(super) fn x<const WIDTH: usize>(&self, m: usize, count: usize) -> [&'a [X]; WIDTH] {
        let per_row = self.x.len() / self.job.x.given.rows;
        std::array::from_fn(|row| &self.x[(m + row) * per_row..][..count])
    }

    /// The same of the sums.
    #[inline(always)]
    pub(super) fn sums<const WIDTH: usize>(
        &self,
        m: usize,
        count: usize,
    ) -> [&'a [Numbers]; WIDTH] {
        let per_row = self.sums.len() / self.job.x.given.rows;
        std::array::from_fn(|row| &self.sums[(m + row) * per_row..][..count])
    }
}

/// Ask for what comes after a few more blocks, in this row or the next.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn ahead(block: &[u8]) {
    for line in 0..block.len().div_ceil(64) {
        prefetch(block, AHEAD + 64 * line);
    }
}

/// A binary16 in all lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn half(bytes: [u8; 2]) -> __m512 {
    _mm512_cvtph_ps(_mm256_set1_epi16(i16::from_le_bytes(bytes)))
}

/// Two binary16 in turn in all lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn two_halves(bytes: [u8; 4]) -> __m512 {
    _mm512_cvtph_ps(_mm256_set1_epi32(i32::from_le_bytes(bytes)))
}

/// Eight scales of a block of `Q4_K`, then as many minima.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn scales_and_minima(both: [u8; 4], bytes: &[u8]) -> __m512 {
    let by = load_u32(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]);
    let by = _mm512_permutexvar_ps(by, two_halves(both));
    let bits = u128::from_le_bytes(six_bits(bytes)).cast_signed();
    let codes = _mm_set_epi64x((bits >> 64) as i64, bits as i64);
    _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes)), by)
}

/// In the lower half of the lanes the number at one place, in the upper that at another.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn two_of(numbers: __m512, low: u32, high: u32) -> __m512 {
    let index = std::array::from_fn(|lane| if lane < 8 { low } else { high });
    _mm512_permutexvar_ps(load_u32(&index), numbers)
}

/// In each quarter of the lanes the number at `first` and the next ones.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn four_of(numbers: __m512, first: u32) -> __m512 {
    let index = std::array::from_fn(|lane| first + lane as u32 / 4);
    _mm512_permutexvar_ps(load_u32(&index), numbers)
}

/// The 128 codes of a half of a block of `Q6_K`, 64 and 64.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn six_bit_codes(low: &[u8; 64], high: &[u8; 32]) -> [__m512i; 2] {
    let low = load(low);
    let high = avx2::load(high);
    let by = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi16(2));
    let high = _mm512_srlv_epi16(_mm512_broadcast_i64x4(high), by);
    let nibble = _mm512_set1_epi8(15);
    let two = _mm512_set1_epi8(0x30);
    let first = _mm512_and_si512(low, nibble);
    let second = _mm512_and_si512(_mm512_srli_epi16::<4>(low), nibble);
    [
        _mm512_or_si512(first, _mm512_and_si512(_mm512_slli_epi16::<4>(high), two)),
        _mm512_or_si512(second, _mm512_and_si512(high, two)),
    ]
}

/// Scales of a block of `Q6_K`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn sixteen_scales(codes: &[u8; 16], by: [u8; 2]) -> __m512 {
    let codes = _mm512_cvtepi8_epi32(avx2::load_half(codes));
    _mm512_mul_ps(_mm512_cvtepi32_ps(codes), half(by))
}

/// Codes of a group less its zero point, and the scale.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn group_of(affine: &Affine, job: &Job<'_>, index: usize) -> (__m512, f32) {
    let zero = match affine.zero {
        Zero::Fixed(zero) => zero as f32,
        _ => f32::from(job.weight.parts.zero[index]),
    };
    let codes = load_f32(&COUNT);
    let scale = affine.scale.load(job.weight.parts.scale, index);
    (_mm512_sub_ps(codes, _mm512_set1_ps(zero)), scale)
}

/// The scale of a block of a row.
#[inline(always)]
pub(super) fn scale_of(fp8: &Fp8, job: &Job<'_>, row: usize, block: usize) -> f32 {
    let across = job.weight.cols.div_ceil(fp8.block_cols);
    let index = (job.first + row) / fp8.block_rows * across + block;
    let scales = job.weight.parts.scale;
    match fp8.scale {
        ScaleKind::F16 => Float::F16.load(scales, index),
        ScaleKind::Bf16 => Float::Bf16.load(scales, index),
        ScaleKind::E8m0 => e8m0_to_f32(scales[index]),
        _ => Float::F32.load(scales, index),
    }
}

/// The product of codes with the activations in their lines: `line => code` each.
macro_rules! parts {
    ($add:ident, $x:ident[$block:expr], $width:ident, [$($line:expr => $code:expr),* $(,)?]) => {{
        let mut parts = [_mm512_setzero_ps(); $width];
        $(
            let code = $code;
            for (part, x) in parts.iter_mut().zip(&$x) {
                *part = $add(*part, code, &x[$block][$line]);
            }
        )*
        parts
    }};
}
pub(super) use parts;

/// Add parts times a scale to sums.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn add<const WIDTH: usize>(
    sums: &mut [__m512; WIDTH],
    parts: [__m512; WIDTH],
    scale: __m512,
) {
    for (sum, part) in sums.iter_mut().zip(parts) {
        *sum = _mm512_fmadd_ps(part, scale, *sum);
    }
}

/// Add minima times the sums of the activations.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn add_minima<const WIDTH: usize>(
    sums: &mut [__m512; WIDTH],
    minima: __m512,
    of: &[&[Numbers]; WIDTH],
    block: usize,
) {
    for (sum, of) in sums.iter_mut().zip(of) {
        *sum = _mm512_fmadd_ps(minima, load_f32(&of[block].0), *sum);
    }
}

/// Sums of the lanes of both.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn totals<const ROWS: usize, const WIDTH: usize>(
    sums: [[__m512; WIDTH]; 2],
) -> [[f32; WIDTH]; ROWS] {
    let mut totals = [0.0; WIDTH];
    for (total, (a, b)) in totals.iter_mut().zip(sums[0].into_iter().zip(sums[1])) {
        *total = _mm512_reduce_add_ps(_mm512_add_ps(a, b));
    }
    [totals; ROWS]
}

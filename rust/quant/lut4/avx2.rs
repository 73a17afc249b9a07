//! Dequantisation with registers of 256 bits.
//!
//! To 16 bits, what is looked up are products `codebook * scale` that are rounded already, as two
//! tables: of their lower and of their upper bytes.

use std::arch::x86_64::*;

use crate::quant::float::Float;
use crate::quant::layout::Lut4;
use crate::quant::x86::avx2::{load_f32, load_half, round_bf16, store};

/// Write whole groups of 64 columns, with 64 / `unit` scales each.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn write_groups(
    lut4: &Lut4,
    unit: usize,
    float: Float,
    (q, scales): (&[u8], &[f32]),
    out: &mut [u8],
) {
    match (float, unit) {
        (Float::Bf16, 64) => halves::<1, false>(lut4, q, scales, out),
        (Float::Bf16, 32) => halves::<2, false>(lut4, q, scales, out),
        (Float::Bf16, _) => halves::<4, false>(lut4, q, scales, out),
        (Float::F16, 64) => halves::<1, true>(lut4, q, scales, out),
        (Float::F16, 32) => halves::<2, true>(lut4, q, scales, out),
        (Float::F16, _) => halves::<4, true>(lut4, q, scales, out),
        (Float::F32, 64) => singles::<1>(lut4, q, scales, out),
        (Float::F32, 32) => singles::<2>(lut4, q, scales, out),
        (Float::F32, _) => singles::<4>(lut4, q, scales, out),
    }
}

/// To numbers of 16 bits, with `PER` scales in a group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn halves<const PER: usize, const IS_F16: bool>(
    lut4: &Lut4,
    q: &[u8],
    scales: &[f32],
    out: &mut [u8],
) {
    let codes = lut4.codebook.as_chunks::<4>().0;
    let eight = |first: [f32; 4], second: [f32; 4]| {
        let [a, b, c, d] = first;
        let [e, f, g, h] = second;
        load_f32(&[a, b, c, d, e, f, g, h])
    };
    let codebook = if IS_F16 {
        [eight(codes[0], codes[1]), eight(codes[2], codes[3])]
    } else {
        // so that packing within halves brings them in order
        [eight(codes[0], codes[2]), eight(codes[1], codes[3])]
    };
    let spread = spread();
    let groups = q.as_chunks::<32>().0.iter().zip(scales.as_chunks::<PER>().0);
    for ((q, scales), out) in groups.zip(out.as_chunks_mut::<128>().0) {
        let tables = scales.map(|scale| table::<IS_F16>(codebook, scale));
        let parts = q.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<64>().0);
        for (part, (q, out)) in parts.enumerate() {
            let [low, high] = if PER == 4 {
                // the second half of the columns has a table of its own
                let (first, second) = (tables[2 * part % PER], tables[(2 * part + 1) % PER]);
                [0, 1].map(|byte| _mm256_blend_epi32::<0xf0>(first[byte], second[byte]))
            } else {
                tables[part * PER / 2]
            };
            let index = indices(q, spread, lut4.low_first);
            let (low, high) = (
                _mm256_shuffle_epi8(low, index),
                _mm256_shuffle_epi8(high, index),
            );
            let (first, second) = (
                _mm256_unpacklo_epi8(low, high),
                _mm256_unpackhi_epi8(low, high),
            );
            let ordered = [
                _mm256_permute2x128_si256::<0x20>(first, second),
                _mm256_permute2x128_si256::<0x31>(first, second),
            ];
            for (numbers, out) in ordered.into_iter().zip(out.as_chunks_mut::<32>().0) {
                store(numbers, out);
            }
        }
    }
}

/// The rounded products of the codebook with a scale: their lower and upper bytes, each twice.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn table<const IS_F16: bool>(codebook: [__m256; 2], scale: f32) -> [__m256i; 2] {
    let scale = _mm256_set1_ps(scale);
    let products = codebook.map(|codes| _mm256_mul_ps(codes, scale));
    // the lower bytes of eight entries, then their upper ones, in both halves
    let split = if IS_F16 {
        let bytes = _mm256_setr_epi8(
            0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, //
            0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15,
        );
        let [first, second] = products.map(|eight| {
            _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(eight)
        });
        _mm256_shuffle_epi8(_mm256_set_m128i(second, first), bytes)
    } else {
        let bytes = _mm256_setr_epi8(
            2, 6, 10, 14, 2, 6, 10, 14, 3, 7, 11, 15, 3, 7, 11, 15, //
            2, 6, 10, 14, 2, 6, 10, 14, 3, 7, 11, 15, 3, 7, 11, 15,
        );
        let [first, second] =
            products.map(|eight| _mm256_shuffle_epi8(round_bf16(eight), bytes));
        _mm256_blend_epi32::<0b1010_1010>(first, second)
    };
    [
        _mm256_permute4x64_epi64::<0b10_00_10_00>(split),
        _mm256_permute4x64_epi64::<0b11_01_11_01>(split),
    ]
}

/// To f32, with `PER` scales in a group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn singles<const PER: usize>(lut4: &Lut4, q: &[u8], scales: &[f32], out: &mut [u8]) {
    let [first, second] = [0, 1].map(|half| load_f32(&lut4.codebook.as_chunks::<8>().0[half]));
    let spread = spread();
    let groups = q.as_chunks::<32>().0.iter().zip(scales.as_chunks::<PER>().0);
    for ((q, scales), out) in groups.zip(out.as_chunks_mut::<256>().0) {
        let parts = q.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<128>().0);
        for (part, (q, out)) in parts.enumerate() {
            let index = indices(q, spread, lut4.low_first);
            let (low, high) = (
                _mm256_castsi256_si128(index),
                _mm256_extracti128_si256::<1>(index),
            );
            let eights = [
                low,
                _mm_srli_si128::<8>(low),
                high,
                _mm_srli_si128::<8>(high),
            ];
            for (eight, (index, out)) in eights.iter().zip(out.as_chunks_mut::<32>().0).enumerate()
            {
                let index = _mm256_cvtepu8_epi32(*index);
                // three bits are looked at; the fourth chooses between the halves of the codebook
                let is_second = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index));
                let codes = _mm256_blendv_ps(
                    _mm256_permutevar8x32_ps(first, index),
                    _mm256_permutevar8x32_ps(second, index),
                    is_second,
                );
                let scale = _mm256_set1_ps(scales[(2 * part + eight / 2) * PER / 4]);
                store(_mm256_castps_si256(_mm256_mul_ps(codes, scale)), out);
            }
        }
    }
}

/// Each byte twice, eight bytes to a half.
#[inline]
#[target_feature(enable = "avx2")]
fn spread() -> __m256i {
    _mm256_setr_epi8(
        0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, //
        8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15,
    )
}

/// The codes of 32 columns, in order.
#[inline]
#[target_feature(enable = "avx2")]
fn indices(q: &[u8; 16], spread: __m256i, low_first: bool) -> __m256i {
    let bytes = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load_half(q)), spread);
    let shifted = _mm256_srli_epi16::<4>(bytes);
    // of each pair of bytes, one shows its upper nibble
    let uppers = _mm256_set1_epi16(if low_first { -0x100 } else { 0xff });
    let mixed = _mm256_blendv_epi8(bytes, shifted, uppers);
    _mm256_and_si256(mixed, _mm256_set1_epi8(15))
}


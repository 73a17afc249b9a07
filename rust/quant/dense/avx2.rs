//! Sixteen numbers at a time, in two registers: loads, stores, conversions, and dot products in f32.

use std::arch::x86_64::{
    __m256, _CMP_UNORD_Q, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T0, _mm_add_ps, _mm_loadu_si128,
    _mm_movehl_ps, _mm_movelh_ps, _mm_prefetch, _mm_setzero_ps, _mm_storeu_ps, _mm_storeu_si128,
    _mm_unpackhi_ps, _mm_unpacklo_ps, _mm256_add_epi32, _mm256_add_ps, _mm256_and_si256,
    _mm256_blendv_epi8, _mm256_castps_si256, _mm256_castps256_ps128, _mm256_castsi256_ps,
    _mm256_castsi256_si128, _mm256_cmp_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_cvtps_ph,
    _mm256_extractf128_ps, _mm256_extracti128_si256, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_packus_epi32, _mm256_permute4x64_epi64, _mm256_set1_epi32, _mm256_setzero_ps,
    _mm256_slli_epi32, _mm256_srli_epi32, _mm256_storeu_ps,
};

use crate::quant::dense::convert::{BF16, F16, nbytes};
use crate::quant::dense::dot::{Lanes, Rows};
use crate::quant::dense::tile::kernels;

/// Sixteen numbers.
pub(crate) type Pair = [__m256; 2];

/// The eight numbers at `from`, widened.
///
/// # Safety
/// There are eight.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_eight<const FROM: u8>(from: *const u8) -> __m256 {
    match FROM {
        F16 => {
            // SAFETY: eight of two bytes, as the caller promises.
            let halves = unsafe { _mm_loadu_si128(from.cast()) };
            _mm256_cvtph_ps(halves)
        }
        BF16 => {
            // SAFETY: as above.
            let halves = unsafe { _mm_loadu_si128(from.cast()) };
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
        }
        // SAFETY: eight of four bytes, as the caller promises.
        _ => unsafe { _mm256_loadu_ps(from.cast()) },
    }
}

/// The sixteen numbers at `from`, widened.
///
/// # Safety
/// There are sixteen.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn load<const FROM: u8>(from: *const u8) -> Pair {
    // SAFETY: the first half of what the caller promises.
    let low = unsafe { load_eight::<FROM>(from) };
    // SAFETY: the second half.
    let high = unsafe { load_eight::<FROM>(from.wrapping_add(8 * const { nbytes(FROM) })) };
    [low, high]
}

/// Write sixteen numbers, rounded to nearest even.
///
/// # Safety
/// There is room for them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn store<const TO: u8>(to: *mut u8, [low, high]: Pair) {
    let upper = to.wrapping_add(8 * const { nbytes(TO) });
    let (first, second) = match TO {
        F16 => (
            _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(low),
            _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(high),
        ),
        BF16 => {
            // packs 128-bit halves apart
            let packed = _mm256_packus_epi32(bf16_bits(low), bf16_bits(high));
            let packed = _mm256_permute4x64_epi64::<0xd8>(packed);
            (
                _mm256_castsi256_si128(packed),
                _mm256_extracti128_si256::<1>(packed),
            )
        }
        _ => {
            // SAFETY: room for sixteen of four bytes, as the caller promises.
            unsafe { _mm256_storeu_ps(to.cast(), low) };
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(upper.cast(), high) };
            return;
        }
    };
    // SAFETY: room for sixteen of two bytes, as the caller promises.
    unsafe { _mm_storeu_si128(to.cast(), first) };
    // SAFETY: as above.
    unsafe { _mm_storeu_si128(upper.cast(), second) };
}

/// As `float::f32_to_bf16`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn bf16_bits(numbers: __m256) -> std::arch::x86_64::__m256i {
    let bits = _mm256_castps_si256(numbers);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, bias));
    let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(numbers, numbers));
    _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), is_nan)
}

/// Convert whole groups of sixteen; how many numbers that were.
///
/// # Safety
/// `from` and `to` have `count` items.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn convert<const FROM: u8, const TO: u8>(
    from: *const u8,
    to: *mut u8,
    count: usize,
) -> usize {
    let whole = count / 16 * 16;
    for index in (0..whole).step_by(16) {
        let source = from.wrapping_add(index * const { nbytes(FROM) });
        // SAFETY: sixteen items from `index` on are within `count`.
        let numbers = unsafe { load::<FROM>(source) };
        let target = to.wrapping_add(index * const { nbytes(TO) });
        // SAFETY: as above.
        unsafe { store::<TO>(target, numbers) };
    }
    whole
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_f32(from: *const u8) -> Pair {
    // SAFETY: sixteen of four bytes, as the caller promises.
    unsafe { load::<{ crate::quant::dense::convert::F32 }>(from) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_add(weights: Pair, x: Pair, sums: Pair) -> Pair {
    [
        _mm256_fmadd_ps(weights[0], x[0], sums[0]),
        _mm256_fmadd_ps(weights[1], x[1], sums[1]),
    ]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn zero() -> Pair {
    [_mm256_setzero_ps(); 2]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_lanes(from: *const Lanes) -> Pair {
    // SAFETY: lanes are sixteen f32, valid as the caller promises.
    unsafe { load_f32(from.cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn store_lanes(to: *mut Lanes, sums: Pair) {
    // SAFETY: as in `load_lanes`.
    unsafe { store::<{ crate::quant::dense::convert::F32 }>(to.cast(), sums) };
}

/// See `dot::add_up`, four at a time; how many that were.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn add_up(lanes: &[Lanes], sums: &mut [f32]) -> usize {
    let (lanes, _) = lanes.as_chunks::<4>();
    let (sums, _) = sums.as_chunks_mut::<4>();
    for (lanes, sums) in lanes.iter().zip(&mut *sums) {
        let mut fours = [_mm_setzero_ps(); 4];
        for (four, lanes) in fours.iter_mut().zip(lanes) {
            // SAFETY: a reference is valid.
            let [low, high] = unsafe { load_lanes(lanes) };
            let eight = _mm256_add_ps(low, high);
            *four = _mm_add_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
        }
        let two = |a, b| _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
        let (first, second) = (two(fours[0], fours[1]), two(fours[2], fours[3]));
        let all = _mm_add_ps(_mm_movelh_ps(first, second), _mm_movehl_ps(second, first));
        // SAFETY: there are four sums.
        unsafe { _mm_storeu_ps(sums.as_mut_ptr(), all) };
    }
    4 * sums.len()
}

kernels! {
    features: "avx2,fma,f16c",
    zero: zero,
    at_a_time: 16,
    x_nbytes: 4,
    load_x: load_f32,
    alone: 0,
    shapes: [(4, 1), (2, 1), (1, 1), (2, 2), (1, 2)],
}

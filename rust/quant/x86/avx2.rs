//! Registers of 256 bits.

use std::arch::x86_64::*;

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load(from: &[u8; 32]) -> __m256i {
    // SAFETY: the array is as large as the register.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load_half(from: &[u8; 16]) -> __m128i {
    // SAFETY: the array is as large as the register.
    unsafe { _mm_loadu_si128(from.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load_f32(from: &[f32; 8]) -> __m256 {
    // SAFETY: the array is as large as the register.
    unsafe { _mm256_loadu_ps(from.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn store(register: __m256i, to: &mut [u8; 32]) {
    // SAFETY: the array is as large as the register.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), register) }
}

/// Numbers rounded to bfloat16, in the upper halves; wrong for NaN.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn round_bf16(numbers: __m256) -> __m256i {
    let bits = _mm256_castps_si256(numbers);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    _mm256_add_epi32(bits, half)
}

/// Sixteen numbers as bfloat16, in order; wrong for NaN.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn bf16(low: __m256, high: __m256) -> __m256i {
    let low = _mm256_srli_epi32::<16>(round_bf16(low));
    let high = _mm256_srli_epi32::<16>(round_bf16(high));
    // packed within halves, so the quarters come as 0 2 1 3
    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high))
}

/// Sixteen numbers as binary16, in order.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(crate) fn f16(low: __m256, high: __m256) -> __m256i {
    let low = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(low);
    let high = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(high);
    _mm256_set_m128i(high, low)
}

/// The sum of the lanes, in one order.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn total(lanes: __m256) -> f32 {
    let halves = _mm_add_ps(
        _mm256_castps256_ps128(lanes),
        _mm256_extractf128_ps::<1>(lanes),
    );
    let pairs = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
    _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)))
}

/// Ask for the line that begins `ahead` bytes after these.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn prefetch(line: &[u8], ahead: usize) {
    let address = line.as_ptr().wrapping_add(ahead).cast();
    _mm_prefetch::<_MM_HINT_T0>(address);
}

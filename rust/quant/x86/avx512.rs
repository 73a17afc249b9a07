//! Registers of 512 bits.

use std::arch::x86_64::*;

#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load(from: &[u8; 64]) -> __m512i {
    // SAFETY: the array is as large as the register.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load_u16(from: &[u16; 32]) -> __m512i {
    // SAFETY: the array is as large as the register.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load_u32(from: &[u32; 16]) -> __m512i {
    // SAFETY: the array is as large as the register.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load_f32(from: &[f32; 16]) -> __m512 {
    // SAFETY: the array is as large as the register.
    unsafe { _mm512_loadu_ps(from.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store(register: __m512i, to: &mut [u8; 64]) {
    // SAFETY: the array is as large as the register.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), register) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store_f32(register: __m512, to: &mut [f32; 16]) {
    // SAFETY: the array is as large as the register.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), register) }
}

/// Numbers rounded to bfloat16, in the upper halves; wrong for NaN.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn round_bf16(numbers: __m512) -> __m512i {
    let bits = _mm512_castps_si512(numbers);
    let is_odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x1_0000));
    let down = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
    _mm512_mask_add_epi32(down, is_odd, down, _mm512_set1_epi32(1))
}

/// Where the upper halves of two registers' lanes are, for `vpermt2w`.
const UPPER_HALVES: [u16; 32] = {
    let mut index = [0; 32];
    let mut lane = 0;
    while lane < 32 {
        index[lane] = 2 * lane as u16 + 1;
        lane += 1;
    }
    index
};

/// Thirty-two numbers as bfloat16, in order; wrong for NaN.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) fn bf16(low: __m512, high: __m512) -> __m512i {
    let index = load_u16(&UPPER_HALVES);
    _mm512_permutex2var_epi16(round_bf16(low), index, round_bf16(high))
}

/// Thirty-two numbers as binary16, in order.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn f16(low: __m512, high: __m512) -> __m512i {
    let low = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(low);
    let high = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(high);
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// Ask for the line that begins `ahead` bytes after these, which is a hint and may be anywhere.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn prefetch(line: &[u8], ahead: usize) {
    let address = line.as_ptr().wrapping_add(ahead).cast();
    _mm_prefetch::<_MM_HINT_T0>(address);
}

/// The same bits.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn as_bf16(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without meaning of their own.
    unsafe { std::mem::transmute(bits) }
}

//! Sixteen numbers at a time: loads, stores, conversions, and dot products in f32.

use std::arch::x86_64::{
    __m512, __m512i, _CMP_UNORD_Q, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T0,
    _mm_prefetch, _mm256_loadu_si256, _mm256_storeu_si256, _mm512_add_epi32, _mm512_and_si512,
    _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_cvtepi32_epi16,
    _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_cvtps_ph, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_mask_mov_epi32, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_slli_epi32,
    _mm512_srli_epi32, _mm512_storeu_ps,
};

use crate::quant::dense::convert::{BF16, F16, nbytes};
use crate::quant::dense::dot::{Lanes, Rows};
use crate::quant::dense::tile::kernels;

/// The sixteen numbers at `from`, widened.
///
/// # Safety
/// There are sixteen.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(crate) unsafe fn load<const FROM: u8>(from: *const u8) -> __m512 {
    match FROM {
        F16 => {
            // SAFETY: sixteen of two bytes, as the caller promises.
            let halves = unsafe { _mm256_loadu_si256(from.cast()) };
            _mm512_cvtph_ps(halves)
        }
        BF16 => {
            // SAFETY: as above.
            let halves = unsafe { _mm256_loadu_si256(from.cast()) };
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        }
        // SAFETY: sixteen of four bytes, as the caller promises.
        _ => unsafe { _mm512_loadu_ps(from.cast()) },
    }
}

/// Write sixteen numbers, rounded to nearest even.
///
/// # Safety
/// There is room for them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(crate) unsafe fn store<const TO: u8>(to: *mut u8, numbers: __m512) {
    match TO {
        F16 => {
            let halves =
                _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(numbers);
            // SAFETY: room for sixteen of two bytes, as the caller promises.
            unsafe { _mm256_storeu_si256(to.cast(), halves) };
        }
        BF16 => {
            let halves = _mm512_cvtepi32_epi16(bf16_bits(numbers));
            // SAFETY: as above.
            unsafe { _mm256_storeu_si256(to.cast(), halves) };
        }
        // SAFETY: room for sixteen of four bytes, as the caller promises.
        _ => unsafe { _mm512_storeu_ps(to.cast(), numbers) },
    }
}

/// As `float::f32_to_bf16`: the processor's own conversion takes subnormal numbers for zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(crate) fn bf16_bits(numbers: __m512) -> __m512i {
    let bits = _mm512_castps_si512(numbers);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, bias));
    let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(numbers, numbers);
    _mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7fc0))
}

/// Convert whole groups of sixteen; how many numbers that were.
///
/// # Safety
/// `from` and `to` have `count` items.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn load_f32(from: *const u8) -> __m512 {
    // SAFETY: sixteen of four bytes, as the caller promises.
    unsafe { _mm512_loadu_ps(from.cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn multiply_add(weights: __m512, x: __m512, sums: __m512) -> __m512 {
    _mm512_fmadd_ps(weights, x, sums)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn load_lanes(from: *const Lanes) -> __m512 {
    // SAFETY: lanes are sixteen f32, valid as the caller promises.
    unsafe { _mm512_loadu_ps(from.cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn store_lanes(to: *mut Lanes, sums: __m512) {
    // SAFETY: as in `load_lanes`.
    unsafe { _mm512_storeu_ps(to.cast(), sums) };
}

kernels! {
    features: "avx512f,avx512bw,avx512vl,avx512dq",
    zero: _mm512_setzero_ps,
    at_a_time: 16,
    x_nbytes: 4,
    load_x: load_f32,
    alone: 0,
    shapes: [(8, 1), (4, 1), (1, 1), (4, 2), (1, 2), (4, 3), (1, 3), (4, 4), (1, 4)],
}

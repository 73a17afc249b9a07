//! Dot products of bfloat16 numbers, in pairs, summed in f32.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_dpbf16_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_setzero_ps, _mm512_storeu_ps,
};

use crate::quant::dense::convert::nbytes;
use crate::quant::dense::dot::{Lanes, Rows};
use crate::quant::dense::tile::kernels;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn load_bf16(from: *const u8) -> __m512bh {
    // SAFETY: 32 of two bytes, as the caller promises.
    let numbers = unsafe { _mm512_loadu_si512(from.cast()) };
    // SAFETY: both are 64 bytes of which every value is valid.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(numbers) }
}

// Weights are bfloat16 too, whatever `FROM` says; it is there because other kernels have it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn load<const FROM: u8>(from: *const u8) -> __m512bh {
    // SAFETY: as the caller promises.
    unsafe { load_bf16(from) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn multiply_add(weights: __m512bh, x: __m512bh, sums: __m512) -> __m512 {
    _mm512_dpbf16_ps(sums, weights, x)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn load_lanes(from: *const Lanes) -> __m512 {
    // SAFETY: lanes are sixteen f32, valid as the caller promises.
    unsafe { _mm512_loadu_ps(from.cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn store_lanes(to: *mut Lanes, sums: __m512) {
    // SAFETY: as in `load_lanes`.
    unsafe { _mm512_storeu_ps(to.cast(), sums) };
}

kernels! {
    features: "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16",
    zero: _mm512_setzero_ps,
    at_a_time: 32,
    x_nbytes: 2,
    load_x: load_bf16,
    // weights in one stretch come from memory faster than from several, but for what it costs to load
    // long activations again and again
    alone: 4096,
    shapes: [(8, 1), (1, 1), (4, 2), (1, 2), (4, 3), (1, 3), (4, 4), (1, 4)],
}

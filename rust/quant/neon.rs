//! What kernels for AArch64 share: loads, stores and conversions of whole registers.

use std::arch::aarch64::*;

use crate::quant::float::f32_to_f16;

#[inline]
pub(crate) fn load(from: &[u8; 16]) -> uint8x16_t {
    // SAFETY: the array is as large as the register.
    unsafe { vld1q_u8(from.as_ptr()) }
}

#[inline]
fn store(register: uint8x16_t, to: &mut [u8; 16]) {
    // SAFETY: the array is as large as the register.
    unsafe { vst1q_u8(to.as_mut_ptr(), register) };
}

/// Write sixteen numbers.
#[inline]
pub(crate) fn store_f32(numbers: [float32x4_t; 4], out: &mut [u8]) {
    for (numbers, out) in numbers.into_iter().zip(out.as_chunks_mut().0) {
        store(vreinterpretq_u8_f32(numbers), out);
    }
}

/// Write sixteen numbers, rounded one by one: conversions to binary16 are not stable.
#[inline]
pub(crate) fn store_f16(numbers: [float32x4_t; 4], out: &mut [u8]) {
    let mut singles = [0; 64];
    store_f32(numbers, &mut singles);
    for (single, out) in singles.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        *out = f32_to_f16(f32::from_le_bytes(*single)).to_le_bytes();
    }
}

/// Write sixteen numbers, rounded; wrong for NaN.
#[inline]
pub(crate) fn store_bf16(numbers: [float32x4_t; 4], out: &mut [u8]) {
    let [a, b, c, d] = numbers.map(|numbers| {
        let bits = vreinterpretq_u32_f32(numbers);
        let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
        vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)))
    });
    let upper = [
        vshrn_high_n_u32::<16>(vshrn_n_u32::<16>(a), b),
        vshrn_high_n_u32::<16>(vshrn_n_u32::<16>(c), d),
    ];
    for (numbers, out) in upper.into_iter().zip(out.as_chunks_mut().0) {
        store(vreinterpretq_u8_u16(numbers), out);
    }
}

//! Dequantisation on AArch64.

use std::arch::aarch64::*;

use crate::quant::float::Float;
use crate::quant::neon::{load, store_bf16, store_f16, store_f32};

/// Write whole groups of 64 columns, with 64 / `unit` scales each.
pub(super) fn write_groups(
    unit: usize,
    float: Float,
    (q, scales): (&[u8], &[f32]),
    out: &mut [u8],
) {
    let size = float.nbytes();
    let sixteens = q
        .as_chunks::<16>()
        .0
        .iter()
        .zip(out.chunks_exact_mut(16 * size));
    for (index, (q, out)) in sixteens.enumerate() {
        let scale = vdupq_n_f32(scales[index * 16 / unit]);
        let codes = vreinterpretq_s8_u8(load(q));
        let (low, high) = (vmovl_s8(vget_low_s8(codes)), vmovl_high_s8(codes));
        let numbers = [
            vmovl_s16(vget_low_s16(low)),
            vmovl_high_s16(low),
            vmovl_s16(vget_low_s16(high)),
            vmovl_high_s16(high),
        ];
        let numbers = numbers.map(|codes| vmulq_f32(vcvtq_f32_s32(codes), scale));
        match float {
            Float::F32 => store_f32(numbers, out),
            Float::F16 => store_f16(numbers, out),
            Float::Bf16 => store_bf16(numbers, out),
        }
    }
}

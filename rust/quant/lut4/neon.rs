//! Dequantisation on AArch64.
//!
//! A byte of a table of 16 numbers is looked up by its place in the number, for 16 codes at a time.

use std::arch::aarch64::*;

use crate::quant::float::Float;
use crate::quant::layout::Lut4;
use crate::quant::neon::{load, store_bf16, store_f16, store_f32};

/// Write whole groups of 64 columns, with 64 / `unit` scales each.
pub(super) fn write_groups(
    lut4: &Lut4,
    unit: usize,
    float: Float,
    (q, scales): (&[u8], &[f32]),
    out: &mut [u8],
) {
    let tables: [uint8x16_t; 4] =
        std::array::from_fn(|place| load(&lut4.codebook.map(|code| code.to_le_bytes()[place])));
    let nibble = vdupq_n_u8(15);
    let size = float.nbytes();
    let parts = q
        .as_chunks::<16>()
        .0
        .iter()
        .zip(out.chunks_exact_mut(32 * size));
    for (part, (q, out)) in parts.enumerate() {
        let bytes = load(q);
        let (upper, lower) = (vshrq_n_u8::<4>(bytes), vandq_u8(bytes, nibble));
        let (first, second) = if lut4.low_first {
            (lower, upper)
        } else {
            (upper, lower)
        };
        let sixteens = [vzip1q_u8(first, second), vzip2q_u8(first, second)];
        let halves = sixteens.into_iter().zip(out.chunks_exact_mut(16 * size));
        for (half, (codes, out)) in halves.enumerate() {
            let scale = vdupq_n_f32(scales[(part * 32 + half * 16) / unit]);
            let [a, b, c, d] = tables.map(|table| vqtbl1q_u8(table, codes));
            let low = [vzip1q_u8(a, b), vzip2q_u8(a, b)].map(|pairs| vreinterpretq_u16_u8(pairs));
            let high = [vzip1q_u8(c, d), vzip2q_u8(c, d)].map(|pairs| vreinterpretq_u16_u8(pairs));
            let numbers = [
                vzip1q_u16(low[0], high[0]),
                vzip2q_u16(low[0], high[0]),
                vzip1q_u16(low[1], high[1]),
                vzip2q_u16(low[1], high[1]),
            ];
            let numbers = numbers.map(|codes| vmulq_f32(vreinterpretq_f32_u16(codes), scale));
            match float {
                Float::F32 => store_f32(numbers, out),
                Float::F16 => store_f16(numbers, out),
                Float::Bf16 => store_bf16(numbers, out),
            }
        }
    }
}

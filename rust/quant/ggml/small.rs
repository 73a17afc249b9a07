//! Blocks of 32: a scale, perhaps a minimum, and four, five or eight bits each.

use crate::quant::float::u32_at;
use crate::quant::ggml::{Block, f16, half, nibble};
use crate::quant::layout::GgmlType;
use crate::quant::simd::{COUNT, Out, Simd, fixed};

/// [`COUNT`] less 8.
const CENTRED: [f32; 16] = [
    -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0,
];

/// `d * (q - 8)`: f16 d, 16 bytes.
pub(super) struct Q4_0;

impl Block for Q4_0 {
    const KIND: GgmlType = GgmlType::Q4_0;

    fn number(block: &[u8], index: usize) -> f32 {
        f16(block, 0) * (f32::from(nibble(&block[2..], index, 16)) - 8.0)
    }

    #[inline(always)]
    fn write<S: Simd, O: Out>(simd: S, block: &[u8], out: &mut [u8]) {
        let scale = simd.splat(half(simd, block, 0));
        let table = O::table(simd, simd.mul(simd.numbers(&CENTRED), scale));
        O::look_up(simd, table, simd.nibble_halves(fixed(block, 2)), out);
    }
}

/// `d * q + m`: f16 d, f16 m, 16 bytes.
pub(super) struct Q4_1;

impl Block for Q4_1 {
    const KIND: GgmlType = GgmlType::Q4_1;

    fn number(block: &[u8], index: usize) -> f32 {
        f16(block, 0) * f32::from(nibble(&block[4..], index, 16)) + f16(block, 2)
    }

    #[inline(always)]
    fn write<S: Simd, O: Out>(simd: S, block: &[u8], out: &mut [u8]) {
        let scale = simd.splat(half(simd, block, 0));
        let least = simd.splat(half(simd, block, 2));
        let numbers = simd.add(simd.mul(simd.numbers(&COUNT), scale), least);
        let table = O::table(simd, numbers);
        O::look_up(simd, table, simd.nibble_halves(fixed(block, 4)), out);
    }
}

/// `d * (q - 16)`: f16 d, the fifth bits as u32, 16 bytes of the others.
pub(super) struct Q5_0;

impl Block for Q5_0 {
    const KIND: GgmlType = GgmlType::Q5_0;

    fn number(block: &[u8], index: usize) -> f32 {
        f16(block, 0) * (f32::from(five_bits(&block[2..], index)) - 16.0)
    }

    #[inline(always)]
    fn write<S: Simd, O: Out>(simd: S, block: &[u8], out: &mut [u8]) {
        let scale = simd.splat(half(simd, block, 0));
        let codes = simd.minus(all_five_bits(simd, &block[2..]), 16);
        let [a, b] = simd.signed(codes);
        O::store(simd, [simd.mul(a, scale), simd.mul(b, scale)], out);
    }
}

/// `d * q + m`: f16 d, f16 m, the fifth bits as u32, 16 bytes of the others.
pub(super) struct Q5_1;

impl Block for Q5_1 {
    const KIND: GgmlType = GgmlType::Q5_1;

    fn number(block: &[u8], index: usize) -> f32 {
        f16(block, 0) * f32::from(five_bits(&block[4..], index)) + f16(block, 2)
    }

    #[inline(always)]
    fn write<S: Simd, O: Out>(simd: S, block: &[u8], out: &mut [u8]) {
        let scale = simd.splat(half(simd, block, 0));
        let least = simd.splat(half(simd, block, 2));
        let codes = all_five_bits(simd, &block[4..]);
        let [a, b] = simd.signed(codes);
        let a = simd.add(simd.mul(a, scale), least);
        let b = simd.add(simd.mul(b, scale), least);
        O::store(simd, [a, b], out);
    }
}

/// `d * q`: f16 d, 32 signed bytes.
pub(super) struct Q8_0;

impl Block for Q8_0 {
    const KIND: GgmlType = GgmlType::Q8_0;

    fn number(block: &[u8], index: usize) -> f32 {
        f16(block, 0) * f32::from(block[2 + index].cast_signed())
    }

    #[inline(always)]
    fn write<S: Simd, O: Out>(simd: S, block: &[u8], out: &mut [u8]) {
        let scale = simd.splat(half(simd, block, 0));
        let codes = simd.bytes(fixed(block, 2));
        let [a, b] = simd.signed(codes);
        O::store(simd, [simd.mul(a, scale), simd.mul(b, scale)], out);
    }
}

/// The code at `index` of a u32 of fifth bits and 16 bytes.
fn five_bits(bytes: &[u8], index: usize) -> u8 {
    let fifth = u32_at(bytes, 0) >> index & 1;
    nibble(&bytes[4..], index, 16) | (fifth as u8) << 4
}

/// All of them.
#[inline(always)]
fn all_five_bits<S: Simd>(simd: S, bytes: &[u8]) -> S::Bytes {
    let fifth = simd.bits(u32::from_le_bytes(*fixed(bytes, 0)));
    simd.or(simd.nibble_halves(fixed(bytes, 4)), simd.and(fifth, 16))
}

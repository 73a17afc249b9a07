//! Blocks of 256 with small integers for scales, of 16 or 32 numbers each.

use crate::quant::float::u32_at;
use crate::quant::ggml::{Block, f16, half, nibble};
use crate::quant::layout::GgmlType;
use crate::quant::simd::{COUNT, Out, Simd, fixed};

/// Two bits of 64 bytes; 128 numbers are 32 bytes, first the lowest bits of each.
fn two_bits(bytes: &[u8], index: usize) -> u8 {
    bytes[index / 128 * 32 + index % 32] >> (index / 32 % 4 * 2) & 3
}

/// One bit of 32 bytes; 32 numbers are one bit of each.
fn one_bit(bytes: &[u8], index: usize) -> u8 {
    bytes[index % 32] >> (index / 32) & 1
}

/// 32 of [`two_bits`].
#[inline(always)]
fn two_bits_of<S: Simd>(simd: S, bytes: &[u8], part: usize) -> S::Bytes {
    let bytes = simd.bytes(fixed(bytes, part / 4 * 32));
    simd.down(bytes, (part % 4 * 2) as u8, 3)
}

/// 32 of [`nibble`] by 32.
#[inline(always)]
fn nibbles_of<S: Simd>(simd: S, bytes: &[u8], part: usize) -> S::Bytes {
    let bytes = simd.bytes(fixed(bytes, part / 2 * 32));
    match part % 2 {
        0 => simd.and(bytes, 15),
        _ => simd.down(bytes, 4, 15),
    }
}

/// The values of 16 bytes, each times a number.
#[inline(always)]
fn scaled<S: Simd>(simd: S, bytes: [u8; 16], is_signed: bool, by: S::Numbers) -> [f32; 16] {
    let mut filled = [0; 32];
    filled[..16].copy_from_slice(&bytes);
    let codes = simd.bytes(&filled);
    let [numbers, _] = match is_signed {
        true => simd.signed(codes),
        false => simd.unsigned(codes),
    };
    simd.array(simd.mul(numbers, by))
}

/// `d * s * q - m * t * 1`, s and t of 4 bits per 16: 16 bytes of them, 64 bytes, f16 d, f16 m.
pub(super) struct Q2K;

impl Block for Q2K {
    const KIND: GgmlType = GgmlType::Q2_K;

    fn number(block: &[u8], index: usize) -> f32 {
        let scales = block[index / 16];
        let scale = f16(block, 80) * f32::from(scales & 15);
        let least = f16(block, 82) * f32::from(scales >> 4);
        scale * f32::from(two_bits(&block[16..], index)) - least
    }

    #[inline(always)]
    fn write<S: Simd, O: Out>(simd: S, block: &[u8], out: &mut [u8]) {
        let both = simd.nibble_halves(fixed(block, 0));
        let [scales, leasts] = simd.unsigned(both);
        let scales = simd.array(simd.mul(scales, simd.splat(half(simd, block, 80))));
        let leasts = simd.array(simd.mul(leasts, simd.splat(half(simd, block, 82))));
        for (part, out) in out.chunks_exact_mut(O::CHUNK).enumerate() {
            let [a, b] = simd.signed(two_bits_of(simd, &block[16..], part));
            let a = simd.mul(a, simd.splat(scales[2 * part]));
            let b = simd.mul(b, simd.splat(scales[2 * part + 1]));
            let a = simd.sub(a, simd.splat(leasts[2 * part]));
            let b = simd.sub(b, simd.splat(leasts[2 * part + 1]));
            O::store(simd, [a, b], out);
        }
    }
}

/// `d * (s - 32) * (q - 4)`, s of 6 bits per 16: 32 bytes of third bits, 64 bytes of the others,
/// 12 bytes of scales, f16 d.
pub(super) struct Q3K;

impl Q3K {
    /// Its scales, less 32: 4 bits each in 8 bytes, then two each in 4.
    #[inline(always)]
    fn scales(block: &[u8]) -> [u8; 16] {
        let [low, next, high] = [24, 25, 26].map(|index| u32_at(block, index));
        let words = [
            low & 0x0f0f_0f0f | (high & 0x0303_0303) << 4,
            next & 0x0f0f_0f0f | (high & 0x0c0c_0c0c) << 2,
            low >> 4 & 0x0f0f_0f0f | high & 0x3030_3030,
            next >> 4 & 0x0f0f_0f0f | (high & 0xc0c0_c0c0) >> 2,
        ];
        bytes_of(words).map(|scale| scale.wrapping_sub(32))
    }
}

impl Block for Q3K {
    const KIND: GgmlType = GgmlType::Q3_K;

    fn number(block: &[u8], index: usize) -> f32 {
        let scale = Self::scales(block)[index / 16].cast_signed();
        let code = two_bits(&block[32..], index) | one_bit(block, index) << 2;
        f16(block, 108) * f32::from(scale) * (f32::from(code) - 4.0)
    }

    #[inline(always)]
    fn write<S: Simd, O: Out>(simd: S, block: &[u8], out: &mut [u8]) {
        let scale = simd.splat(half(simd, block, 108));
        let scales = scaled(simd, Self::scales(block), true, scale);
        let third = simd.bytes(fixed(block, 0));
        for (part, out) in out.chunks_exact_mut(O::CHUNK).enumerate() {
            let third = simd.up(simd.down(third, part as u8, 1), 1, 2);
            let codes = simd.or(two_bits_of(simd, &block[32..], part), third);
            let [a, b] = simd.signed(simd.minus(codes, 4));
            let a = simd.mul(a, simd.splat(scales[2 * part]));
            let b = simd.mul(b, simd.splat(scales[2 * part + 1]));
            O::store(simd, [a, b], out);
        }
    }
}

/// The scales of `Q4_K` and `Q5_K`, 6 bits each in 12 bytes, then the minima.
#[inline(always)]
pub(crate) fn six_bits(bytes: &[u8]) -> [u8; 16] {
    let [scale, least, rest] = [0, 1, 2].map(|index| u32_at(bytes, index));
    bytes_of([
        scale & 0x3f3f_3f3f,
        rest & 0x0f0f_0f0f | scale >> 2 & 0x3030_3030,
        least & 0x3f3f_3f3f,
        rest >> 4 & 0x0f0f_0f0f | least >> 2 & 0x3030_3030,
    ])
}

#[inline(always)]
fn bytes_of(words: [u32; 4]) -> [u8; 16] {
    let [a, b, c, d] = words.map(u128::from);
    (a | b << 32 | c << 64 | d << 96).to_le_bytes()
}

/// `d * s` of `Q4_K` and `Q5_K`, then `-m * t`.
#[inline(always)]
fn scales_and_minima<S: Simd>(simd: S, block: &[u8]) -> [f32; 16] {
    let scale = half(simd, block, 0);
    let least = -half(simd, block, 2);
    let by = simd.numbers(&[
        scale, scale, scale, scale, scale, scale, scale, scale, least, least, least, least, least,
        least, least, least,
    ]);
    scaled(simd, six_bits(&block[4..16]), false, by)
}

/// `d * s * code - m * t` of `Q4_K` and `Q5_K`.
fn with_minimum(block: &[u8], index: usize, code: u8) -> f32 {
    let scales = six_bits(&block[4..16]);
    let scale = f16(block, 0) * f32::from(scales[index / 32]);
    let least = f16(block, 2) * f32::from(scales[8 + index / 32]);
    scale * f32::from(code) - least
}

/// `d * s * q - m * t`, s and t of 6 bits per 32: f16 d, f16 m, 12 bytes of them, 128 bytes.
pub(super) struct Q4K;

impl Block for Q4K {
    const KIND: GgmlType = GgmlType::Q4_K;

    fn number(block: &[u8], index: usize) -> f32 {
        with_minimum(block, index, nibble(&block[16..], index, 32))
    }

    #[inline(always)]
    fn write<S: Simd, O: Out>(simd: S, block: &[u8], out: &mut [u8]) {
        let scales = scales_and_minima(simd, block);
        for (part, out) in out.chunks_exact_mut(O::CHUNK).enumerate() {
            let numbers = simd.mul(simd.numbers(&COUNT), simd.splat(scales[part]));
            let numbers = simd.add(numbers, simd.splat(scales[8 + part]));
            let table = O::table(simd, numbers);
            O::look_up(simd, table, nibbles_of(simd, &block[16..], part), out);
        }
    }
}

/// As [`Q4K`], with 32 bytes of fifth bits before the 128.
pub(super) struct Q5K;

impl Block for Q5K {
    const KIND: GgmlType = GgmlType::Q5_K;

    fn number(block: &[u8], index: usize) -> f32 {
        let code = nibble(&block[48..], index, 32) | one_bit(&block[16..], index) << 4;
        with_minimum(block, index, code)
    }

    #[inline(always)]
    fn write<S: Simd, O: Out>(simd: S, block: &[u8], out: &mut [u8]) {
        let scales = scales_and_minima(simd, block);
        let fifth = simd.bytes(fixed(block, 16));
        for (part, out) in out.chunks_exact_mut(O::CHUNK).enumerate() {
            let fifth = simd.up(simd.down(fifth, part as u8, 1), 1, 4);
            let codes = simd.or(nibbles_of(simd, &block[48..], part), fifth);
            let (scale, least) = (simd.splat(scales[part]), simd.splat(scales[8 + part]));
            let [a, b] = simd.signed(codes);
            let a = simd.add(simd.mul(a, scale), least);
            let b = simd.add(simd.mul(b, scale), least);
            O::store(simd, [a, b], out);
        }
    }
}

/// `d * s * (q - 32)`, s signed per 16: 128 bytes of lower nibbles, 64 of upper bits, 16 of scales,
/// f16 d.
pub(super) struct Q6K;

impl Block for Q6K {
    const KIND: GgmlType = GgmlType::Q6_K;

    fn number(block: &[u8], index: usize) -> f32 {
        let scale = f16(block, 208) * f32::from(block[192 + index / 16].cast_signed());
        let code = nibble(block, index, 64) | two_bits(&block[128..], index) << 4;
        scale * (f32::from(code) - 32.0)
    }

    #[inline(always)]
    fn write<S: Simd, O: Out>(simd: S, block: &[u8], out: &mut [u8]) {
        let scale = simd.splat(half(simd, block, 208));
        let scales = scaled(simd, *fixed(block, 192), true, scale);
        for (part, out) in out.chunks_exact_mut(O::CHUNK).enumerate() {
            // 64 low nibbles, then the high ones of the same bytes
            let low = simd.bytes(fixed(block, part / 4 * 64 + part % 2 * 32));
            let low = match part / 2 % 2 {
                0 => simd.and(low, 15),
                _ => simd.down(low, 4, 15),
            };
            let high = simd.up(two_bits_of(simd, &block[128..], part), 3, 4);
            let [a, b] = simd.signed(simd.minus(simd.or(low, high), 32));
            let a = simd.mul(a, simd.splat(scales[2 * part]));
            let b = simd.mul(b, simd.splat(scales[2 * part + 1]));
            O::store(simd, [a, b], out);
        }
    }
}

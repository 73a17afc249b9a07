//! Blocks whose nibbles index a table of 16.

use crate::quant::float::u16_at;
use crate::quant::ggml::{Block, f16, half, nibble};
use crate::quant::layout::GgmlType;
use crate::quant::simd::{Out, Simd, fixed};

/// What the nibbles of `IQ4_NL` and `IQ4_XS` mean.
const IQ4: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

/// Twice E2M1, without its negative zero, as ggml has it.
const E2M1_TWICE: [f32; 16] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0,
];

/// 32 numbers, `table[q] * scale`, of 16 bytes.
#[inline(always)]
fn write_scaled<S: Simd, O: Out>(
    simd: S,
    table: &[f32; 16],
    scale: f32,
    bytes: &[u8; 16],
    out: &mut [u8],
) {
    let table = simd.mul(simd.numbers(table), simd.splat(scale));
    let table = O::table(simd, table);
    O::look_up(simd, table, simd.nibble_halves(bytes), out);
}

/// `d * table[q]`: f16 d, 16 bytes.
pub(super) struct Iq4Nl;

impl Block for Iq4Nl {
    const KIND: GgmlType = GgmlType::IQ4_NL;

    fn number(block: &[u8], index: usize) -> f32 {
        f16(block, 0) * IQ4[usize::from(nibble(&block[2..], index, 16))]
    }

    #[inline(always)]
    fn write<S: Simd, O: Out>(simd: S, block: &[u8], out: &mut [u8]) {
        let scale = half(simd, block, 0);
        write_scaled::<S, O>(simd, &IQ4, scale, fixed(block, 2), out);
    }
}

/// `d * (s - 32) * table[q]`, s of 6 bits per 32: f16 d, u16 of their upper bits, 4 bytes of their
/// lower ones, 128 bytes.
pub(super) struct Iq4Xs;

impl Iq4Xs {
    #[inline(always)]
    fn scale(block: &[u8], part: usize) -> f32 {
        let low = block[4 + part / 2] >> (part % 2 * 4) & 15;
        let high = u16_at(block, 1) >> (2 * part) & 3;
        f32::from(low) + f32::from(high * 16) - 32.0
    }
}

impl Block for Iq4Xs {
    const KIND: GgmlType = GgmlType::IQ4_XS;

    fn number(block: &[u8], index: usize) -> f32 {
        let scale = f16(block, 0) * Self::scale(block, index / 32);
        scale * IQ4[usize::from(nibble(&block[8..], index, 16))]
    }

    #[inline(always)]
    fn write<S: Simd, O: Out>(simd: S, block: &[u8], out: &mut [u8]) {
        let scale = half(simd, block, 0);
        for (part, out) in out.chunks_exact_mut(O::CHUNK).enumerate() {
            let scale = scale * Self::scale(block, part);
            write_scaled::<S, O>(simd, &IQ4, scale, fixed(block, 8 + 16 * part), out);
        }
    }
}

/// `2^(e - 128) * table[q]`: e, 16 bytes.
pub(super) struct Mxfp4;

impl Mxfp4 {
    #[inline(always)]
    fn scale(block: &[u8]) -> f32 {
        f32::from_bits(match block[0] {
            exponent @ 0..2 => 0x20_0000 << exponent, // subnormal
            exponent => u32::from(exponent - 1) << 23,
        })
    }
}

impl Block for Mxfp4 {
    const KIND: GgmlType = GgmlType::MXFP4;

    fn number(block: &[u8], index: usize) -> f32 {
        Self::scale(block) * E2M1_TWICE[usize::from(nibble(&block[1..], index, 16))]
    }

    #[inline(always)]
    fn write<S: Simd, O: Out>(simd: S, block: &[u8], out: &mut [u8]) {
        let scale = Self::scale(block);
        write_scaled::<S, O>(simd, &E2M1_TWICE, scale, fixed(block, 1), out);
    }
}

//! Loops over arrays that a compiler makes SIMD of: what AArch64 runs.

use crate::quant::float::{Float, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::quant::simd::{Kernel, OutBf16, OutF16, OutF32, Simd};

#[derive(Clone, Copy)]
struct Portable;

/// Run a kernel on any processor.
pub(super) fn run<K: Kernel>(float: Float, kernel: K) {
    match float {
        Float::F32 => kernel.run::<_, OutF32>(Portable),
        Float::F16 => kernel.run::<_, OutF16>(Portable),
        Float::Bf16 => kernel.run::<_, OutBf16>(Portable),
    }
}

type Numbers = [f32; 16];

/// Each byte as a number.
#[inline(always)]
fn widen(from: [u8; 32], value: impl Fn(u8) -> f32) -> [Numbers; 2] {
    let mut numbers = [[0.0; 16]; 2];
    for (byte, number) in from.iter().zip(numbers.as_flattened_mut()) {
        *number = value(*byte);
    }
    numbers
}

/// The number of each pair.
#[inline(always)]
fn each(a: Numbers, b: Numbers, value: impl Fn(f32, f32) -> f32) -> Numbers {
    let mut numbers = [0.0; 16];
    for ((a, b), number) in a.iter().zip(&b).zip(&mut numbers) {
        *number = value(*a, *b);
    }
    numbers
}

/// Bits of items of two bytes.
#[inline(always)]
fn table(numbers: Numbers, bits: impl Fn(f32) -> u16) -> [u16; 16] {
    let mut table = [0; 16];
    for (number, item) in numbers.iter().zip(&mut table) {
        *item = bits(*number);
    }
    table
}

#[inline(always)]
fn store(numbers: [Numbers; 2], out: &mut [u8; 64], bits: impl Fn(f32) -> u16) {
    for (number, out) in numbers.as_flattened().iter().zip(out.as_chunks_mut().0) {
        *out = bits(*number).to_le_bytes();
    }
}

impl Simd for Portable {
    type Bytes = [u8; 32];
    type Numbers = Numbers;
    type Table = [u16; 16];

    #[inline(always)]
    fn bytes(self, from: &[u8; 32]) -> [u8; 32] {
        *from
    }

    #[inline(always)]
    fn nibble_halves(self, from: &[u8; 16]) -> [u8; 32] {
        let mut nibbles = [0; 32];
        let (low, high) = nibbles.split_at_mut(16);
        for ((byte, low), high) in from.iter().zip(low).zip(high) {
            (*low, *high) = (byte & 15, byte >> 4);
        }
        nibbles
    }

    #[inline(always)]
    fn nibble_pairs(self, from: &[u8; 16]) -> [u8; 32] {
        let mut nibbles = [0; 32];
        for (byte, pair) in from.iter().zip(nibbles.as_chunks_mut().0) {
            *pair = [byte & 15, byte >> 4];
        }
        nibbles
    }

    #[inline(always)]
    fn bits(self, from: u32) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (bit, byte) in bytes.iter_mut().enumerate() {
            *byte = ((from >> bit & 1) as u8).wrapping_neg();
        }
        bytes
    }

    #[inline(always)]
    fn and(self, a: [u8; 32], mask: u8) -> [u8; 32] {
        a.map(|byte| byte & mask)
    }

    #[inline(always)]
    fn or(self, mut a: [u8; 32], b: [u8; 32]) -> [u8; 32] {
        for (a, b) in a.iter_mut().zip(b) {
            *a |= b;
        }
        a
    }

    #[inline(always)]
    fn minus(self, a: [u8; 32], b: u8) -> [u8; 32] {
        a.map(|byte| byte.wrapping_sub(b))
    }

    #[inline(always)]
    fn down(self, a: [u8; 32], by: u8, mask: u8) -> [u8; 32] {
        a.map(|byte| byte >> by & mask)
    }

    #[inline(always)]
    fn up(self, a: [u8; 32], mask: u8, by: u8) -> [u8; 32] {
        a.map(|byte| (byte & mask) << by)
    }

    #[inline(always)]
    fn signed(self, from: [u8; 32]) -> [Numbers; 2] {
        widen(from, |byte| f32::from(byte.cast_signed()))
    }

    #[inline(always)]
    fn unsigned(self, from: [u8; 32]) -> [Numbers; 2] {
        widen(from, f32::from)
    }

    #[inline(always)]
    fn e4m3(self, from: [u8; 32]) -> [Numbers; 2] {
        const SCALE: f32 = f32::from_bits((127 + 120) << 23);
        // the same fields in a binary32 mean 2^-120 of the value, subnormals too
        widen(from, |byte| match byte & 0x7f {
            0x7f => f32::NAN,
            low => f32::from_bits(u32::from(byte & 0x80) << 24 | u32::from(low) << 20) * SCALE,
        })
    }

    #[inline(always)]
    fn e5m2(self, from: [u8; 32]) -> [Numbers; 2] {
        const SCALE: f32 = f32::from_bits((127 + 112) << 23);
        widen(from, |byte| {
            let sign = u32::from(byte & 0x80) << 24;
            match byte & 0x7f {
                low @ 0x7c.. => f32::from_bits(sign | 0x7f80_0000 | u32::from(low & 3) << 21),
                low => f32::from_bits(sign | u32::from(low) << 21) * SCALE,
            }
        })
    }

    #[inline(always)]
    fn half(self, bits: u16) -> f32 {
        f16_to_f32(bits)
    }

    #[inline(always)]
    fn splat(self, number: f32) -> Numbers {
        [number; 16]
    }

    #[inline(always)]
    fn numbers(self, from: &Numbers) -> Numbers {
        *from
    }

    #[inline(always)]
    fn array(self, from: Numbers) -> Numbers {
        from
    }

    #[inline(always)]
    fn mul(self, a: Numbers, b: Numbers) -> Numbers {
        each(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn add(self, a: Numbers, b: Numbers) -> Numbers {
        each(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Numbers, b: Numbers) -> Numbers {
        each(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn store_f32(self, numbers: [Numbers; 2], out: &mut [u8; 128]) {
        for (number, out) in numbers.as_flattened().iter().zip(out.as_chunks_mut().0) {
            *out = number.to_le_bytes();
        }
    }

    #[inline(always)]
    fn store_f16(self, numbers: [Numbers; 2], out: &mut [u8; 64]) {
        store(numbers, out, f32_to_f16);
    }

    #[inline(always)]
    fn store_bf16(self, numbers: [Numbers; 2], out: &mut [u8; 64]) {
        store(numbers, out, f32_to_bf16);
    }

    #[inline(always)]
    fn table_f16(self, numbers: Numbers) -> [u16; 16] {
        table(numbers, f32_to_f16)
    }

    #[inline(always)]
    fn table_bf16(self, numbers: Numbers) -> [u16; 16] {
        table(numbers, f32_to_bf16)
    }

    #[inline(always)]
    fn look_up(self, table: [u16; 16], index: [u8; 32], out: &mut [u8; 64]) {
        for (index, out) in index.iter().zip(out.as_chunks_mut().0) {
            *out = table[usize::from(index & 15)].to_le_bytes();
        }
    }

    #[inline(always)]
    fn pick(self, from: Numbers, index: [u8; 32]) -> [Numbers; 2] {
        widen(index, |byte| from[usize::from(byte & 15)])
    }
}

//! Bytes and numbers that look random, and what every tier makes of a weight.

use airllm_rs::quant::dequantize::dequantize;
use airllm_rs::quant::float::Float;
use airllm_rs::quant::product::{Activations, MOST_ROWS, Product, products};
use airllm_rs::quant::team::Output;
use airllm_rs::quant::tier::Tier;
use airllm_rs::quant::weight::Weight;

use super::numbers::FLOATS;

/// The tiers of this processor, and the loops that AArch64 runs: these run here too.
fn tiers() -> impl Iterator<Item = Tier> {
    let is_here = |tier: &Tier| *tier == Tier::Neon || tier.is_available();
    Tier::ALL.into_iter().filter(is_here)
}

pub(super) struct Noise(pub(super) u64);

impl Noise {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 24) as u8).collect()
    }

    /// A number of a size that scales have; one in sixteen is of any size, or infinite.
    pub(super) fn scale(&mut self) -> f32 {
        let bits = (self.next() >> 16) as u32;
        let number = f32::from_bits(bits);
        match self.next() >> 20 & 15 {
            0 if !number.is_nan() => number,
            1 => f32::from_bits(bits & 0x80ff_ffff), // subnormal, or nearly
            _ => (f32::from(bits as u16) - 30000.0) * 1e-6,
        }
    }

    /// Scales as bytes of `float`.
    pub(super) fn scales(&mut self, float: Float, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count * float.nbytes()];
        for out in bytes.chunks_exact_mut(float.nbytes()) {
            float.store(self.scale(), out);
        }
        bytes
    }
}

/// All numbers of a weight.
pub(super) fn numbers(tier: Tier, weight: &Weight<'_>, float: Float) -> Vec<u8> {
    let mut out = vec![0xee; weight.rows * weight.cols * float.nbytes()];
    dequantize(tier, weight, 0..weight.rows, float, &mut out).unwrap();
    out
}

/// Check that every tier gives the bits of `expected`, rounded.
pub(super) fn assert_decodes_to(weight: &Weight<'_>, expected: &[f32], what: &str) {
    for tier in tiers() {
        for float in FLOATS {
            let found = numbers(tier, weight, float);
            let mut wanted = vec![0; found.len()];
            for (number, out) in expected.iter().zip(wanted.chunks_exact_mut(float.nbytes())) {
                float.store(*number, out);
            }
            let size = float.nbytes();
            let differs = (0..expected.len())
                .find(|&index| found[index * size..][..size] != wanted[index * size..][..size]);
            if let Some(index) = differs {
                panic!(
                    "{what}, {} to {float:?}: item {index} is {:x?}, not {:x?} of {:?}",
                    tier.name(),
                    &found[index * size..][..size],
                    &wanted[index * size..][..size],
                    expected[index],
                );
            }
        }
    }
}

/// Check that products, which decode columns a range at a time, find each number in its column.
///
/// The numbers have to be finite.
pub(super) fn assert_columns_are_in_place(weight: &Weight<'_>, what: &str) {
    let expected = numbers(Tier::Scalar, weight, Float::F32);
    for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
        // ranges begin at multiples of 256 and end at others: look on both sides of these
        for first in [0, 240, 1008, 2032, weight.cols - MOST_ROWS] {
            let rows = MOST_ROWS;
            let mut x = vec![0_u8; rows * weight.cols * 4];
            for row in 0..rows {
                x[(row * weight.cols + first + row) * 4..][..4]
                    .copy_from_slice(&1_f32.to_le_bytes());
            }
            let mut out = vec![0; rows * weight.rows * 4];
            let x = Activations {
                float: Float::F32,
                rows,
                cols: weight.cols,
                bytes: &x,
            };
            let product = Product {
                weight: *weight,
                bias: None,
                out: Output::new(&mut out),
                stride: weight.rows,
            };
            products(tier, x, &mut [product]).unwrap();
            for row in 0..weight.rows {
                for col in first..first + rows {
                    let found = Float::F32.load(&out, (col - first) * weight.rows + row);
                    let wanted = Float::F32.load(&expected, row * weight.cols + col);
                    assert_eq!(found, wanted, "{what}, {}, ({row}, {col})", tier.name());
                }
            }
        }
    }
}

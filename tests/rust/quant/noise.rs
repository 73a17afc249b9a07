//! Bytes and numbers that look random, and what every tier makes of a weight.

use airllm_rs::quant::dequantize::dequantize;
use airllm_rs::quant::float::Float;
use airllm_rs::quant::tier::Tier;
use airllm_rs::quant::weight::Weight;

use super::numbers::{FLOATS, tiers};

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

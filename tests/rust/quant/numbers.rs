//! Numbers that are the same in each run.

use airllm_rs::quant::float::Float;
use airllm_rs::quant::tier::Tier;

/// A small generator (xorshift).
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number in -1..1.
    pub(crate) fn number(&mut self) -> f32 {
        ((self.bits() >> 40) as f32 / (1 << 23) as f32) - 1.0
    }

    /// The bytes of so many numbers of a dtype.
    pub(crate) fn bytes(&mut self, float: Float, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count * float.nbytes()];
        for item in bytes.chunks_exact_mut(float.nbytes()) {
            float.store(self.number(), item);
        }
        bytes
    }
}

pub(crate) const FLOATS: [Float; 3] = [Float::F32, Float::F16, Float::Bf16];

/// The tiers that this processor has.
pub(crate) fn tiers() -> Vec<Tier> {
    Tier::ALL
        .into_iter()
        .filter(|tier| tier.is_available())
        .collect()
}

/// Items as f64.
pub(crate) fn wide(float: Float, bytes: &[u8]) -> Vec<f64> {
    (0..bytes.len() / float.nbytes())
        .map(|index| f64::from(float.load(bytes, index)))
        .collect()
}

//! Block types of GGUF: tiers agree. What they should decode to, the `gguf` package says in the
//! tests in Python.

use airllm_rs::quant::float::Float;
use airllm_rs::quant::layout::{GgmlType, Layout};
use airllm_rs::quant::tier::Tier;
use airllm_rs::quant::weight::{Parts, Weight};

use super::noise::{Noise, assert_decodes_to, numbers};

/// Where the binary16 of a block lie.
fn halves(kind: GgmlType) -> &'static [usize] {
    match kind {
        GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 | GgmlType::IQ4_NL | GgmlType::IQ4_XS => {
            &[0]
        }
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
        GgmlType::Q2_K => &[80, 82],
        GgmlType::Q3_K => &[108],
        GgmlType::Q6_K => &[208],
        GgmlType::MXFP4 => &[],
    }
}

#[test]
fn each_tier_decodes_blocks_to_the_same_bits() {
    for kind in GgmlType::ALL {
        for blocks in [1, 2, 9] {
            let (rows, cols) = (5, blocks * kind.block());
            let mut noise = Noise(0x2545_f491 + cols as u64);
            let mut q = noise.bytes(rows * blocks * kind.block_bytes());
            for block in q.chunks_exact_mut(kind.block_bytes()) {
                for &at in halves(kind) {
                    // no NaN: the bits of one are nobody's promise
                    let scale = noise.scales(Float::F16, 1);
                    block[at..at + 2].copy_from_slice(&scale);
                }
            }
            let layout = Layout::Ggml(kind);
            let parts = Parts {
                q: &q,
                ..Parts::default()
            };
            let weight = Weight::new(&layout, rows, cols, parts).unwrap();
            let bytes = numbers(Tier::Scalar, &weight, Float::F32);
            let expected: Vec<f32> = (0..rows * cols)
                .map(|index| Float::F32.load(&bytes, index))
                .collect();
            assert_decodes_to(&weight, &expected, kind.name());
        }
    }
}

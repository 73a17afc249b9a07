//! Plain numbers become numbers of another dtype, the same in each tier.

use airllm_rs::quant::dequantize::dequantize;
use airllm_rs::quant::float::Float;
use airllm_rs::quant::layout::Layout;
use airllm_rs::quant::tier::Tier;
use airllm_rs::quant::weight::{Parts, Weight};

use crate::quant::numbers::{FLOATS, Numbers, tiers};

fn converted(tier: Tier, from: Float, q: &[u8], to: Float, rows: usize, cols: usize) -> Vec<u8> {
    let layout = Layout::Dense(from);
    let parts = Parts {
        q,
        ..Parts::default()
    };
    let weight = Weight::new(&layout, rows, cols, parts).unwrap();
    let mut out = vec![0; rows * cols * to.nbytes()];
    dequantize(tier, &weight, 0..rows, to, &mut out).unwrap();
    out
}

#[test]
fn every_half_is_converted_alike_in_each_tier() {
    let q: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for from in [Float::F16, Float::Bf16] {
        for to in FLOATS {
            let expected: Vec<u8> = (0..1 << 16)
                .flat_map(|index| {
                    let mut item = vec![0; to.nbytes()];
                    match from == to {
                        true => item.copy_from_slice(&q[2 * index..2 * index + 2]),
                        false => to.store(from.load(&q, index), &mut item),
                    }
                    item
                })
                .collect();
            for tier in tiers() {
                let found = converted(tier, from, &q, to, 256, 256);
                assert!(found == expected, "{tier:?}: {from:?} to {to:?}");
            }
        }
    }
}

#[test]
fn hard_f32_are_rounded_alike_in_each_tier() {
    let mut numbers = Numbers::new(1);
    let mut bits: Vec<u32> = (0..1 << 16).map(|_| numbers.bits() as u32).collect();
    // around every exponent: ties, carries, limits, subnormal numbers, NaN of all kinds
    for exponent in 0..=255_u32 {
        for mantissa in [
            0, 1, 0xfff, 0x1000, 0x1001, 0x3000, 0x7fff, 0x8000, 0x8001, 0x1_8000,
        ] {
            for high in [0, 0x40_0000, 0x7e_0000, 0x7f_e000] {
                bits.push(exponent << 23 | mantissa | high);
                bits.push(1 << 31 | exponent << 23 | mantissa | high);
            }
        }
    }
    let q: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    for to in [Float::F16, Float::Bf16] {
        let expected = converted(Tier::Scalar, Float::F32, &q, to, 1, bits.len());
        for tier in tiers() {
            let found = converted(tier, Float::F32, &q, to, 1, bits.len());
            assert!(found == expected, "{tier:?}: to {to:?}");
        }
    }
}

#[test]
fn odd_lengths_and_some_rows() {
    let mut numbers = Numbers::new(2);
    for cols in [1, 15, 16, 17, 31, 255, 257] {
        let q = numbers.bytes(Float::F32, 3 * cols);
        let expected = converted(Tier::Scalar, Float::F32, &q, Float::F16, 3, cols);
        for tier in tiers() {
            let layout = Layout::Dense(Float::F32);
            let parts = Parts {
                q: &q,
                ..Parts::default()
            };
            let weight = Weight::new(&layout, 3, cols, parts).unwrap();
            let mut out = vec![0; 2 * cols * 2];
            dequantize(tier, &weight, 1..3, Float::F16, &mut out).unwrap();
            assert!(out == expected[cols * 2..], "{tier:?}: {cols}");
        }
    }
}

//! Dequantisation of lut4, int8 and table8: by hand, and the same bits in every tier.

use airllm_rs::quant::dequantize::dequantize;
use airllm_rs::quant::float::{Float, f32_at, f32_to_f16, u16_at};
use airllm_rs::quant::layout::{Int8, Layout, Lut4, NF4, ScaleKind, Table8};
use airllm_rs::quant::tier::Tier;
use airllm_rs::quant::weight::{Parts, Weight};

use super::{Owned, Random, kinds, tiers};

const FLOATS: [Float; 3] = [Float::F32, Float::F16, Float::Bf16];

fn lut4(block: usize, scale: ScaleKind) -> Lut4 {
    Lut4 {
        codebook: NF4,
        block,
        scale,
        low_first: false,
        global_divides: false,
    }
}

fn decode(tier: Tier, weight: &Weight<'_>, float: Float) -> Vec<u8> {
    let mut out = vec![0xcc; weight.rows * weight.cols * float.nbytes()];
    dequantize(tier, weight, 0..weight.rows, float, &mut out).unwrap();
    out
}

fn assert_tiers_agree(weight: &Weight<'_>) {
    for float in FLOATS {
        let expected = decode(Tier::Scalar, weight, float);
        for tier in tiers() {
            let found = decode(tier, weight, float);
            let differing = (0..expected.len()).find(|&index| found[index] != expected[index]);
            assert_eq!(
                differing, None,
                "byte of {} x {} {:?}, {float:?}, {tier:?}",
                weight.rows, weight.cols, weight.layout
            );
        }
    }
}

#[test]
fn lut4_by_hand() {
    let layout = Layout::Lut4(lut4(2, ScaleKind::I8Row));
    let parts = Parts {
        q: &[0x0f, 0x78, 0xe1],
        scale: &[2, 0xff, 0],
        row: &0.5_f32.to_le_bytes(),
        ..Parts::default()
    };
    let weight = Weight::new(&layout, 1, 6, parts).unwrap();
    let out = decode(Tier::Scalar, &weight, Float::F32);
    let numbers: Vec<f32> = (0..6).map(|index| f32_at(&out, index)).collect();
    // 1 is one time the scale, -0.5 the scale of the second block
    let expected = [-1.0, 1.0, -0.0, -0.5 * NF4[8], 0.0, -0.0];
    for (number, expected) in numbers.iter().zip(expected) {
        assert_eq!(f32::to_bits(*number), f32::to_bits(expected), "{numbers:?}");
    }
}

#[test]
fn nibbles_and_global_scales_by_hand() {
    // NVFP4: E4M3 0x38 is 1, 0x40 is 2
    let codebook = std::array::from_fn(|code| code as f32);
    let parts = Parts {
        q: &[0x21, 0x43],
        scale: &[0x38, 0x40],
        row: &4.0_f32.to_le_bytes(),
        ..Parts::default()
    };
    for (global_divides, factor) in [(false, 4.0), (true, 0.25)] {
        for (low_first, order) in [(true, [1.0, 2.0, 3.0, 4.0]), (false, [2.0, 1.0, 4.0, 3.0])] {
            let layout = Layout::Lut4(Lut4 {
                codebook,
                low_first,
                global_divides,
                ..lut4(2, ScaleKind::E4m3Global)
            });
            let weight = Weight::new(&layout, 1, 4, parts).unwrap();
            let out = decode(Tier::Scalar, &weight, Float::F32);
            let [a, b, c, d] = order;
            let expected = [a, b, 2.0 * c, 2.0 * d].map(|number| number * factor);
            for (index, expected) in expected.into_iter().enumerate() {
                assert_eq!(f32_at(&out, index), expected);
            }
        }
    }
}

#[test]
fn nested_scales_by_hand() {
    let kind = ScaleKind::Nested {
        block: 2,
        offset: 0.25,
    };
    let layout = Layout::Lut4(lut4(2, kind));
    let code: Vec<u8> = (0..256)
        .flat_map(|code| (code as f32).to_le_bytes())
        .collect();
    let nested = [0.5_f32, 2.0].map(f32::to_le_bytes).concat();
    let parts = Parts {
        q: &[0xf0, 0xf0, 0xf0],
        scale: &[1, 3, 7],
        nested_code: &code,
        nested_scale: &nested,
        ..Parts::default()
    };
    let weight = Weight::new(&layout, 3, 2, parts).unwrap();
    let out = decode(Tier::Scalar, &weight, Float::F16);
    let expected = [0.75, -0.75, 1.75, -1.75, 14.25, -14.25];
    for (index, number) in expected.into_iter().enumerate() {
        assert_eq!(u16_at(&out, index), f32_to_f16(number));
    }
}

#[test]
fn int8_and_table8_by_hand() {
    let layout = Layout::Int8(Int8 {
        block: 2,
        scale: ScaleKind::U8Row,
    });
    let parts = Parts {
        q: &[127, 0x80, 0xff, 1],
        scale: &[255, 4],
        row: &0.5_f32.to_le_bytes(),
        ..Parts::default()
    };
    let weight = Weight::new(&layout, 1, 4, parts).unwrap();
    let out = decode(Tier::Scalar, &weight, Float::F32);
    let expected = [127.0 * 127.5, -128.0 * 127.5, -2.0, 2.0];
    for (index, number) in expected.into_iter().enumerate() {
        assert_eq!(f32_at(&out, index), number);
    }

    let layout = Layout::Table8(Table8 {
        codebook: Box::new(std::array::from_fn(|code| code as f32 - 100.0)),
        block: 2,
    });
    let absmax = [2.0_f32, 0.5].map(f32::to_le_bytes).concat();
    let parts = Parts {
        q: &[0, 101, 255],
        scale: &absmax,
        ..Parts::default()
    };
    // a block that ends in the second row
    let weight = Weight::new(&layout, 3, 1, parts).unwrap();
    let out = decode(Tier::Scalar, &weight, Float::F32);
    for (index, number) in [-200.0, 2.0, 77.5].into_iter().enumerate() {
        assert_eq!(f32_at(&out, index), number);
    }
}

#[test]
fn lut4_is_the_same_in_every_tier_at_every_length() {
    let mut random = Random(11);
    for block in [16, 32, 64, 128] {
        for cols in (block..=4 * 64 + block).step_by(block) {
            let layout = Layout::Lut4(lut4(block, ScaleKind::I8Row));
            let owned = Owned::random(&mut random, &layout, 3, cols);
            assert_tiers_agree(&owned.weight(&layout));
        }
    }
    // one block, of any length
    for cols in (2..200).step_by(2) {
        let layout = Layout::Lut4(lut4(cols, ScaleKind::I8Row));
        let owned = Owned::random(&mut random, &layout, 2, cols);
        assert_tiers_agree(&owned.weight(&layout));
    }
}

#[test]
fn every_kind_of_scale_is_the_same_in_every_tier() {
    let mut random = Random(12);
    for scale in kinds() {
        for (global_divides, low_first) in [(false, false), (true, true)] {
            // small, odd, larger than a row, and not meeting rows
            for (block, cols) in [(16, 176), (8, 72), (4096, 1024), (64, 5056), (32, 80)] {
                let layout = Layout::Lut4(Lut4 {
                    global_divides,
                    low_first,
                    ..lut4(block, scale)
                });
                let owned = Owned::random(&mut random, &layout, 5, cols);
                assert_tiers_agree(&owned.weight(&layout));
            }
        }
        for (block, cols) in [(16, 176), (8, 72), (64, 5056), (101, 101), (48, 144)] {
            let layout = Layout::Int8(Int8 { block, scale });
            let owned = Owned::random(&mut random, &layout, 5, cols);
            assert_tiers_agree(&owned.weight(&layout));
        }
    }
}

#[test]
fn extreme_scales_are_the_same_in_every_tier() {
    let extremes = [
        0.0,
        -0.0,
        1e-38,
        -1e-38,
        1e-45,
        5.9e-8,
        -6e-5,
        65504.0,
        f32::MAX,
        -f32::MAX,
        f32::MIN_POSITIVE,
        1.0,
    ];
    let mut random = Random(13);
    for unusual in [None, Some(f32::INFINITY), Some(f32::NAN)] {
        let scales: Vec<u8> = (extremes.into_iter())
            .chain(unusual)
            .flat_map(f32::to_le_bytes)
            .collect();
        let blocks = scales.len() / 4;
        for block in [16, 32, 64] {
            let q = random.bytes(blocks * block);
            let parts = Parts {
                q: &q,
                scale: &scales,
                ..Parts::default()
            };
            let scale = ScaleKind::F32;
            for layout in [
                Layout::Lut4(lut4(block, scale)),
                Layout::Int8(Int8 { block, scale }),
            ] {
                let weight = Weight::new(&layout, 1, blocks * block, parts).unwrap();
                assert_tiers_agree(&weight);
            }
        }
    }
}

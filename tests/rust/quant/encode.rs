//! The encoder: quality, edge cases, and the same bytes in every tier.

use airllm_rs::quant::dequantize::dequantize;
use airllm_rs::quant::encode::{Effort, NotFinite, Row, encode_row};
use airllm_rs::quant::float::{Float, f32_at};
use airllm_rs::quant::layout::NF4;
use airllm_rs::quant::scheme::Scheme;
use airllm_rs::quant::tier::Tier;
use airllm_rs::quant::weight::{Parts, Weight};

use super::{Random, tiers};

struct Encoded {
    q: Vec<u8>,
    scale: Vec<u8>,
    row: f32,
}

fn encode(tier: Tier, scheme: Scheme, effort: Effort, values: &[f32]) -> Encoded {
    let mut q = vec![0xaa; scheme.q_bytes(values.len())];
    let mut scale = vec![0xaa; scheme.scale_bytes(values.len())];
    let row = Row {
        scheme,
        effort,
        values,
    };
    let row = row.encode(tier, &mut q, &mut scale).unwrap();
    Encoded { q, scale, row }
}

fn decode(scheme: Scheme, encoded: &Encoded, cols: usize) -> Vec<f32> {
    let layout = scheme.layout();
    let parts = Parts {
        q: &encoded.q,
        scale: &encoded.scale,
        row: &encoded.row.to_le_bytes(),
        ..Parts::default()
    };
    let weight = Weight::new(&layout, 1, cols, parts).unwrap();
    let mut out = vec![0; 4 * cols];
    dequantize(Tier::Scalar, &weight, 0..1, Float::F32, &mut out).unwrap();
    (0..cols).map(|index| f32_at(&out, index)).collect()
}

/// Squared error over squared values, in percent.
fn error(scheme: Scheme, effort: Effort) -> f64 {
    let mut random = Random(7);
    let (mut left, mut all) = (0.0, 0.0);
    for _ in 0..64 {
        let values = random.normals(4096);
        let encoded = encode(Tier::best(), scheme, effort, &values);
        for (value, decoded) in values.iter().zip(decode(scheme, &encoded, 4096)) {
            left += f64::from(value - decoded).powi(2);
            all += f64::from(*value).powi(2);
        }
    }
    100.0 * left / all
}

#[test]
fn errors_on_normal_weights_stay_within_the_stated_ones() {
    let cases = [
        (Scheme::Four, Effort::Search, 0.60),
        (Scheme::FourHq, Effort::Search, 0.48),
        (Scheme::Nf4, Effort::Fast, 0.86),
        (Scheme::Nf4, Effort::Search, 0.70),
        (Scheme::Int8, Effort::Fast, 0.0040),
    ];
    for (scheme, effort, most) in cases {
        let found = error(scheme, effort);
        assert!(
            found <= most && found > 0.5 * most,
            "{scheme:?} {effort:?}: {found} %"
        );
    }
}

#[test]
fn every_tier_writes_the_same_bytes() {
    let mut random = Random(3);
    for scheme in Scheme::ALL {
        for effort in [Effort::Fast, Effort::Search] {
            for blocks in [1, 2, 3, 15, 16, 17, 33] {
                let mut values = random.normals(blocks * scheme.block());
                for (block, values) in values.chunks_mut(scheme.block()).enumerate() {
                    let factor = [1.0, 1e-3, 0.0, 30.0, 1e-41, -0.0, 2.5][block % 7];
                    values.iter_mut().for_each(|value| *value *= factor);
                }
                let scalar = encode(Tier::Scalar, scheme, effort, &values);
                for tier in tiers() {
                    let found = encode(tier, scheme, effort, &values);
                    assert_eq!(found.q, scalar.q, "{scheme:?} {effort:?} {tier:?}");
                    assert_eq!(found.scale, scalar.scale, "{scheme:?} {effort:?} {tier:?}");
                    assert_eq!(found.row.to_bits(), scalar.row.to_bits());
                }
            }
        }
    }
}

#[test]
fn nf4_divides_by_the_largest_magnitude() {
    // every value of the codebook, and its midpoints, which go to the lower code
    let mut values = [0.0; 64];
    values[..16].copy_from_slice(&NF4);
    for (value, pair) in values[16..31].iter_mut().zip(NF4.windows(2)) {
        *value = (pair[0] + pair[1]) * 0.5;
    }
    let encoded = encode(Tier::Scalar, Scheme::Nf4, Effort::Fast, &values);
    assert_eq!(encoded.scale, 1.0_f32.to_le_bytes());
    let expected = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
    assert_eq!(encoded.q[..8], expected);
    assert_eq!(encoded.q[8..15], expected[..7]);
    assert_eq!(encoded.q[15], 0xe7);
    assert_eq!(encoded.q[16..], [0x77; 16]);
    assert_eq!(encoded.row, 1.0);
}

#[test]
fn rows_of_zeros_decode_to_positive_zeros() {
    for scheme in Scheme::ALL {
        for effort in [Effort::Fast, Effort::Search] {
            for zero in [0.0, -0.0] {
                let values = [zero; 128];
                let encoded = encode(Tier::Scalar, scheme, effort, &values);
                for value in decode(scheme, &encoded, 128) {
                    assert_eq!(value.to_bits(), 0, "{scheme:?}");
                }
            }
        }
    }
}

#[test]
fn a_block_of_int8_by_hand() {
    // block 0 reaches 127, block 1 half of it and a little: 128 of 255 units
    let mut values = [0.0; 128];
    values[0] = 255.0;
    values[1] = -128.0;
    values[2] = 3.0;
    values[64] = -127.6;
    let encoded = encode(Tier::Scalar, Scheme::Int8, Effort::Fast, &values);
    let unit = 255.0_f32 / 127.0 / 255.0;
    assert_eq!(encoded.row.to_bits(), unit.to_bits());
    assert_eq!(encoded.scale, [255, 128]);
    assert_eq!(encoded.q[..4], [127, -64_i8 as u8, 1, 0]);
    assert_eq!(encoded.q[64], -127_i8 as u8);
}

#[test]
fn extremes_stay_finite_and_close() {
    for scheme in Scheme::ALL {
        for effort in [Effort::Fast, Effort::Search] {
            for largest in [f32::MAX / 2.0, 1e-30] {
                let values: Vec<f32> = (0..128_u8)
                    .map(|index| (f32::from(index) - 63.5) / 64.0 * largest)
                    .collect();
                let encoded = encode(Tier::Scalar, scheme, effort, &values);
                for (value, decoded) in values.iter().zip(decode(scheme, &encoded, 128)) {
                    let error = (value - decoded).abs();
                    assert!(error < 0.2 * largest, "{scheme:?} {effort:?} {largest:e}");
                }
            }
        }
    }
}

#[test]
fn the_largest_numbers_stay_finite() {
    let mut random = Random(29);
    for scheme in Scheme::ALL {
        for effort in [Effort::Fast, Effort::Search] {
            for largest in [1.0, 0.999, 0.97, 0.9, 0.8].map(|part| part * f32::MAX) {
                let mut values: Vec<f32> = (random.normals(1024).iter())
                    .map(|value| (value * 0.3).clamp(-1.0, 1.0) * largest)
                    .collect();
                // blocks whose largest differ by little, of either sign
                for (block, values) in values.chunks_mut(16).enumerate() {
                    let sign = [1.0, -1.0][block % 2];
                    values[3] = sign * largest * (1.0 - block as f32 * 1e-3);
                    values[7] = -values[3];
                }
                for tier in tiers() {
                    let encoded = encode(tier, scheme, effort, &values);
                    for (value, decoded) in values.iter().zip(decode(scheme, &encoded, 1024)) {
                        // a difference of the two may be too large to be a number
                        let error = (value / 2.0 - decoded / 2.0).abs();
                        assert!(
                            error < 0.1 * largest,
                            "{scheme:?} {effort:?} {tier:?} {largest:e}: {value:e}, {decoded:e}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_is_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for scheme in Scheme::ALL {
            let mut values = [1.0; 64];
            values[63] = bad;
            let mut q = vec![1; scheme.q_bytes(64)];
            let mut scale = vec![1; scheme.scale_bytes(64)];
            let result = encode_row(scheme, Effort::Search, &values, &mut q, &mut scale);
            assert_eq!(result, Err(NotFinite));
            assert!(q.iter().chain(&scale).all(|&byte| byte == 1));
        }
    }
}

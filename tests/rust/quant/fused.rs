//! Products of few rows with lut4 and int8: near the product in f64, and the same for any company.

use airllm_rs::quant::dequantize::dequantize;
use airllm_rs::quant::float::{Float, f32_at};
use airllm_rs::quant::layout::{Int8, Layout, Lut4, NF4, ScaleKind};
use airllm_rs::quant::product::{Activations, Product, products};
use airllm_rs::quant::team::Output;
use airllm_rs::quant::tier::Tier;
use airllm_rs::quant::weight::Weight;

use super::{Owned, Random, kinds, tiers};

const ROWS: [usize; 12] = [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 32];

fn lut4(block: usize, scale: ScaleKind) -> Layout {
    Layout::Lut4(Lut4 {
        codebook: NF4,
        block,
        scale,
        low_first: false,
        global_divides: false,
    })
}

fn int8(block: usize) -> Layout {
    Layout::Int8(Int8 {
        block,
        scale: ScaleKind::U8Row,
    })
}

/// Bytes of `numbers` rounded to `float`.
fn rounded(float: Float, numbers: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; numbers.len() * float.nbytes()];
    for (number, out) in numbers.iter().zip(bytes.chunks_mut(float.nbytes())) {
        float.store(*number, out);
    }
    bytes
}

/// The product with the first `rows` rows of `x`, row-major.
fn multiply(tier: Tier, weight: Weight<'_>, float: Float, rows: usize, x: &[u8]) -> Vec<u8> {
    let row = weight.cols * float.nbytes();
    let mut out = vec![0xcc; rows * weight.rows * float.nbytes()];
    let given = Activations {
        float,
        rows,
        cols: weight.cols,
        bytes: &x[..rows * row],
    };
    let product = Product {
        weight,
        bias: None,
        stride: weight.rows,
        out: Output::new(&mut out),
    };
    products(tier, given, &mut [product]).unwrap();
    out
}

/// The largest error of any result, over the product of the magnitudes.
fn error(weight: &Weight<'_>, float: Float, x: &[u8], found: &[u8]) -> f64 {
    let (n, cols) = (weight.rows, weight.cols);
    let mut numbers = vec![0; n * cols * 4];
    dequantize(Tier::Scalar, weight, 0..n, Float::F32, &mut numbers).unwrap();
    let mut largest: f64 = 0.0;
    for index in 0..found.len() / float.nbytes() {
        let (m, row) = (index / n, index % n);
        let (mut sum, mut magnitude) = (0.0, 0.0);
        for col in 0..cols {
            let weight = f64::from(f32_at(&numbers, row * cols + col));
            let term = weight * f64::from(float.load(x, m * cols + col));
            sum += term;
            magnitude += term.abs();
        }
        let found = f64::from(float.load(found, index));
        // the result itself is rounded to its dtype
        let rounding = match float {
            Float::F32 => 0.0,
            Float::F16 => sum.abs() * 2.0_f64.powi(-11) + 6e-8,
            Float::Bf16 => sum.abs() * 2.0_f64.powi(-8),
        };
        let error = ((found - sum).abs() - rounding).max(0.0);
        largest = largest.max(error / magnitude.max(1e-30));
    }
    largest
}

fn layouts() -> Vec<(Layout, usize)> {
    vec![
        (lut4(16, ScaleKind::I8Row), 16 * 37),
        (lut4(32, ScaleKind::I8Row), 32 * 21),
        (lut4(32, ScaleKind::E8m0), 1024),
        (lut4(64, ScaleKind::F32), 64 * 5),
        (lut4(8, ScaleKind::F16), 8 * 21),
        (int8(64), 64 * 7),
        (int8(70), 70),
        (int8(32), 160),
    ]
}

#[test]
fn products_are_near_those_in_f64() {
    let mut random = Random(21);
    for (layout, cols) in layouts() {
        let owned = Owned::random(&mut random, &layout, 21, cols);
        let weight = owned.weight(&layout);
        let x = random.normals(32 * cols);
        for float in [Float::F32, Float::F16, Float::Bf16] {
            let x = rounded(float, &x);
            for tier in tiers() {
                let most = match (float, tier) {
                    (Float::Bf16, Tier::Avx512Bf16) => 4e-3,
                    _ => 2e-6,
                };
                for rows in ROWS {
                    let found = multiply(tier, weight, float, rows, &x);
                    let error = error(&weight, float, &x, &found);
                    assert!(
                        error <= most,
                        "{layout:?} {float:?} {tier:?} {rows}: {error:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn every_kind_of_scale_and_order_of_nibbles_multiplies() {
    let mut random = Random(22);
    for scale in kinds() {
        for low_first in [false, true] {
            let layout = Layout::Lut4(Lut4 {
                codebook: NF4,
                block: 16,
                scale,
                low_first,
                global_divides: low_first,
            });
            let owned = Owned::random(&mut random, &layout, 3, 16 * 19);
            let weight = owned.weight(&layout);
            let x = rounded(Float::F32, &random.normals(2 * weight.cols));
            for tier in tiers() {
                let found = multiply(tier, weight, Float::F32, 2, &x);
                let error = error(&weight, Float::F32, &x, &found);
                assert!(error <= 2e-6, "{layout:?} {tier:?}: {error:e}");
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_company() {
    let mut random = Random(23);
    for (layout, cols) in layouts() {
        let owned = Owned::random(&mut random, &layout, 13, cols);
        let weight = owned.weight(&layout);
        for float in [Float::F32, Float::F16, Float::Bf16] {
            let size = float.nbytes();
            let x = rounded(float, &random.normals(32 * cols));
            let (row_in, row_out) = (cols * size, weight.rows * size);
            for tier in tiers() {
                let alone: Vec<u8> = (x.chunks(row_in))
                    .flat_map(|x| multiply(tier, weight, float, 1, x))
                    .collect();
                for rows in ROWS {
                    // from the first row on, and with other neighbours
                    for skip in [0, 32 - rows] {
                        let found = multiply(tier, weight, float, rows, &x[skip * row_in..]);
                        let expected = &alone[skip * row_out..][..rows * row_out];
                        assert!(found == expected, "{layout:?} {float:?} {tier:?} {rows}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_product_by_hand() {
    // int8: (1, -2, 3) * 0.5 with (2, 4, 8); codes 0x80 too
    let layout = int8(3);
    let mut random = Random(1);
    let mut owned = Owned::random(&mut random, &layout, 1, 3);
    owned.q = vec![1, 0x80, 3];
    owned.scale = vec![2];
    owned.row = 0.25_f32.to_le_bytes().to_vec();
    let weight = owned.weight(&layout);
    for float in [Float::F32, Float::F16, Float::Bf16] {
        let x = rounded(float, &[2.0, 4.0, 8.0]);
        for tier in tiers() {
            let found = multiply(tier, weight, float, 1, &x);
            assert_eq!(float.load(&found, 0), -243.0, "{tier:?}");
        }
    }
}

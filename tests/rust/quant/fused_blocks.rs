//! Products that multiply integer codes as they are: near f64, and the same whoever is beside a row.

use airllm_rs::quant::dequantize::dequantize;
use airllm_rs::quant::float::Float;
use airllm_rs::quant::layout::{Affine, Fp8, GgmlType, Layout, ScaleKind, Zero};
use airllm_rs::quant::product::{Activations, MOST_ROWS, Product, products};
use airllm_rs::quant::team::Output;
use airllm_rs::quant::tier::Tier;
use airllm_rs::quant::weight::{Parts, Weight};

use super::numbers::FLOATS;
use super::{Random, tiers};

const ROWS: [usize; 7] = [1, 2, 3, 5, 8, 17, 32];

struct Case {
    layout: Layout,
    rows: usize,
    cols: usize,
    q: Vec<u8>,
    scale: Vec<u8>,
    zero: Vec<u8>,
}

impl Case {
    fn ggml(random: &mut Random, kind: GgmlType, rows: usize, blocks: usize) -> Self {
        let cols = blocks * kind.block();
        let mut q = random.bytes(rows * blocks * kind.block_bytes());
        let halves: &[usize] = match kind {
            GgmlType::Q4_1 | GgmlType::Q4_K => &[0, 2],
            GgmlType::Q6_K => &[208],
            _ => &[0],
        };
        for block in q.chunks_exact_mut(kind.block_bytes()) {
            for &at in halves {
                // from 2^-4 to 2, of either sign
                block[at + 1] = block[at + 1] & 0x8f | 0x2c;
            }
        }
        Self {
            layout: Layout::Ggml(kind),
            rows,
            cols,
            q,
            scale: Vec::new(),
            zero: Vec::new(),
        }
    }

    fn affine(random: &mut Random, affine: Affine, rows: usize, cols: usize) -> Self {
        let groups = rows * cols.div_ceil(affine.group);
        let mut scale = vec![0; groups * affine.scale.nbytes()];
        for out in scale.chunks_exact_mut(affine.scale.nbytes()) {
            affine.scale.store(random.normal(), out);
        }
        Self {
            q: random.bytes(rows * cols / 2),
            zero: random.bytes(groups).iter().map(|zero| zero & 15).collect(),
            layout: Layout::Affine(affine),
            rows,
            cols,
            scale,
        }
    }

    fn fp8(random: &mut Random, fp8: Fp8, rows: usize, cols: usize) -> Self {
        let scales = rows.div_ceil(fp8.block_rows) * cols.div_ceil(fp8.block_cols);
        let scale = random.normals(scales);
        let finite = if fp8.is_e5m2 { 0xbb } else { 0xf7 };
        Self {
            q: (random.bytes(rows * cols).iter())
                .map(|code| code & finite)
                .collect(),
            zero: Vec::new(),
            scale: scale.into_iter().flat_map(f32::to_le_bytes).collect(),
            layout: Layout::Fp8(fp8),
            rows,
            cols,
        }
    }

    fn weight(&self) -> Weight<'_> {
        let parts = Parts {
            q: &self.q,
            scale: &self.scale,
            zero: &self.zero,
            ..Parts::default()
        };
        Weight::new(&self.layout, self.rows, self.cols, parts).unwrap()
    }

    fn times(&self, tier: Tier, float: Float, x: &[u8]) -> Vec<u8> {
        let rows = x.len() / (self.cols * float.nbytes());
        let mut out = vec![0xcc; rows * self.rows * float.nbytes()];
        let given = Activations {
            float,
            rows,
            cols: self.cols,
            bytes: x,
        };
        let product = Product {
            weight: self.weight(),
            bias: None,
            stride: self.rows,
            out: Output::new(&mut out),
        };
        products(tier, given, &mut [product]).unwrap();
        out
    }
}

fn cases(random: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q8_0,
        GgmlType::Q4_K,
        GgmlType::Q6_K,
    ] {
        for (rows, blocks) in [(1, 1), (9, 2), (67, 5)] {
            cases.push(Case::ggml(random, kind, rows, blocks));
        }
    }
    for (group, cols, zero) in [
        (128, 128, Zero::U8),
        (128, 128 * 5, Zero::Fixed(8)),
        (256, 128 * 7, Zero::U8),
        (128, 130, Zero::U8),
        (32, 160, Zero::U8),
        (128, 384, Zero::Fixed(-250)),
    ] {
        for scale in FLOATS {
            let affine = Affine {
                bits: 4,
                group,
                scale,
                zero,
                has_group_index: false,
            };
            cases.push(Case::affine(random, affine, 9, cols));
        }
    }
    for (is_e5m2, block_rows, block_cols, cols) in [
        (false, 128, 128, 64 * 5),
        (true, 4, 64, 64 * 3),
        (false, 1, 320, 320),
        (false, 128, 128, 200),
        (true, 3, 50, 200),
    ] {
        let fp8 = Fp8 {
            is_e5m2,
            block_rows,
            block_cols,
            scale: ScaleKind::F32,
        };
        cases.push(Case::fp8(random, fp8, 9, cols));
    }
    cases
}

fn rounded(float: Float, numbers: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; numbers.len() * float.nbytes()];
    for (number, out) in numbers.iter().zip(bytes.chunks_mut(float.nbytes())) {
        float.store(*number, out);
    }
    bytes
}

#[test]
fn products_with_blocks_are_near_those_in_f64() {
    let mut random = Random(31);
    for case in cases(&mut random) {
        let (n, cols) = (case.rows, case.cols);
        let mut numbers = vec![0; n * cols * 4];
        let weight = case.weight();
        dequantize(Tier::Scalar, &weight, 0..n, Float::F32, &mut numbers).unwrap();
        let wide = |float: Float, bytes: &[u8]| -> Vec<f64> {
            (0..bytes.len() / float.nbytes())
                .map(|index| f64::from(float.load(bytes, index)))
                .collect()
        };
        let w = wide(Float::F32, &numbers);
        let x = random.normals(5 * cols);
        for float in FLOATS {
            let bytes = rounded(float, &x);
            let x = wide(float, &bytes);
            for tier in tiers() {
                let found = wide(float, &case.times(tier, float, &bytes));
                let (mut error, mut size) = (0.0, 0.0);
                for (m, x) in x.chunks_exact(cols).enumerate() {
                    for (row, w) in w.chunks_exact(cols).enumerate() {
                        let sum: f64 = w.iter().zip(x).map(|(w, x)| w * x).sum();
                        error += (found[m * n + row] - sum).powi(2);
                        size += sum.powi(2);
                    }
                }
                let error = (error / size).sqrt();
                let most = match float {
                    Float::F32 => 2e-6,
                    Float::F16 => 5e-4,
                    Float::Bf16 => 4e-3,
                };
                assert!(
                    error <= most,
                    "{:?} ({n}, {cols}) {float:?} {tier:?}: {error:e}",
                    case.layout
                );
            }
        }
    }
}

#[test]
fn a_row_beside_blocks_does_not_depend_on_its_company() {
    let mut random = Random(32);
    for case in cases(&mut random) {
        let x = random.normals(MOST_ROWS * case.cols);
        for float in FLOATS {
            let x = rounded(float, &x);
            let (row_in, row_out) = (case.cols * float.nbytes(), case.rows * float.nbytes());
            for tier in tiers() {
                let alone: Vec<u8> = (x.chunks(row_in))
                    .flat_map(|x| case.times(tier, float, x))
                    .collect();
                for rows in ROWS {
                    // from the first row on, and with other neighbours
                    for skip in [0, MOST_ROWS - rows] {
                        let some = skip * row_in..(skip + rows) * row_in;
                        let found = case.times(tier, float, &x[some]);
                        let expected = &alone[skip * row_out..][..rows * row_out];
                        assert!(
                            found == expected,
                            "{:?} ({}, {}) {float:?} {tier:?} {rows}",
                            case.layout,
                            case.rows,
                            case.cols
                        );
                    }
                }
            }
        }
    }
}

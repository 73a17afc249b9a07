//! Products of few rows, against f64, and the same whoever is beside them.

use airllm_rs::quant::float::Float;
use airllm_rs::quant::layout::Layout;
use airllm_rs::quant::product::{Activations, MOST_ROWS, Product, products};
use airllm_rs::quant::team::Output;
use airllm_rs::quant::tier::Tier;
use airllm_rs::quant::weight::{Parts, Weight};

use crate::quant::numbers::{FLOATS, Numbers, tiers, wide};

const SHAPES: [(usize, usize); 7] = [
    (1, 1),
    (3, 31),
    (64, 64),
    (67, 100),
    (130, 256),
    (65, 4096 + 33),
    (8, 14336),
];

struct Case {
    layout: Layout,
    rows: usize,
    cols: usize,
    q: Vec<u8>,
}

impl Case {
    fn new(numbers: &mut Numbers, stored: Float, rows: usize, cols: usize) -> Self {
        Self {
            layout: Layout::Dense(stored),
            rows,
            cols,
            q: numbers.bytes(stored, rows * cols),
        }
    }

    fn weight(&self) -> Weight<'_> {
        let parts = Parts {
            q: &self.q,
            ..Parts::default()
        };
        Weight::new(&self.layout, self.rows, self.cols, parts).unwrap()
    }

    fn times(&self, tier: Tier, float: Float, x: &[u8], bias: Option<&[u8]>) -> Vec<u8> {
        let rows = x.len() / (self.cols * float.nbytes());
        let mut out = vec![0; rows * self.rows * float.nbytes()];
        let x = Activations {
            float,
            rows,
            cols: self.cols,
            bytes: x,
        };
        let product = Product {
            weight: self.weight(),
            bias,
            out: Output::new(&mut out),
            stride: self.rows,
        };
        products(tier, x, &mut [product]).unwrap();
        out
    }
}

fn norm(numbers: &[f64]) -> f64 {
    numbers
        .iter()
        .map(|number| number * number)
        .sum::<f64>()
        .sqrt()
}

#[test]
fn sums_are_near_those_of_f64() {
    let mut numbers = Numbers::new(3);
    for (rows, cols) in SHAPES {
        for stored in FLOATS {
            let case = Case::new(&mut numbers, stored, rows, cols);
            let w = wide(stored, &case.q);
            for float in FLOATS {
                let x = numbers.bytes(float, 5 * cols);
                let bias = numbers.bytes(float, rows);
                let (xs, biases) = (wide(float, &x), wide(float, &bias));
                for tier in tiers() {
                    let out = wide(float, &case.times(tier, float, &x, Some(&bias)));
                    for (m, x) in xs.chunks_exact(cols).enumerate() {
                        for (row, w) in w.chunks_exact(cols).enumerate() {
                            let sum: f64 = w.iter().zip(x).map(|(w, x)| w * x).sum();
                            let expected = sum + biases[row];
                            let found = out[m * rows + row];
                            let (of_size, of_result) = match float {
                                Float::F32 => (2e-6, 1e-7),
                                Float::F16 => (2e-6, 5e-4),
                                Float::Bf16 => (2e-6, 4e-3),
                            };
                            let allowed =
                                of_size * (norm(w) * norm(x) + 1.0) + of_result * expected.abs();
                            assert!(
                                (found - expected).abs() <= allowed,
                                "{tier:?} {stored:?} x {float:?} ({rows}, {cols}) at {m}, {row}: \
                                 {found} in place of {expected}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_see_its_neighbours() {
    let mut numbers = Numbers::new(4);
    for (rows, cols) in SHAPES {
        for (stored, float) in FLOATS
            .into_iter()
            .zip([Float::F32, Float::Bf16, Float::Bf16])
        {
            let case = Case::new(&mut numbers, stored, rows, cols);
            let x = numbers.bytes(float, MOST_ROWS * cols);
            let (x_row, out_row) = (cols * float.nbytes(), rows * float.nbytes());
            for tier in tiers() {
                let all = case.times(tier, float, &x, None);
                for count in [1, 2, 3, 4, 5, 7, 8, 9, 17] {
                    for first in [0, MOST_ROWS - count] {
                        let some = first * x_row..(first + count) * x_row;
                        let found = case.times(tier, float, &x[some], None);
                        let expected = &all[first * out_row..(first + count) * out_row];
                        assert!(
                            found == expected,
                            "{tier:?} {stored:?} x {float:?} ({rows}, {cols}), {count} of rows"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_weight_does_not_see_the_others() {
    let mut numbers = Numbers::new(5);
    let cols = 512;
    let x = numbers.bytes(Float::Bf16, 2 * cols);
    let cases: Vec<_> = [
        (100, Float::Bf16),
        (1, Float::F16),
        (64, Float::F32),
        (129, Float::Bf16),
    ]
    .into_iter()
    .map(|(rows, stored)| Case::new(&mut numbers, stored, rows, cols))
    .collect();
    for tier in tiers() {
        // all in one matrix of results, side by side
        let stride: usize = cases.iter().map(|case| case.rows).sum();
        let mut out = vec![0_u8; 2 * stride * 2];
        let mut rest = &mut out[..];
        let mut outs = Vec::new();
        for case in &cases {
            // parts overlap in memory, not in columns: each call of its own
            outs.push(case.times(tier, Float::Bf16, &x, None));
        }
        let mut separate: Vec<Vec<u8>> = cases.iter().map(|c| vec![0; 2 * c.rows * 2]).collect();
        let mut all: Vec<_> = cases
            .iter()
            .zip(&mut separate)
            .map(|(case, out)| Product {
                weight: case.weight(),
                bias: None,
                out: Output::new(out),
                stride: case.rows,
            })
            .collect();
        let given = Activations {
            float: Float::Bf16,
            rows: 2,
            cols,
            bytes: &x,
        };
        products(tier, given, &mut all).unwrap();
        assert!(separate == outs, "{tier:?}");
        for case in &cases {
            let product = Product {
                weight: case.weight(),
                bias: None,
                out: Output::new(rest),
                stride,
            };
            products(tier, given, &mut [product]).unwrap();
            rest = &mut rest[case.rows * 2..];
        }
        for (m, row) in out.chunks_exact(stride * 2).enumerate() {
            let mut row = row;
            for (case, out) in cases.iter().zip(&outs) {
                let (found, others) = row.split_at(case.rows * 2);
                assert!(found == &out[m * case.rows * 2..(m + 1) * case.rows * 2]);
                row = others;
            }
        }
    }
}

#[test]
fn nan_and_infinities_stay_in_their_rows() {
    let mut numbers = Numbers::new(6);
    let mut case = Case::new(&mut numbers, Float::F32, 9, 70);
    case.q[3 * 70 * 4..][..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    case.q[5 * 70 * 4 + 69 * 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let mut x = vec![0; 4 * 70 * 2];
    for item in x.chunks_exact_mut(4) {
        item.copy_from_slice(&1.0_f32.to_le_bytes());
    }
    for tier in tiers() {
        let out = wide(Float::F32, &case.times(tier, Float::F32, &x, None));
        for (index, number) in out.into_iter().enumerate() {
            match index % 9 {
                3 => assert_eq!(number, f64::INFINITY, "{tier:?}"),
                5 => assert!(number.is_nan(), "{tier:?}"),
                _ => assert!(number.is_finite(), "{tier:?}"),
            }
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let case = Case::new(&mut Numbers::new(7), Float::F32, 4, 8);
    let x = [0_u8; 2 * 8 * 4];
    let given = |rows, cols| Activations {
        float: Float::F32,
        rows,
        cols,
        bytes: &x,
    };
    let refused = |x: Activations<'_>, bias: Option<&[u8]>, nbytes: usize, stride: usize| {
        let mut out = vec![0; nbytes];
        let product = Product {
            weight: case.weight(),
            bias,
            out: Output::new(&mut out),
            stride,
        };
        products(Tier::Scalar, x, &mut [product]).is_err()
    };
    assert!(!refused(given(2, 8), None, 32, 4));
    assert!(refused(given(2, 7), None, 32, 4));
    assert!(refused(given(1, 8), None, 32, 4));
    assert!(refused(given(2, 8), None, 31, 4));
    assert!(refused(given(2, 8), None, 32, 3));
    assert!(refused(given(2, 8), Some(&x[..15]), 32, 4));
}

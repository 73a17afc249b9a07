//! Layouts and shapes that make no sense are refused, or do no harm.

use airllm_rs::error::Error;
use airllm_rs::quant::dequantize::dequantize;
use airllm_rs::quant::float::Float;
use airllm_rs::quant::layout::{GgmlType, Layout};
use airllm_rs::quant::product::{Activations, Product, products};
use airllm_rs::quant::team::Output;
use airllm_rs::quant::weight::{Parts, Weight};

use super::{Random, tiers};

const NUMBERS: [usize; 14] = [
    0,
    1,
    2,
    3,
    4,
    8,
    16,
    17,
    32,
    64,
    100,
    256,
    1 << 63,
    usize::MAX,
];
const SHAPES: [(usize, usize); 15] = [
    (0, 0),
    (1, 0),
    (0, 64),
    (1, 1),
    (3, 2),
    (2, 63),
    (3, 64),
    (2, 100),
    (1, 256),
    (3, 300),
    (usize::MAX, 0),
    (usize::MAX, 2),
    (2, usize::MAX - 1),
    (1 << 40, 1 << 40),
    (1 << 62, 4),
];
const SCALES: [&str; 11] = [
    r#""f32""#,
    r#""f16""#,
    r#""bf16""#,
    r#""e8m0""#,
    r#""e4m3_global""#,
    r#""i8_row""#,
    r#""u8_row""#,
    r#"{"nested":{"block":0,"offset":0.5}}"#,
    r#"{"nested":{"block":1,"offset":1e39}}"#,
    r#"{"nested":{"block":3,"offset":-0.0}}"#,
    r#"{"nested":{"block":18446744073709551615,"offset":0.5}}"#,
];

fn descriptions() -> Vec<String> {
    let layout =
        |kind: &str, options: &str| format!(r#"{{"kind":"{kind}","options":{{{options}}}}}"#);
    let mut all: Vec<_> = (["F32", "F16", "BF16"].iter())
        .map(|float| format!(r#"{{"kind":"dense","options":"{float}"}}"#))
        .collect();
    for kind in GgmlType::ALL {
        all.push(format!(r#"{{"kind":"ggml","options":"{}"}}"#, kind.name()));
    }
    let codebook = vec!["1e39"; 16].join(",");
    let table = vec!["0.5"; 256].join(",");
    for number in NUMBERS {
        all.push(layout(
            "table8",
            &format!(r#""codebook":[{table}],"block":{number}"#),
        ));
        for scale in SCALES {
            all.push(layout(
                "lut4",
                &format!(
                    r#""codebook":[{codebook}],"block":{number},"scale":{scale},"low_first":true,"global_divides":true"#
                ),
            ));
            all.push(layout(
                "int8",
                &format!(r#""block":{number},"scale":{scale}"#),
            ));
            for other in [0, 2, usize::MAX] {
                all.push(layout(
                    "fp8",
                    &format!(
                        r#""is_e5m2":true,"block_rows":{other},"block_cols":{number},"scale":{scale}"#
                    ),
                ));
            }
        }
        for bits in [0, 1, 4, 5, 8, 9, 16, usize::MAX] {
            for zero in [r#""u8""#, r#"{"fixed":-2147483648}"#, r#"{"float":"F16"}"#] {
                for has_group_index in [true, false] {
                    all.push(layout(
                        "affine",
                        &format!(
                            r#""bits":{bits},"group":{number},"scale":"BF16","zero":{zero},"has_group_index":{has_group_index}"#
                        ),
                    ));
                }
            }
        }
    }
    all
}

#[test]
fn no_description_and_no_shape_makes_a_kernel_panic() {
    let mut random = Random(17);
    let bytes = random.bytes(8192);
    let zeros = vec![0; 8192];
    let mut outcomes = [0_usize; 2];
    for description in descriptions() {
        let Ok(layout) = Layout::from_json(&description) else {
            continue;
        };
        for (rows, cols) in SHAPES {
            for group in [&bytes, &zeros] {
                let parts = Parts {
                    q: &bytes,
                    scale: &bytes[1..],
                    row: &bytes[3..],
                    zero: &bytes[5..],
                    group,
                    nested_code: &bytes,
                    nested_scale: &bytes[7..],
                };
                let made = Weight::new(&layout, rows, cols, parts);
                outcomes[usize::from(made.is_ok())] += 1;
                let empty = Parts {
                    group,
                    ..Parts::default()
                };
                let made_of_nothing = Weight::new(&layout, rows, cols, empty);
                for weight in made.into_iter().chain(made_of_nothing) {
                    use_everywhere(&weight);
                }
            }
        }
    }
    assert!(outcomes[0] > 1000 && outcomes[1] > 1000, "{outcomes:?}");
}

fn use_everywhere(weight: &Weight<'_>) {
    let (rows, cols) = (weight.rows, weight.cols);
    if rows > 1 << 20 {
        return; // no columns, and no memory for results
    }
    for tier in tiers() {
        let mut out = vec![0; rows * cols * 2];
        dequantize(tier, weight, 0..rows, Float::Bf16, &mut out).unwrap();
        for (float, m) in [(Float::Bf16, 1), (Float::F32, 3)] {
            let x = vec![0; m * cols * float.nbytes()];
            let mut out = vec![0; m * rows * float.nbytes()];
            let given = Activations {
                float,
                rows: m,
                cols,
                bytes: &x,
            };
            let product = Product {
                weight: *weight,
                bias: None,
                stride: rows,
                out: Output::new(&mut out),
            };
            products(tier, given, &mut [product]).unwrap();
        }
    }
}

#[test]
fn what_is_wrong_with_a_layout_is_named() {
    let refused = |description: &str| {
        let layout = Layout::from_json(description).unwrap();
        Weight::new(&layout, 4, 64, Parts::default()).unwrap_err()
    };
    let found = refused(r#"{"kind":"int8","options":{"block":0,"scale":"f32"}}"#);
    assert!(matches!(
        found,
        Error::LayoutOption {
            option: "block",
            found: 0
        }
    ));
    let found = refused(
        r#"{"kind":"affine","options":{"bits":3,"group":64,"scale":"F16","zero":"u8","has_group_index":false}}"#,
    );
    assert_eq!(
        found.to_string(),
        "the layout of a packed weight: bits is 3"
    );
    let found = refused(
        r#"{"kind":"fp8","options":{"is_e5m2":false,"block_rows":1,"block_cols":1,"scale":"i8_row"}}"#,
    );
    assert_eq!(
        found.to_string(),
        "the layout of a packed weight: scales of fp8 cannot be I8Row"
    );
}

#[test]
fn rows_of_results_that_leave_the_memory_are_refused() {
    let layout = Layout::Dense(Float::F32);
    let bytes = [0; 64];
    let parts = Parts {
        q: &bytes,
        ..Parts::default()
    };
    let weight = Weight::new(&layout, 4, 4, parts).unwrap();
    for stride in [1 << 61, 1 << 62, 1 << 63, usize::MAX] {
        let mut out = [0; 64];
        let given = Activations {
            float: Float::F32,
            rows: 3,
            cols: 4,
            bytes: &bytes[..48],
        };
        for tier in tiers() {
            let product = Product {
                weight,
                bias: None,
                stride,
                out: Output::new(&mut out),
            };
            assert!(products(tier, given, &mut [product]).is_err());
        }
    }
}

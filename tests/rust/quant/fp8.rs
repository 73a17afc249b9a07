//! Eight-bit floats against their definition.

use airllm_rs::quant::float::Float;
use airllm_rs::quant::layout::{Fp8, Layout, ScaleKind};
use airllm_rs::quant::weight::{Parts, Weight};

use super::noise::{Noise, assert_decodes_to};

/// The value of the fields of a small float.
fn value(bits: u8, is_e5m2: bool) -> f32 {
    let (mantissa_bits, bias) = if is_e5m2 { (2, 15) } else { (3, 7) };
    let exponent = i32::from(bits & 0x7f) >> mantissa_bits;
    let mantissa = f32::from(bits & ((1 << mantissa_bits) - 1));
    let steps = f32::from(1_u8 << mantissa_bits);
    let sign = if bits & 0x80 == 0 { 1.0 } else { -1.0 };
    match (is_e5m2, exponent) {
        (false, _) if bits & 0x7f == 0x7f => f32::NAN,
        (true, 31) if mantissa == 0.0 => sign * f32::INFINITY,
        // the fields of a binary32
        (true, 31) => {
            f32::from_bits(u32::from(bits & 0x80) << 24 | 0x7fc0_0000 | u32::from(bits & 3) << 21)
        }
        (_, 0) => sign * mantissa / steps * 2.0_f32.powi(1 - bias),
        _ => sign * (1.0 + mantissa / steps) * 2.0_f32.powi(exponent - bias),
    }
}

fn check(rows: usize, cols: usize, block: (usize, usize), is_e5m2: bool, kind: ScaleKind) {
    let mut noise = Noise(0x9e37_79b9 + (rows * cols) as u64);
    let (block_rows, block_cols) = block;
    let layout = Layout::Fp8(Fp8 {
        is_e5m2,
        block_rows,
        block_cols,
        scale: kind,
    });
    let across = cols.div_ceil(block_cols);
    let count = rows.div_ceil(block_rows) * across;
    let mut q = noise.bytes(rows * cols);
    for (code, q) in (0..=255).zip(&mut q) {
        *q = code;
    }
    let (scale, scales): (_, Vec<f32>) = match kind {
        ScaleKind::E8m0 => {
            let bytes: Vec<u8> = noise.bytes(count).iter().map(|byte| byte % 255).collect();
            let values = bytes
                .iter()
                .map(|&byte| 2.0_f64.powi(i32::from(byte) - 127) as f32);
            let values = values.collect();
            (bytes, values)
        }
        _ => {
            let float = match kind {
                ScaleKind::F16 => Float::F16,
                ScaleKind::Bf16 => Float::Bf16,
                _ => Float::F32,
            };
            let bytes = noise.scales(float, count);
            let values = (0..count).map(|index| float.load(&bytes, index)).collect();
            (bytes, values)
        }
    };
    let expected: Vec<f32> = (0..rows * cols)
        .map(|index| {
            let (row, col) = (index / cols, index % cols);
            let scale = scales[row / block_rows * across + col / block_cols];
            value(q[index], is_e5m2) * scale
        })
        .collect();
    let parts = Parts {
        q: &q,
        scale: &scale,
        ..Parts::default()
    };
    let weight = Weight::new(&layout, rows, cols, parts).unwrap();
    let what = format!("({rows}, {cols}) by {block:?}, e5m2 {is_e5m2}, {kind:?}");
    assert_decodes_to(&weight, &expected, &what);
}

#[test]
fn each_tier_decodes_eight_bit_floats_exactly() {
    let shapes = [
        (4, 256, (1, 256)),
        (3, 512, (2, 128)),
        (5, 300, (2, 128)),
        (130, 131, (128, 128)),
        (7, 97, (3, 32)),
        (3, 1000, (100, 1000)),
        (2, 333, (1, 7)),
        (300, 1, (128, 128)),
    ];
    for (rows, cols, block) in shapes {
        for is_e5m2 in [false, true] {
            for kind in [
                ScaleKind::F32,
                ScaleKind::F16,
                ScaleKind::Bf16,
                ScaleKind::E8m0,
            ] {
                check(rows, cols, block, is_e5m2, kind);
            }
        }
    }
}

//! Integers with zero points against their formula.

use airllm_rs::quant::float::Float;
use airllm_rs::quant::layout::{Affine, Layout, Zero};
use airllm_rs::quant::weight::{Parts, Weight};

use super::noise::{Noise, assert_decodes_to};
use super::numbers::FLOATS;

fn check(rows: usize, cols: usize, affine: Affine) {
    let mut noise = Noise(0x5851_f42d + (rows * cols) as u64);
    let groups = cols.div_ceil(affine.group);
    let q = noise.bytes(rows * cols * affine.bits / 8);
    let scale = noise.scales(affine.scale, rows * groups);
    let zero = match affine.zero {
        Zero::Fixed(_) => Vec::new(),
        Zero::U8 => noise.bytes(rows * groups),
        Zero::Float(float) => noise.scales(float, rows * groups),
    };
    let index: Vec<u32> = match affine.has_group_index {
        true => (0..cols)
            .map(|_| (noise.next() % groups as u64) as u32)
            .collect(),
        false => (0..cols).map(|col| (col / affine.group) as u32).collect(),
    };
    let group: Vec<u8> = index.iter().flat_map(|group| group.to_le_bytes()).collect();
    let mut expected = Vec::new();
    for row in 0..rows {
        for col in 0..cols {
            let code = match affine.bits {
                4 => {
                    let byte = q[(row * cols + col) / 2];
                    if col % 2 == 0 { byte & 15 } else { byte >> 4 }
                }
                _ => q[row * cols + col],
            };
            let at = row * groups + index[col] as usize;
            let zero = match affine.zero {
                Zero::Fixed(zero) => zero as f32,
                Zero::U8 => f32::from(zero[at]),
                Zero::Float(float) => float.load(&zero, at),
            };
            expected.push(affine.scale.load(&scale, at) * (f32::from(code) - zero));
        }
    }
    let parts = Parts {
        q: &q,
        scale: &scale,
        zero: &zero,
        group: if affine.has_group_index { &group } else { &[] },
        ..Parts::default()
    };
    let what = format!("({rows}, {cols}), {affine:?}");
    let layout = Layout::Affine(affine);
    let weight = Weight::new(&layout, rows, cols, parts).unwrap();
    assert_decodes_to(&weight, &expected, &what);
}

#[test]
fn each_tier_decodes_integers_with_zero_points_exactly() {
    let shapes = [
        (3, 512, 128),
        (2, 300, 128),
        (5, 64, 32),
        (3, 130, 6),
        (2, 70, 70),
        (3, 66, 5),
    ];
    let zeros = [
        Zero::Fixed(8),
        Zero::U8,
        Zero::Float(Float::F16),
        Zero::Float(Float::F32),
    ];
    for (rows, cols, group) in shapes {
        for bits in [4, 8] {
            for zero in zeros {
                for scale in FLOATS {
                    for has_group_index in [false, true] {
                        let affine = Affine {
                            bits,
                            group,
                            scale,
                            zero,
                            has_group_index,
                        };
                        check(rows, cols, affine);
                    }
                }
            }
        }
    }
}

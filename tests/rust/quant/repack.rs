//! Packed integers of GPTQ, AWQ and compressed-tensors, packed here by their definitions.

use airllm_rs::error::Error;
use airllm_rs::quant::repack::{Packer, Shape, awq, gptq, scales, zeros};

use super::noise::Noise;

/// Where AWQ puts the eight columns of a word, from the lowest nibble up.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Integers of (rows, cols), row by row.
fn codes(noise: &mut Noise, shape: Shape) -> Vec<u8> {
    let mask = ((1_u32 << shape.bits) - 1) as u8;
    let bytes = noise.bytes(shape.rows * shape.cols);
    bytes.into_iter().map(|byte| byte & mask).collect()
}

/// Words of integers, lowest bits first.
fn pack(integers: impl Iterator<Item = u8>, bits: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut word = 0_u32;
    let mut filled = 0;
    for integer in integers {
        word |= u32::from(integer) << filled;
        filled += bits;
        if filled == 32 {
            bytes.extend(word.to_le_bytes());
            (word, filled) = (0, 0);
        }
    }
    assert_eq!(filled, 0);
    bytes
}

const SHAPES: [(usize, usize); 6] = [
    (8, 8),
    (16, 64),
    (128, 128),
    (136, 264),
    (328, 1000),
    (256, 0),
];

#[test]
fn gptq_weights_are_row_major_afterwards() {
    for (rows, cols) in SHAPES.into_iter().chain([(7, 16), (301, 24)]) {
        for bits in [4, 8] {
            let shape = Shape { rows, cols, bits };
            let codes = codes(&mut Noise(77), shape);
            let per_word = 32 / bits;
            let packed = pack(
                (0..cols / per_word).flat_map(|word| {
                    let codes = &codes;
                    (0..rows).flat_map(move |row| {
                        (0..per_word).map(move |place| codes[row * cols + word * per_word + place])
                    })
                }),
                bits,
            );
            let mut out = vec![0xee; rows * cols * bits / 8];
            gptq(&packed, shape, &mut out).unwrap();
            assert_eq!(out, pack(codes.iter().copied(), bits), "{shape:?}");
        }
    }
}

#[test]
fn awq_weights_are_row_major_afterwards() {
    for (rows, cols) in SHAPES {
        let shape = Shape {
            rows,
            cols,
            bits: 4,
        };
        let codes = codes(&mut Noise(78), shape);
        let packed = pack(
            (0..cols).flat_map(|col| {
                let codes = &codes;
                (0..rows / 8)
                    .flat_map(move |word| ORDER.map(|place| codes[(word * 8 + place) * cols + col]))
            }),
            4,
        );
        let mut out = vec![0xee; rows * cols / 2];
        awq(&packed, shape, &mut out).unwrap();
        assert_eq!(out, pack(codes.iter().copied(), 4), "{shape:?}");
    }
}

#[test]
fn zero_points_are_a_byte_each_afterwards() {
    for (rows, groups) in [(8, 1), (64, 7), (136, 33)] {
        for bits in [4, 8] {
            let shape = Shape {
                rows,
                cols: groups,
                bits,
            };
            let codes = codes(&mut Noise(79), shape);
            let at = |row: usize, group: usize| codes[row * groups + group];
            let mask = ((1_u32 << bits) - 1) as u8;
            let along_rows = pack(
                (0..groups)
                    .flat_map(|group| (0..rows).map(move |row| (row, group)))
                    .map(|(row, group)| at(row, group)),
                bits,
            );
            let less_one = pack(
                (0..groups)
                    .flat_map(|group| (0..rows).map(move |row| (row, group)))
                    .map(|(row, group)| at(row, group).wrapping_sub(1) & mask),
                bits,
            );
            let per_word = 32 / bits;
            let down_rows = pack(
                (0..rows / per_word)
                    .flat_map(|word| {
                        (0..groups).flat_map(move |group| {
                            (0..per_word).map(move |place| (word * per_word + place, group))
                        })
                    })
                    .map(|(row, group)| at(row, group)),
                bits,
            );
            let mut cases = vec![
                (Packer::Gptq, less_one),
                (Packer::GptqV2, along_rows),
                (Packer::CompressedTensors, down_rows),
            ];
            if bits == 4 {
                let interleaved = (0..groups)
                    .flat_map(|group| (0..rows).map(move |row| (row, group)))
                    .map(|(row, group)| at(row / 8 * 8 + ORDER[row % 8], group));
                cases.push((Packer::Awq, pack(interleaved, 4)));
            }
            for (packer, packed) in cases {
                let mut out = vec![0xee; rows * groups];
                zeros(packer, &packed, shape, &mut out).unwrap();
                assert_eq!(out, codes, "{packer:?} {shape:?}");
            }
        }
    }
}

#[test]
fn rows_of_zero_points_need_not_fill_the_last_word_of_compressed_tensors() {
    let shape = Shape {
        rows: 3,
        cols: 2,
        bits: 4,
    };
    // (1 word, 2 groups)
    let packed = [0x21, 0x03, 0, 0, 0x65, 0x07, 0, 0];
    let mut out = [0; 6];
    zeros(Packer::CompressedTensors, &packed, shape, &mut out).unwrap();
    assert_eq!(out, [1, 5, 2, 6, 3, 7]);
}

#[test]
fn scales_are_transposed() {
    for (rows, groups) in [(1, 1), (70, 3), (33, 40)] {
        let shape = Shape {
            rows,
            cols: groups,
            bits: 4,
        };
        let from = Noise(80).bytes(rows * groups * 2);
        let mut out = vec![0; from.len()];
        scales(&from, shape, &mut out).unwrap();
        for row in 0..rows {
            for group in 0..groups {
                let found = &out[(row * groups + group) * 2..][..2];
                assert_eq!(found, &from[(group * rows + row) * 2..][..2]);
            }
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let shape = Shape {
        rows: 16,
        cols: 16,
        bits: 4,
    };
    let (packed, mut out) = (vec![0; 128], vec![0; 128]);
    for shape in [
        Shape { cols: 12, ..shape },
        Shape { bits: 3, ..shape },
        Shape { bits: 0, ..shape },
        Shape {
            rows: usize::MAX,
            cols: 8,
            bits: 4,
        },
    ] {
        let fault = gptq(&packed, shape, &mut out).unwrap_err();
        assert!(matches!(fault, Error::RepackShape { .. }), "{fault}");
    }
    let fault = awq(&packed, Shape { bits: 8, ..shape }, &mut out).unwrap_err();
    assert!(matches!(fault, Error::RepackShape { .. }), "{fault}");
    for (packed, out) in [(&packed[..127], 128), (&packed[..], 127)] {
        for repack in [gptq, awq] {
            let mut out = vec![0; out];
            let fault = repack(packed, shape, &mut out).unwrap_err();
            assert!(matches!(fault, Error::RepackSize { .. }), "{fault}");
        }
    }
    let fault = zeros(Packer::Awq, &packed, shape, &mut out).unwrap_err();
    assert!(matches!(fault, Error::RepackSize { .. }), "{fault}");
}

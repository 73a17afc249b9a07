//! Integers as GPTQ, AWQ and compressed-tensors pack them, made what [`crate::quant::layout::Affine`]
//! reads: row-major, low nibble first. Nothing is lost.

use std::sync::Mutex;

use crate::error::Error;
use crate::quant::float::u32_at;
use crate::quant::team;

/// Where AWQ keeps the columns of a word: the lowest nibble is column 0, the next one column 2.
const AWQ_COLUMNS: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

// Rows of a result that are made at a time, and words of each: cache lines, read and written whole.
const TILE_ROWS: usize = 128;
const TILE_WORDS: usize = 16;

type Tile = [[u32; TILE_WORDS]; TILE_ROWS];

/// Who packed zero points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packer {
    /// GPTQ: words of (groups, rows / 8); one less is stored.
    Gptq,
    /// GPTQ, `gptq_v2`: the same, stored as they are.
    GptqV2,
    /// AWQ: as `GptqV2`, in AWQ's order of columns.
    Awq,
    /// compressed-tensors: words of (rows / 8, groups), the last one perhaps not full.
    CompressedTensors,
}

/// The shape of a result, and the bits of its integers.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Outputs of the weight.
    pub rows: usize,
    /// Inputs of the weight, or groups of them.
    pub cols: usize,
    /// Of each integer: 4 or 8.
    pub bits: usize,
}

impl Shape {
    fn fault(self) -> Error {
        Error::RepackShape {
            rows: self.rows,
            cols: self.cols,
            bits: self.bits,
        }
    }

    /// Integers of a word of four bytes.
    fn per_word(self) -> Result<usize, Error> {
        match self.bits {
            4 | 8 => Ok(32 / self.bits),
            _ => Err(self.fault()),
        }
    }

    /// Words that so many integers fill.
    fn words(self, items: usize) -> Result<usize, Error> {
        let per_word = self.per_word()?;
        match items.is_multiple_of(per_word) {
            true => Ok(items / per_word),
            false => Err(self.fault()),
        }
    }

    /// Check that `what` has exactly the product of `sizes` bytes.
    fn check(self, what: &'static str, found: usize, sizes: [usize; 3]) -> Result<(), Error> {
        let [a, b, c] = sizes;
        let needed = a.checked_mul(b).and_then(|count| count.checked_mul(c));
        let needed = needed.ok_or_else(|| self.fault())?;
        match found == needed {
            true => Ok(()),
            false => Err(Error::RepackSize {
                what,
                needed,
                found,
            }),
        }
    }
}

/// Repack GPTQ's `qweight`: words of (cols / 8, rows), or (cols / 4, rows) for 8 bits.
///
/// # Errors
/// `RepackShape` when the columns do not fill words, `RepackSize` when bytes are missing or left.
pub fn gptq(qweight: &[u8], shape: Shape, out: &mut [u8]) -> Result<(), Error> {
    let words = shape.words(shape.cols)?;
    shape.check("qweight", qweight.len(), [words, shape.rows, 4])?;
    shape.check("the repacked weight", out.len(), [shape.rows, words, 4])?;
    // a word is a word of the result: eight consecutive columns, the lowest first
    each_tile(words, out, &|row, word, tile, (rows, words)| {
        for index in 0..words {
            let from = &qweight[((word + index) * shape.rows + row) * 4..][..rows * 4];
            for (from, to) in from.as_chunks().0.iter().zip(tile.iter_mut()) {
                to[index] = u32::from_le_bytes(*from);
            }
        }
    });
    Ok(())
}

/// Repack AWQ's `qweight` (GEMM) of four bits: words of (cols, rows / 8).
///
/// # Errors
/// `RepackShape` when columns or rows do not fill words, `RepackSize` when bytes are missing or left.
pub fn awq(qweight: &[u8], shape: Shape, out: &mut [u8]) -> Result<(), Error> {
    let across = shape.words(shape.rows)?;
    let words = shape.words(shape.cols)?;
    if shape.bits != 4 {
        return Err(shape.fault());
    }
    shape.check("qweight", qweight.len(), [shape.cols, across, 4])?;
    shape.check("the repacked weight", out.len(), [shape.rows, words, 4])?;
    each_tile(words, out, &|row, word, tile, (rows, words)| {
        const LANES: usize = TILE_ROWS / 8;
        for index in 0..words {
            let mut lanes = [[0; LANES]; 8];
            for (col, lanes) in lanes.iter_mut().enumerate() {
                let first = ((word + index) * 8 + col) * across + row / 8;
                let from = qweight[first * 4..][..rows / 2].as_chunks().0;
                for (from, lane) in from.iter().zip(lanes) {
                    *lane = u32::from_le_bytes(*from);
                }
            }
            exchange::<4, LANES>(&mut lanes, 0x0000_ffff);
            exchange::<2, LANES>(&mut lanes, 0x00ff_00ff);
            exchange::<1, LANES>(&mut lanes, 0x0f0f_0f0f);
            for (lanes, column) in lanes.iter().zip(AWQ_COLUMNS) {
                for (lane, to) in lanes.iter().zip(tile.as_chunks_mut::<8>().0) {
                    to[column][index] = *lane;
                }
            }
        }
    });
    Ok(())
}

/// Exchange the upper `BY` nibbles of every `2 BY` with the lower ones of the word `BY` after.
///
/// By 4, 2 and 1 in turn this transposes eight words of eight nibbles.
fn exchange<const BY: usize, const LANES: usize>(words: &mut [[u32; LANES]; 8], low: u32) {
    for first in (0..8).filter(|index| index & BY == 0) {
        let (head, tail) = words.split_at_mut(first + BY);
        for (a, b) in head[first].iter_mut().zip(&mut tail[0]) {
            let differ = (*a >> (4 * BY) ^ *b) & low;
            *b ^= differ;
            *a ^= differ << (4 * BY);
        }
    }
}

/// Write the words of a result tile by tile: `fill` gets the first row and word, and how many of
/// them there are.
fn each_tile(
    words: usize,
    out: &mut [u8],
    fill: &(dyn Fn(usize, usize, &mut Tile, (usize, usize)) + Sync),
) {
    if words == 0 {
        return;
    }
    let bands: Vec<_> = out
        .chunks_mut(TILE_ROWS * words * 4)
        .map(Mutex::new)
        .collect();
    team::run(bands.len(), &|band| {
        // Each band is taken by one thread, so nobody ever waits.
        let Ok(mut out) = bands[band].lock() else {
            return;
        };
        let rows = out.len() / (words * 4);
        let mut tile = [[0; TILE_WORDS]; TILE_ROWS];
        for first in (0..words).step_by(TILE_WORDS) {
            let count = TILE_WORDS.min(words - first);
            fill(band * TILE_ROWS, first, &mut tile, (rows, count));
            for (out, tile) in out.chunks_exact_mut(words * 4).zip(&tile) {
                let out = out[first * 4..][..count * 4].as_chunks_mut().0;
                for (out, word) in out.iter_mut().zip(tile) {
                    *out = word.to_le_bytes();
                }
            }
        }
    });
}

/// Unpack zero points to one byte each, (rows, groups); `shape.cols` is the groups.
///
/// # Errors
/// `RepackShape` when the rows do not fill words, `RepackSize` when bytes are missing or left.
pub fn zeros(packer: Packer, packed: &[u8], shape: Shape, out: &mut [u8]) -> Result<(), Error> {
    let per_word = shape.per_word()?;
    let words = match packer {
        Packer::CompressedTensors => shape.rows.div_ceil(per_word),
        Packer::Gptq | Packer::GptqV2 | Packer::Awq => shape.words(shape.rows)?,
    };
    if packer == Packer::Awq && shape.bits != 4 {
        return Err(shape.fault());
    }
    shape.check("packed zero points", packed.len(), [words, shape.cols, 4])?;
    shape.check("unpacked zero points", out.len(), [shape.rows, shape.cols, 1])?;
    let (mask, add) = (
        (1_u32 << shape.bits) - 1,
        u32::from(packer == Packer::Gptq),
    );
    let row_of = |place: usize| match packer {
        Packer::Awq => AWQ_COLUMNS[place],
        _ => place,
    };
    let bands = out.chunks_mut((per_word * shape.cols).max(1));
    for (word, out) in bands.enumerate() {
        for group in 0..shape.cols {
            let word = match packer {
                Packer::CompressedTensors => u32_at(packed, word * shape.cols + group),
                _ => u32_at(packed, group * words + word),
            };
            for place in 0..per_word {
                // the last word need not be full
                if let Some(out) = out.get_mut(row_of(place) * shape.cols + group) {
                    *out = ((word >> (place * shape.bits)) + add & mask) as u8;
                }
            }
        }
    }
    Ok(())
}

/// Transpose scales of two bytes each, (groups, rows), to (rows, groups); `shape.cols` is the groups.
///
/// # Errors
/// `RepackSize` when bytes are missing or left.
pub fn scales(scales: &[u8], shape: Shape, out: &mut [u8]) -> Result<(), Error> {
    shape.check("scales", scales.len(), [shape.cols, shape.rows, 2])?;
    shape.check("transposed scales", out.len(), [shape.rows, shape.cols, 2])?;
    let (scales, out) = (scales.as_chunks::<2>().0, out.as_chunks_mut::<2>().0);
    if shape.rows == 0 || shape.cols == 0 {
        return Ok(());
    }
    // rows of a cache line at a time
    for first in (0..shape.rows).step_by(32) {
        for (group, scales) in scales.chunks_exact(shape.rows).enumerate() {
            for (row, scale) in (first..shape.rows).zip(&scales[first..]).take(32) {
                out[row * shape.cols + group] = *scale;
            }
        }
    }
    Ok(())
}

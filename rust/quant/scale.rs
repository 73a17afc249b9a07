//! Scales of blocks, as f32, for the layouts that have them.

use std::ops::Range;

use crate::quant::float::{bf16_to_f32, e4m3_to_f32, e8m0_to_f32, f16_to_f32, f32_at, u16_at};
use crate::quant::groups::Units;
use crate::quant::layout::{Layout, ScaleKind};
use crate::quant::product::fetch;
use crate::quant::weight::{Parts, Weight};

/// The scales of a weight.
#[derive(Clone, Copy)]
pub(crate) struct Scales<'a> {
    kind: ScaleKind,
    cols: usize,
    global_divides: bool,
    parts: Parts<'a>,
}

impl<'a> Scales<'a> {
    pub(crate) fn new(weight: &Weight<'a>) -> Self {
        let global_divides = match weight.layout {
            Layout::Lut4(lut4) => lut4.global_divides,
            _ => false,
        };
        Self {
            kind: weight.layout.scale(),
            cols: weight.cols,
            global_divides,
            parts: weight.parts,
        }
    }

    /// The scale of block `index` of the flattened tensor, which weights of `row` are multiplied by.
    #[inline(always)]
    pub(crate) fn at(&self, index: usize, row: usize) -> f32 {
        let (scale, rows) = (self.parts.scale, self.parts.row);
        match self.kind {
            ScaleKind::F32 => f32_at(scale, index),
            ScaleKind::F16 => f16_to_f32(u16_at(scale, index)),
            ScaleKind::Bf16 => bf16_to_f32(u16_at(scale, index)),
            ScaleKind::Scb => f32_at(scale, index) * (1.0 / 127.0),
            ScaleKind::E8m0 => e8m0_to_f32(scale[index]),
            ScaleKind::E4m3Global if self.global_divides => {
                e4m3_to_f32(scale[index]) / f32_at(rows, 0)
            }
            ScaleKind::E4m3Global => e4m3_to_f32(scale[index]) * f32_at(rows, 0),
            ScaleKind::I8Row => f32::from(scale[index].cast_signed()) * f32_at(rows, row),
            ScaleKind::U8Row => f32::from(scale[index]) * f32_at(rows, row),
            ScaleKind::Nested { block, offset } => {
                let code = f32_at(self.parts.nested_code, usize::from(scale[index]));
                code * f32_at(self.parts.nested_scale, index / block) + offset
            }
        }
    }

    /// Ask for the scales of `rows`, which are needed soon.
    #[inline(always)]
    pub(crate) fn fetch(&self, block: usize, rows: Range<usize>) {
        let size = match self.kind {
            ScaleKind::F32 | ScaleKind::Scb => 4,
            ScaleKind::F16 | ScaleKind::Bf16 => 2,
            _ => 1,
        };
        let end = self.parts.scale.len();
        let at = |row: usize| (row * self.cols / block * size).min(end);
        fetch(&self.parts.scale[at(rows.start)..at(rows.end)]);
    }

    /// Write the scales of the units of `row` from column `start` on; whether all are finite.
    #[inline(always)]
    pub(crate) fn fill(&self, units: Units, row: usize, start: usize, out: &mut [f32]) -> bool {
        if out.is_empty() {
            return true;
        }
        let start = row * self.cols + start;
        if units.cols == units.block {
            self.read(start / units.block, row, out);
        } else {
            let mut done = 0;
            while done < out.len() {
                let index = (start + done * units.cols) / units.block;
                let end = ((index + 1) * units.block - start).div_ceil(units.cols);
                let end = end.min(out.len());
                out[done..end].fill(self.at(index, row));
                done = end;
            }
        }
        // of what is finite, no bits are as large
        let largest = out
            .iter()
            .fold(0, |most, scale| most.max(scale.to_bits() & 0x7fff_ffff));
        largest < f32::INFINITY.to_bits()
    }

    /// Write scales from block `first` on, which all belong to `row`.
    #[inline(always)]
    fn read(&self, first: usize, row: usize, out: &mut [f32]) {
        let bytes = self.parts.scale;
        match self.kind {
            ScaleKind::F32 => {
                for (out, bytes) in out.iter_mut().zip(bytes[4 * first..].as_chunks::<4>().0) {
                    *out = f32::from_le_bytes(*bytes);
                }
            }
            ScaleKind::I8Row => {
                let row = f32_at(self.parts.row, row);
                for (out, byte) in out.iter_mut().zip(&bytes[first..]) {
                    *out = f32::from(byte.cast_signed()) * row;
                }
            }
            ScaleKind::U8Row => {
                let row = f32_at(self.parts.row, row);
                for (out, byte) in out.iter_mut().zip(&bytes[first..]) {
                    *out = f32::from(*byte) * row;
                }
            }
            _ => {
                for (index, out) in (first..).zip(out) {
                    *out = self.at(index, row);
                }
            }
        }
    }
}

//! Scales of blocks, as f32, for the layouts that have them.

use crate::quant::float::{bf16_to_f32, e4m3_to_f32, e8m0_to_f32, f16_to_f32, f32_at, u16_at};
use crate::quant::layout::{Layout, ScaleKind};
use crate::quant::weight::{Parts, Weight};

/// The scales of a weight.
#[derive(Clone, Copy)]
pub(crate) struct Scales<'a> {
    kind: ScaleKind,
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
            ScaleKind::E8m0 => e8m0_to_f32(scale[index]),
            ScaleKind::E4m3Global if self.global_divides => {
                e4m3_to_f32(scale[index]) / f32_at(rows, 0)
            }
            ScaleKind::E4m3Global => e4m3_to_f32(scale[index]) * f32_at(rows, 0),
            ScaleKind::I8Row => f32::from(scale[index].cast_signed()) * f32_at(rows, row),
            ScaleKind::U8Row => f32::from(scale[index]) * f32_at(rows, row),
            ScaleKind::Nested { block, offset } => {
                let code = f32_at(self.parts.nested_code, usize::from(scale[index]));
                code * f32_at(self.parts.nested_scale, index / block.max(1)) + offset
            }
        }
    }
}

//! A packed weight: its layout, its shape, and the bytes of its parts.

use std::ops::Range;

use crate::error::Error;
use crate::quant::layout::{Layout, ScaleKind, Zero};

/// The bytes of a weight, empty where the layout has no such part.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts<'a> {
    /// The numbers, row-major.
    pub q: &'a [u8],
    /// Scales.
    pub scale: &'a [u8],
    /// One f32 per row, or one for all.
    pub row: &'a [u8],
    /// Zero points.
    pub zero: &'a [u8],
    /// The number of the group of each column, u32.
    pub group: &'a [u8],
    /// The table of nested scales: 256 numbers of f32.
    pub nested_code: &'a [u8],
    /// The scales of nested scales, f32.
    pub nested_scale: &'a [u8],
}

/// A matrix of shape (rows, cols), row-major, as its bytes lie.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    /// How bytes become numbers.
    pub layout: &'a Layout,
    /// Outputs of the product.
    pub rows: usize,
    /// Inputs of the product.
    pub cols: usize,
    /// The bytes.
    pub parts: Parts<'a>,
}

impl<'a> Weight<'a> {
    /// A weight whose parts are as large as layout and shape demand, so that no kernel has to look.
    ///
    /// # Errors
    /// `WeightPart` naming the part that is too small, `WeightShape` when the columns do not divide,
    /// `LayoutOption` and `LayoutScale` for a layout that no weight has.
    pub fn new(
        layout: &'a Layout,
        rows: usize,
        cols: usize,
        parts: Parts<'a>,
    ) -> Result<Self, Error> {
        layout.check()?;
        let weight = Self {
            layout,
            rows,
            cols,
            parts,
        };
        if let Some(step) = weight.indivisible() {
            return Err(Error::WeightShape { rows, cols, step });
        }
        let sizes = weight.needed().ok_or(Error::WeightShape {
            rows,
            cols,
            step: 1,
        })?;
        let found = [
            ("q", parts.q),
            ("scale", parts.scale),
            ("row", parts.row),
            ("zero", parts.zero),
            ("group", parts.group),
            ("nested_code", parts.nested_code),
            ("nested_scale", parts.nested_scale),
        ];
        for ((part, bytes), needed) in found.into_iter().zip(sizes) {
            if bytes.len() < needed {
                return Err(Error::WeightPart {
                    part,
                    needed,
                    found: bytes.len(),
                });
            }
        }
        if let Layout::Affine(affine) = layout {
            weight.check_groups(cols.div_ceil(affine.group))?;
        }
        Ok(weight)
    }

    /// What the columns have to be a multiple of and are not.
    fn indivisible(&self) -> Option<usize> {
        let step = match self.layout {
            Layout::Dense(_) | Layout::Table8(_) | Layout::Fp8(_) => 1,
            // blocks run along the flattened tensor; a byte belongs to one row
            Layout::Lut4(_) => 2,
            Layout::Int8(int8) => int8.block,
            Layout::Affine(affine) => 8 / affine.bits,
            Layout::Ggml(kind) => kind.block(),
        };
        (!self.cols.is_multiple_of(step)).then_some(step)
    }

    /// Bytes that the parts must have, in the order of [`Parts`]; None when it cannot be counted.
    fn needed(&self) -> Option<[usize; 7]> {
        let (rows, cols) = (self.rows, self.cols);
        let items = rows.checked_mul(cols)?;
        let mut sizes = [0; 7];
        let scales = match self.layout {
            Layout::Dense(float) => {
                sizes[0] = items.checked_mul(float.nbytes())?;
                0
            }
            Layout::Lut4(lut4) => {
                sizes[0] = items / 2;
                items.div_ceil(lut4.block)
            }
            Layout::Int8(int8) => {
                sizes[0] = items;
                items / int8.block
            }
            Layout::Fp8(fp8) => {
                sizes[0] = items;
                rows.div_ceil(fp8.block_rows) * cols.div_ceil(fp8.block_cols)
            }
            Layout::Affine(affine) => {
                sizes[0] = items.checked_mul(affine.bits)? / 8;
                let groups = rows.checked_mul(cols.div_ceil(affine.group))?;
                sizes[3] = match affine.zero {
                    Zero::Fixed(_) => 0,
                    Zero::U8 => groups,
                    Zero::Float(float) => groups.checked_mul(float.nbytes())?,
                };
                if affine.has_group_index {
                    sizes[4] = cols.checked_mul(4)?;
                }
                sizes[1] = groups.checked_mul(affine.scale.nbytes())?;
                return Some(sizes);
            }
            Layout::Table8(table8) => {
                sizes[0] = items;
                items.div_ceil(table8.block)
            }
            Layout::Ggml(kind) => {
                sizes[0] = (items / kind.block()).checked_mul(kind.block_bytes())?;
                0
            }
        };
        let kind = self.layout.scale();
        let (scale_bytes, row_bytes) = match kind {
            ScaleKind::F32 | ScaleKind::Scb => (4, 0),
            ScaleKind::F16 | ScaleKind::Bf16 => (2, 0),
            ScaleKind::E8m0 => (1, 0),
            ScaleKind::E4m3Global => (1, 4),
            ScaleKind::I8Row | ScaleKind::U8Row => (1, rows.checked_mul(4)?),
            ScaleKind::Nested { block, .. } => {
                sizes[5] = 256 * 4;
                sizes[6] = scales.div_ceil(block).checked_mul(4)?;
                (1, 0)
            }
        };
        if scales > 0 {
            sizes[1] = scales.checked_mul(scale_bytes)?;
            sizes[2] = row_bytes;
        }
        Some(sizes)
    }

    fn check_groups(&self, groups: usize) -> Result<(), Error> {
        let largest = self
            .parts
            .group
            .chunks_exact(4)
            .take(self.cols)
            .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
            .max();
        match largest {
            Some(group) if group >= groups => Err(Error::WeightGroup { group, groups }),
            _ => Ok(()),
        }
    }

    /// The bytes of the part `q` for some columns, which begin at a multiple of 256, of a row; none after
    /// the last row.
    pub(crate) fn q_of(&self, row: usize, cols: Range<usize>) -> &'a [u8] {
        let nbytes = |cols: usize| match self.layout {
            Layout::Dense(float) => cols * float.nbytes(),
            Layout::Lut4(_) => cols / 2,
            Layout::Int8(_) | Layout::Fp8(_) | Layout::Table8(_) => cols,
            Layout::Affine(affine) => cols * affine.bits / 8,
            Layout::Ggml(kind) => cols / kind.block() * kind.block_bytes(),
        };
        let start = row * nbytes(self.cols);
        let bytes = start + nbytes(cols.start)..start + nbytes(cols.end);
        self.parts.q.get(bytes).unwrap_or_default()
    }

    /// Check that `rows` lie in the weight.
    ///
    /// # Panics
    /// If they do not: a mistake of this package.
    pub(crate) fn assert_rows(&self, rows: &Range<usize>) {
        assert!(
            rows.start <= rows.end && rows.end <= self.rows,
            "rows {rows:?} of a weight of {}",
            self.rows
        );
    }
}

impl Layout {
    /// Whether there can be such a weight at all.
    fn check(&self) -> Result<(), Error> {
        let positive = |option, found| match found {
            0 => Err(Error::LayoutOption { option, found }),
            _ => Ok(()),
        };
        match self {
            Self::Lut4(lut4) => positive("block", lut4.block)?,
            Self::Int8(int8) => positive("block", int8.block)?,
            Self::Table8(table8) => positive("block", table8.block)?,
            Self::Affine(affine) => {
                positive("group", affine.group)?;
                if !matches!(affine.bits, 4 | 8) {
                    return Err(Error::LayoutOption {
                        option: "bits",
                        found: affine.bits,
                    });
                }
            }
            Self::Fp8(fp8) => {
                positive("block_rows", fp8.block_rows)?;
                positive("block_cols", fp8.block_cols)?;
                match fp8.scale {
                    ScaleKind::F32 | ScaleKind::F16 | ScaleKind::Bf16 | ScaleKind::E8m0 => {}
                    found => {
                        return Err(Error::LayoutScale {
                            kind: "fp8",
                            found: format!("{found:?}"),
                        });
                    }
                }
            }
            Self::Dense(_) | Self::Ggml(_) => {}
        }
        match self.scale() {
            ScaleKind::Nested { block, .. } => positive("nested block", block),
            _ => Ok(()),
        }
    }

    /// What its scales are made of; F32 for a layout that has none of its own.
    pub(crate) fn scale(&self) -> ScaleKind {
        match self {
            Self::Lut4(lut4) => lut4.scale,
            Self::Int8(int8) => int8.scale,
            Self::Fp8(fp8) => fp8.scale,
            Self::Dense(_) | Self::Affine(_) | Self::Table8(_) | Self::Ggml(_) => ScaleKind::F32,
        }
    }
}

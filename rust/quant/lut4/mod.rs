//! Nibbles that index a table of 16: NF4, FP4, MXFP4, NVFP4, and this package's 4-bit schemes.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod product;
#[cfg(target_arch = "x86_64")]
mod product_avx2;
#[cfg(target_arch = "x86_64")]
mod product_avx512;

pub(crate) use self::product::product;

use std::ops::Range;

use crate::quant::dequantize::write_rounded;
use crate::quant::float::Float;
use crate::quant::groups::{self, Kernel, Span, Units};
use crate::quant::layout::{Layout, Lut4};
use crate::quant::scale::Scales;
use crate::quant::tier::Tier;
use crate::quant::weight::Weight;

/// See [`crate::quant::dequantize::write_columns`].
pub(crate) fn write_columns(
    tier: Tier,
    weight: &Weight<'_>,
    row: usize,
    cols: Range<usize>,
    float: Float,
    out: &mut [u8],
) {
    let kernel = Numbers {
        tier,
        lut4: layout(weight),
        weight,
    };
    let span = Span { row, cols, float };
    match Units::new(weight, kernel.lut4.block) {
        Some(units) if tier != Tier::Scalar && is_finite(kernel.lut4) => {
            groups::write(&kernel, weight, units, span, out);
        }
        _ => kernel.write_plainly(span, out),
    }
}

struct Numbers<'a> {
    tier: Tier,
    lut4: &'a Lut4,
    weight: &'a Weight<'a>,
}

impl Kernel for Numbers<'_> {
    const COLS_IN_BYTE: usize = 2;

    fn write_groups(&self, unit: usize, float: Float, from: (&[u8], &[f32]), out: &mut [u8]) {
        match self.tier {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the tier is available, as the caller of all kernels sees to.
            Tier::Avx512 | Tier::Avx512Bf16 => unsafe {
                avx512::write_groups(self.lut4, unit, float, from, out);
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Tier::Avx2 => unsafe { avx2::write_groups(self.lut4, unit, float, from, out) },
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => neon::write_groups(self.lut4, unit, float, from, out),
            _ => unreachable!("a tier of this processor"),
        }
    }

    /// The reference: one weight after the other, in two multiplications and a rounding.
    fn write_plainly(&self, span: Span, out: &mut [u8]) {
        let Self { lut4, weight, .. } = self;
        let scales = Scales::new(weight);
        let block = lut4.block;
        let start = span.row * weight.cols;
        let numbers = (start + span.cols.start..start + span.cols.end).map(|index| {
            let byte = weight.parts.q[index / 2];
            let is_high = index.is_multiple_of(2) != lut4.low_first;
            let code = if is_high { byte >> 4 } else { byte & 15 };
            lut4.codebook[usize::from(code)] * scales.at(index / block, span.row)
        });
        write_rounded(span.float, numbers, out);
    }
}

fn is_finite(lut4: &Lut4) -> bool {
    lut4.codebook.iter().all(|code| code.is_finite())
}

fn layout<'a>(weight: &Weight<'a>) -> &'a Lut4 {
    let Layout::Lut4(lut4) = weight.layout else {
        unreachable!("dispatched by layout");
    };
    lut4
}

//! Signed bytes times a scale.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

use std::ops::Range;

use crate::quant::dequantize::write_rounded;
use crate::quant::float::Float;
use crate::quant::groups::{self, Kernel, Span, Units};
use crate::quant::layout::{Int8, Layout};
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
        int8: layout(weight),
        weight,
    };
    let span = Span { row, cols, float };
    match Units::new(weight, kernel.int8.block) {
        Some(units) if tier != Tier::Scalar => groups::write(&kernel, weight, units, span, out),
        _ => kernel.write_plainly(span, out),
    }
}

struct Numbers<'a> {
    tier: Tier,
    int8: &'a Int8,
    weight: &'a Weight<'a>,
}

impl Kernel for Numbers<'_> {
    const COLS_IN_BYTE: usize = 1;

    fn write_groups(&self, unit: usize, float: Float, from: (&[u8], &[f32]), out: &mut [u8]) {
        match self.tier {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the tier is available, as the caller of all kernels sees to.
            Tier::Avx512 | Tier::Avx512Bf16 => unsafe {
                avx512::write_groups(unit, float, from, out);
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Tier::Avx2 => unsafe { avx2::write_groups(unit, float, from, out) },
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => neon::write_groups(unit, float, from, out),
            _ => unreachable!("a tier of this processor"),
        }
    }

    /// The reference: one weight after the other.
    fn write_plainly(&self, span: Span, out: &mut [u8]) {
        let scales = Scales::new(self.weight);
        let start = span.row * self.weight.cols;
        let numbers = (start + span.cols.start..start + span.cols.end).map(|index| {
            let code = f32::from(self.weight.parts.q[index].cast_signed());
            code * scales.at(index / self.int8.block, span.row)
        });
        write_rounded(span.float, numbers, out);
    }
}

fn layout<'a>(weight: &Weight<'a>) -> &'a Int8 {
    let Layout::Int8(int8) = weight.layout else {
        unreachable!("dispatched by layout");
    };
    int8
}

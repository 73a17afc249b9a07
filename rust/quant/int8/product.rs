//! Products of few rows with int8: sums of 64 columns are multiplied by their scale.

use std::ops::Range;

use crate::quant::float::Float;
use crate::quant::groups::Units;
use crate::quant::product::Prepared;
use crate::quant::strips::Job;
use crate::quant::tier::Tier;
use crate::quant::weight::Weight;

#[cfg(target_arch = "x86_64")]
use super::{product_avx2, product_avx512};

/// Write the sums of `rows` of a weight with each row of the activations, (rows, x.rows); false when
/// there is no kernel, which does not depend on the activations' number or values.
pub(crate) fn product(
    tier: Tier,
    weight: &Weight<'_>,
    rows: Range<usize>,
    x: &Prepared<'_>,
    sums: &mut [f32],
) -> bool {
    let units = match Units::new(weight, super::layout(weight).block) {
        Some(units) if units.cols == 64 && x.given.rows > 0 => units,
        _ => return false,
    };
    let job = Job {
        weight,
        units,
        rows,
        x,
    };
    match tier {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the tier is available, as the caller of all kernels sees to.
        Tier::Avx512Bf16 if x.given.float == Float::Bf16 => unsafe {
            product_avx512::halves(&job, sums);
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::Avx512 | Tier::Avx512Bf16 => unsafe { product_avx512::numbers(&job, sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::Avx2 => unsafe { product_avx2::numbers(&job, sums) },
        _ => return false,
    }
    true
}

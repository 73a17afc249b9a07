//! Products of few rows with lut4: codes are looked up and multiplied, and sums of a few columns that
//! share a scale are multiplied by it.

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
    let lut4 = super::layout(weight);
    let Some(units) = Units::new(weight, lut4.block) else {
        return false;
    };
    if !super::is_finite(lut4) || x.given.rows == 0 {
        return false;
    }
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
            product_avx512::halves(lut4, &job, sums);
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::Avx512 | Tier::Avx512Bf16 => unsafe { product_avx512::numbers(lut4, &job, sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::Avx2 => unsafe { product_avx2::numbers(lut4, &job, sums) },
        _ => return false,
    }
    true
}

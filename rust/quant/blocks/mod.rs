//! Products of few rows with blocks of integers: codes are multiplied as they are, and the sums of
//! columns that share a scale are multiplied by it. Minima meet sums of the activations.

#[cfg(target_arch = "x86_64")]
mod halves;
#[cfg(target_arch = "x86_64")]
mod numbers;
mod order;
#[cfg(target_arch = "x86_64")]
mod wide;

pub(crate) use self::order::Blocked;

use std::ops::Range;

use crate::quant::float::Float;
use crate::quant::layout::{Affine, Fp8, GgmlType, Layout, Zero};
use crate::quant::product::Prepared;
use crate::quant::tier::Tier;
use crate::quant::weight::Weight;

/// What kernels are called with: rows of a weight, of which `q` has the bytes.
struct Job<'a> {
    kind: Kind<'a>,
    q: &'a [u8],
    /// Bytes of a row.
    stride: usize,
    /// The number of the first row.
    first: usize,
    weight: &'a Weight<'a>,
    x: &'a Prepared<'a>,
    rows: usize,
}

/// What there are kernels for.
#[derive(Clone, Copy)]
enum Kind<'a> {
    Q4_0,
    Q4_1,
    Q8_0,
    Q4K,
    Q6K,
    Affine(&'a Affine),
    Fp8(&'a Fp8),
}

impl<'a> Kind<'a> {
    fn new(layout: &'a Layout, cols: usize) -> Option<Self> {
        match layout {
            Layout::Ggml(GgmlType::Q4_0) => Some(Self::Q4_0),
            Layout::Ggml(GgmlType::Q4_1) => Some(Self::Q4_1),
            Layout::Ggml(GgmlType::Q8_0) => Some(Self::Q8_0),
            Layout::Ggml(GgmlType::Q4_K) => Some(Self::Q4K),
            Layout::Ggml(GgmlType::Q6_K) => Some(Self::Q6K),
            Layout::Affine(affine) => {
                let is_whole = affine.group.is_multiple_of(128) && cols.is_multiple_of(128);
                // codes less the zero point have to be bfloat16
                let is_small = match affine.zero {
                    Zero::Fixed(zero) => (-200..=200).contains(&zero),
                    Zero::U8 => true,
                    Zero::Float(_) => false,
                };
                let is_plain = affine.bits == 4 && !affine.has_group_index;
                (is_whole && is_small && is_plain).then_some(Self::Affine(affine))
            }
            Layout::Fp8(fp8) => {
                let is_whole = fp8.block_cols.is_multiple_of(64) && cols.is_multiple_of(64);
                is_whole.then_some(Self::Fp8(fp8))
            }
            _ => None,
        }
    }
}

/// Write the sums of `rows` of a weight with each row of the activations, (rows, x.rows); false when
/// there is no kernel, which does not depend on the activations' number or values.
pub(crate) fn product(
    tier: Tier,
    weight: &Weight<'_>,
    rows: Range<usize>,
    x: &Prepared<'_>,
    sums: &mut [f32],
) -> bool {
    let Some(kind) = Kind::new(weight.layout, weight.cols) else {
        return false;
    };
    if weight.cols == 0 {
        return false;
    }
    let stride = match weight.layout {
        Layout::Ggml(kind) => weight.cols / kind.block() * kind.block_bytes(),
        Layout::Affine(_) => weight.cols / 2,
        _ => weight.cols,
    };
    let job = Job {
        kind,
        q: &weight.parts.q[rows.start * stride..rows.end * stride],
        stride,
        first: rows.start,
        weight,
        x,
        rows: rows.len(),
    };
    match tier {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the tier is available, as the caller of all kernels sees to.
        Tier::Avx512Bf16 if x.given.float == Float::Bf16 => unsafe {
            halves::product(&job, sums);
            true
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::Avx512 | Tier::Avx512Bf16 => unsafe { numbers::product(&job, sums) },
        _ => false,
    }
}

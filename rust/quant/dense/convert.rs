//! Numbers of one dtype as numbers of another.

#[cfg(target_arch = "x86_64")]
use crate::quant::dense::{avx2, avx512};
use crate::quant::dequantize::write_rounded;
use crate::quant::float::Float;
use crate::quant::tier::Tier;

// Dtypes as constant arguments of kernels.
pub(crate) const F32: u8 = 0;
pub(crate) const F16: u8 = 1;
pub(crate) const BF16: u8 = 2;

/// Bytes of an item of such a dtype.
#[cfg(target_arch = "x86_64")]
pub(crate) const fn nbytes(float: u8) -> usize {
    if float == F32 { 4 } else { 2 }
}

/// Call a function with a dtype as its constant argument.
#[cfg(target_arch = "x86_64")]
macro_rules! with_float {
    ($float:expr, $name:ident => $call:expr) => {
        match $float {
            $crate::quant::float::Float::F32 => {
                const $name: u8 = $crate::quant::dense::convert::F32;
                $call
            }
            $crate::quant::float::Float::F16 => {
                const $name: u8 = $crate::quant::dense::convert::F16;
                $call
            }
            $crate::quant::float::Float::Bf16 => {
                const $name: u8 = $crate::quant::dense::convert::BF16;
                $call
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use with_float;

/// Write numbers as another dtype, rounded to nearest even; the same bits in every tier.
///
/// # Panics
/// If the two are not of the same number of items.
pub(crate) fn convert(tier: Tier, from: Float, bytes: &[u8], to: Float, out: &mut [u8]) {
    let count = bytes.len() / from.nbytes();
    assert!(
        bytes.len() == count * from.nbytes() && out.len() == count * to.nbytes(),
        "numbers do not fit"
    );
    if from == to {
        out.copy_from_slice(bytes);
        return;
    }
    let done = match tier {
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 | Tier::Avx512Bf16 => {
            with_float!(from, FROM => with_float!(to, TO => {
                // SAFETY: a tier is only passed on where it is available, and both slices have
                // `count` items.
                unsafe { avx512::convert::<FROM, TO>(bytes.as_ptr(), out.as_mut_ptr(), count) }
            }))
        }
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => with_float!(from, FROM => with_float!(to, TO => {
            // SAFETY: as above.
            unsafe { avx2::convert::<FROM, TO>(bytes.as_ptr(), out.as_mut_ptr(), count) }
        })),
        _ => 0,
    };
    let numbers = (done..count).map(|index| from.load(bytes, index));
    write_rounded(to, numbers, &mut out[done * to.nbytes()..]);
}

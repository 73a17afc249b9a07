//! From scores to weights, in f32.

#[cfg(target_arch = "x86_64")]
use crate::quant::attention::{avx2, avx512};
use crate::quant::dense::dot::Lanes;
use crate::quant::tier::Tier;

/// Below this, e to its power is taken for zero: it would be subnormal.
#[cfg(target_arch = "x86_64")]
pub(super) const LEAST: f32 = -87.336_5;

/// The natural logarithm of 2 in two parts; products of the first with small integers are exact.
#[cfg(target_arch = "x86_64")]
pub(super) const LN_2_HIGH: f32 = 0.693_359_4;
#[cfg(target_arch = "x86_64")]
pub(super) const LN_2_LOW: f32 = -2.121_944_4e-4;

/// e to the power of a number within half of ln 2 of zero, highest power first: Taylor's, whose
/// error is below 2^-26.
#[cfg(target_arch = "x86_64")]
pub(super) const POLYNOMIAL: [f32; 8] = [
    1.0 / 5040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];

/// Scores become `most * tanh(score / most)`.
///
/// # Panics
/// If they are not a multiple of sixteen.
pub(super) fn cap(tier: Tier, scores: &mut [f32], most: f32) {
    let (scores, rest) = scores.as_chunks_mut::<16>();
    assert!(rest.is_empty(), "scores are padded");
    match tier {
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 | Tier::Avx512Bf16 => {
            // SAFETY: a tier is only passed on where it is available.
            unsafe { avx512::cap(scores, most) }
        }
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => {
            // SAFETY: as above.
            unsafe { avx2::cap(scores, most) }
        }
        _ => {
            for score in scores.as_flattened_mut() {
                *score = most * (*score / most).tanh();
            }
        }
    }
}

/// Scores become exponentials relative to the greatest; that, and their sum.
///
/// Number i goes to lane i mod 16 of the sum. Minus infinity becomes an exact zero.
///
/// # Panics
/// If they are not a multiple of sixteen.
pub(super) fn exponentials(tier: Tier, scores: &mut [f32]) -> (f32, f32) {
    let (scores, rest) = scores.as_chunks_mut::<16>();
    assert!(rest.is_empty(), "scores are padded");
    let mut greatest = Lanes([f32::NEG_INFINITY; 16]);
    for scores in &*scores {
        for (most, score) in greatest.0.iter_mut().zip(scores) {
            *most = if score > most { *score } else { *most };
        }
    }
    let greatest = greatest.0.into_iter().fold(f32::NEG_INFINITY, f32::max);
    // nothing but hidden keys: all become zero
    let zero = if greatest == f32::NEG_INFINITY {
        0.0
    } else {
        greatest
    };
    let sums = match tier {
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 | Tier::Avx512Bf16 => {
            // SAFETY: a tier is only passed on where it is available.
            unsafe { avx512::exponentials(scores, zero) }
        }
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => {
            // SAFETY: as above.
            unsafe { avx2::exponentials(scores, zero) }
        }
        _ => {
            let mut sums = Lanes::default();
            for scores in scores {
                for (sum, score) in sums.0.iter_mut().zip(scores) {
                    *score = (*score - zero).exp();
                    *sum += *score;
                }
            }
            sums
        }
    };
    (greatest, sums.sum())
}

//! Sums of rows, each times a number.

#[cfg(target_arch = "x86_64")]
use crate::quant::attention::{avx2, avx512};
#[cfg(target_arch = "x86_64")]
use crate::quant::dense::convert::with_float;
use crate::quant::dense::dot::Rows;
use crate::quant::tier::Tier;

// Rows that pass through the first cache at a time.
const ROWS: usize = 64;

/// Numbers by result and row: of each result contiguous, and so many apart.
#[derive(Clone, Copy)]
pub(super) struct Factors<'a> {
    pub(super) numbers: &'a [f32],
    pub(super) stride: usize,
}

/// Add to each of some results, `stride` items apart, the rows times its factors.
///
/// Each item of a result is one chain, in the order of the rows.
///
/// # Panics
/// If sizes do not fit together.
pub(super) fn mix(
    tier: Tier,
    rows: &Rows<'_>,
    factors: Factors<'_>,
    results: &mut [f32],
    (count, stride): (usize, usize),
) {
    if count == 0 || rows.rows == 0 || rows.cols == 0 {
        return;
    }
    assert!(
        (count - 1) * factors.stride + rows.rows <= factors.numbers.len(),
        "factors"
    );
    assert!((count - 1) * stride + rows.cols <= results.len(), "results");
    rows.assert_inside();
    let whole = match tier {
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 | Tier::Avx512 | Tier::Avx512Bf16 => rows.cols / 16 * 16,
        _ => 0,
    };
    for first in (0..rows.rows).step_by(ROWS) {
        let some = first..(first + ROWS).min(rows.rows);
        let factors = Factors {
            numbers: &factors.numbers[some.start..],
            ..factors
        };
        let numbers = rows.part(some, 0..rows.cols);
        match tier {
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 | Tier::Avx512Bf16 => with_float!(rows.float, V => {
                // SAFETY: a tier is only passed on where it is available; sizes are checked above.
                unsafe { avx512::mix::<V>(&numbers, factors, results, (count, stride)) }
            }),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => with_float!(rows.float, V => {
                // SAFETY: as above.
                unsafe { avx2::mix::<V>(&numbers, factors, results, (count, stride)) }
            }),
            _ => {}
        }
        if whole < rows.cols {
            mix_plain(&numbers, factors, results, (count, stride), whole);
        }
    }
}

/// Columns from `start` on, in plain Rust.
fn mix_plain(
    rows: &Rows<'_>,
    factors: Factors<'_>,
    results: &mut [f32],
    (count, stride): (usize, usize),
    start: usize,
) {
    for row in 0..rows.rows {
        let bytes = rows.row(row);
        for result in 0..count {
            let factor = factors.numbers[result * factors.stride + row];
            let result = &mut results[result * stride..][..rows.cols];
            for (col, sum) in result.iter_mut().enumerate().skip(start) {
                let number = rows.float.load(bytes, col);
                // elsewhere, a fused multiplication would be a call
                *sum = if cfg!(target_arch = "aarch64") {
                    number.mul_add(factor, *sum)
                } else {
                    number * factor + *sum
                };
            }
        }
    }
}

/// Define `mix`, the SIMD loop over whole groups of sixteen columns.
///
/// `load`, `store`, `splat`, `multiply_add` are those of the module's registers; `shapes` are
/// (results, groups of columns) that fit in them, large to small for each number of groups.
#[cfg(target_arch = "x86_64")]
macro_rules! mixes {
    ($features:literal, [$(($results:literal, $groups:literal)),+ $(,)?]) => {
        /// See `attention::mix::mix`; columns in whole groups of sixteen.
        ///
        /// # Safety
        /// There are as many factors, results and rows, these of dtype `V`, as this says.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn mix<const V: u8>(
            rows: &Rows<'_>,
            factors: Factors<'_>,
            results: &mut [f32],
            (count, stride): (usize, usize),
        ) {
            let groups = rows.cols / 16;
            let mut first = 0;
            while first < count {
                let mut results_taken = 0;
                let mut group = 0;
                while group < groups {
                    let mut taken = (0, 0);
                    $(
                        if taken.1 == 0
                            && groups - group >= $groups
                            && count - first >= $results
                            && (results_taken == 0 || results_taken == $results)
                        {
                            taken = ($results, $groups);
                        }
                    )+
                    results_taken = taken.0;
                    let at = Place {
                        rows: rows.bytes.as_ptr().wrapping_add(group * 16 * const { nbytes(V) }),
                        rows_stride: rows.stride,
                        count: rows.rows,
                        factors: factors.numbers.as_ptr().wrapping_add(first * factors.stride),
                        factors_stride: factors.stride,
                        results: results.as_mut_ptr().wrapping_add(first * stride + group * 16),
                        results_stride: stride,
                    };
                    match taken {
                        $(
                            // SAFETY: rows and columns are within those that the caller promises.
                            ($results, $groups) => unsafe { tile::<V, $results, $groups>(&at) },
                        )+
                        _ => unreachable!("there is a shape of one group for each"),
                    }
                    group += taken.1;
                }
                first += results_taken.max(1);
            }
        }

        struct Place {
            rows: *const u8,
            rows_stride: usize,
            count: usize,
            factors: *const f32,
            factors_stride: usize,
            results: *mut f32,
            results_stride: usize,
        }

        // Registers hold the sums of R results in G groups of columns.
        #[target_feature(enable = $features)]
        unsafe fn tile<const V: u8, const R: usize, const G: usize>(at: &Place) {
            let mut sums = [[splat(0.0); G]; R];
            for r in 0..R {
                for g in 0..G {
                    let from = at.results.wrapping_add(r * at.results_stride + g * 16);
                    // SAFETY: the caller promises results of that many columns.
                    sums[r][g] = unsafe { load::<F32>(from.cast()) };
                }
            }
            for row in 0..at.count {
                let numbers = at.rows.wrapping_add(row * at.rows_stride);
                let mut factors = [splat(0.0); R];
                for r in 0..R {
                    let from = at.factors.wrapping_add(r * at.factors_stride + row);
                    // SAFETY: there is a factor for each row and result.
                    factors[r] = splat(unsafe { *from });
                }
                for g in 0..G {
                    let from = numbers.wrapping_add(g * 16 * const { nbytes(V) });
                    _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(16 * at.rows_stride).cast());
                    // SAFETY: the columns are within those of the rows.
                    let numbers = unsafe { load::<V>(from) };
                    for r in 0..R {
                        sums[r][g] = multiply_add(numbers, factors[r], sums[r][g]);
                    }
                }
            }
            for r in 0..R {
                for g in 0..G {
                    let to = at.results.wrapping_add(r * at.results_stride + g * 16);
                    // SAFETY: as where they are loaded.
                    unsafe { store::<F32>(to.cast(), sums[r][g]) };
                }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use mixes;

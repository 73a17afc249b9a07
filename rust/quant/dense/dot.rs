//! Dot products of a few rows with a few others, in lanes that are summed at the end.
//!
//! Column c goes to lane c mod 16 (of bfloat16 pairs: pair c / 2 to lane c / 2 mod 16), in the order
//! of the columns; lanes are added as a tree. So the bits of a sum do not depend on how rows are
//! grouped, nor on where a range of columns is cut.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use crate::quant::dense::convert::with_float;
use crate::quant::dense::convert::{self, convert};
#[cfg(target_arch = "x86_64")]
use crate::quant::dense::{avx2, avx512, avx512bf16};
use crate::quant::float::Float;
use crate::quant::tier::Tier;

/// Ranges of columns are cut at multiples of this.
pub(crate) const STEP: usize = 32;

/// Parts of one sum.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Lanes(pub(crate) [f32; 16]);

/// Rows of numbers of one dtype.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub(crate) float: Float,
    pub(crate) bytes: &'a [u8],
    /// Bytes from one row to the next.
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl<'a> Rows<'a> {
    /// Some rows and columns.
    pub(crate) fn part(&self, rows: Range<usize>, cols: Range<usize>) -> Rows<'a> {
        let start = rows.start * self.stride + cols.start * self.float.nbytes();
        Rows {
            bytes: &self.bytes[start..],
            rows: rows.len(),
            cols: cols.len(),
            ..*self
        }
    }

    /// The same, copied to `bytes`, `stride` bytes apart.
    pub(crate) fn packed<'b>(&self, stride: usize, bytes: &'b mut [u8]) -> Rows<'b> {
        for (row, out) in bytes.chunks_mut(stride).take(self.rows).enumerate() {
            let given = self.row(row);
            out[..given.len()].copy_from_slice(given);
        }
        Rows {
            bytes,
            stride,
            ..*self
        }
    }

    pub(crate) fn row(&self, row: usize) -> &[u8] {
        &self.bytes[row * self.stride..][..self.cols * self.float.nbytes()]
    }

    pub(crate) fn assert_inside(&self) {
        let needed = match self.rows {
            0 => 0,
            rows => (rows - 1) * self.stride + self.cols * self.float.nbytes(),
        };
        assert!(
            needed <= self.bytes.len(),
            "rows of {needed} bytes in {}",
            self.bytes.len()
        );
    }
}

/// The dtype in which kernels want activations of dtype `x` for weights of dtype `w`.
pub(crate) fn activations(tier: Tier, w: Float, x: Float) -> Float {
    match (tier, w, x) {
        (Tier::Avx512Bf16, Float::Bf16, Float::Bf16) => Float::Bf16,
        _ => Float::F32,
    }
}

/// Add the products of rows with rows to `lanes`, (w.rows, x.rows).
///
/// `x` has the dtype that [`activations`] names. Columns are all of a row, or a range from a
/// multiple of [`STEP`] to a multiple of it or the end. Where `ahead` is not zero, weights are fetched
/// into the cache so many bytes before they are used.
///
/// # Panics
/// If sizes do not fit together.
pub(crate) fn dot(tier: Tier, w: &Rows<'_>, x: &Rows<'_>, lanes: &mut [Lanes], ahead: usize) {
    assert_eq!(w.cols, x.cols, "columns of weights and activations");
    assert_eq!(lanes.len(), w.rows * x.rows, "lanes for each pair");
    w.assert_inside();
    x.assert_inside();
    let whole = w.cols / STEP * STEP;
    dot_steps(tier, w, x, whole, lanes, ahead);
    if whole < w.cols {
        dot_rest(tier, w, x, whole, lanes);
    }
}

/// The last columns, filled up with zeros: they change nothing.
#[cold]
fn dot_rest(tier: Tier, w: &Rows<'_>, x: &Rows<'_>, start: usize, lanes: &mut [Lanes]) {
    let rest = |rows: &Rows<'_>, row: usize| {
        let mut padded = [0_u8; STEP * 4];
        let bytes = &rows.row(row)[start * rows.float.nbytes()..];
        padded[..bytes.len()].copy_from_slice(bytes);
        padded
    };
    for (row, lanes) in lanes.chunks_exact_mut(x.rows).enumerate() {
        let w_rest = rest(w, row);
        for (m, lanes) in lanes.iter_mut().enumerate() {
            let x_rest = rest(x, m);
            let one = |float: Float, bytes| Rows {
                float,
                bytes,
                stride: 0,
                rows: 1,
                cols: STEP,
            };
            let (w, x) = (one(w.float, &w_rest[..]), one(x.float, &x_rest[..]));
            dot_steps(tier, &w, &x, STEP, std::slice::from_mut(lanes), 0);
        }
    }
}

/// The first `cols` columns, a multiple of [`STEP`] that the rows have.
fn dot_steps(
    tier: Tier,
    w: &Rows<'_>,
    x: &Rows<'_>,
    cols: usize,
    lanes: &mut [Lanes],
    ahead: usize,
) {
    match (tier, x.float) {
        #[cfg(target_arch = "x86_64")]
        (Tier::Avx512Bf16, Float::Bf16) => {
            assert_eq!(w.float, Float::Bf16, "weights for these activations");
            // SAFETY: a tier is only passed on where it is available; `dot` has checked sizes.
            unsafe { avx512bf16::dot_rows::<{ convert::BF16 }>(w, x, cols, lanes, ahead) }
        }
        #[cfg(target_arch = "x86_64")]
        (Tier::Avx512 | Tier::Avx512Bf16, Float::F32) => with_float!(w.float, W => {
            // SAFETY: as above.
            unsafe { avx512::dot_rows::<W>(w, x, cols, lanes, ahead) }
        }),
        #[cfg(target_arch = "x86_64")]
        (Tier::Avx2, Float::F32) => with_float!(w.float, W => {
            // SAFETY: as above.
            unsafe { avx2::dot_rows::<W>(w, x, cols, lanes, ahead) }
        }),
        (_, Float::F32) => dot_plain(tier, w, x, cols, lanes),
        _ => unreachable!("activations are made as the kernels want them"),
    }
}

/// In plain Rust, in the same order of columns and lanes.
fn dot_plain(tier: Tier, w: &Rows<'_>, x: &Rows<'_>, cols: usize, lanes: &mut [Lanes]) {
    let mut numbers = [0_u8; STEP * 4];
    for (row, lanes) in lanes.chunks_exact_mut(x.rows).enumerate() {
        for col in (0..cols).step_by(STEP) {
            let at = col * w.float.nbytes()..(col + STEP) * w.float.nbytes();
            convert(tier, w.float, &w.row(row)[at], Float::F32, &mut numbers);
            for (m, lanes) in lanes.iter_mut().enumerate() {
                let x = &x.row(m)[col * 4..(col + STEP) * 4];
                for index in 0..STEP {
                    let (w, x) = (Float::F32.load(&numbers, index), Float::F32.load(x, index));
                    let lane = &mut lanes.0[index % 16];
                    // elsewhere, a fused multiplication would be a call
                    *lane = if cfg!(target_arch = "aarch64") {
                        w.mul_add(x, *lane)
                    } else {
                        w * x + *lane
                    };
                }
            }
        }
    }
}

/// The sums of some lanes, each as [`Lanes::sum`] has it.
///
/// # Panics
/// If there are not as many.
pub(crate) fn add_up(tier: Tier, lanes: &[Lanes], sums: &mut [f32]) {
    assert_eq!(lanes.len(), sums.len(), "a sum for each");
    let whole = match tier {
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 | Tier::Avx512 | Tier::Avx512Bf16 => {
            // SAFETY: a tier is only passed on where it is available.
            unsafe { avx2::add_up(lanes, sums) }
        }
        _ => 0,
    };
    for (sum, lanes) in sums.iter_mut().zip(lanes).skip(whole) {
        *sum = lanes.sum();
    }
}

impl Lanes {
    /// Their sum, as a tree.
    #[inline]
    pub(crate) fn sum(&self) -> f32 {
        let mut lanes = self.0;
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
        }
        lanes[0]
    }
}

//! Products with registers of 512 bits.
//!
//! 64 bytes of a row, shifted right by each multiple of four bits, are indices in every lane: of f32
//! lanes, the eight shifts reach 128 columns; of 16-bit lanes, four do. Activations are arranged to
//! match. In either case the f32 lane `i` of the sums holds the columns from `8 * i` on.

use std::arch::x86_64::*;

use crate::quant::arrange::{Halves, Numbers, Order};
use crate::quant::layout::{Lut4, ScaleKind};
use crate::quant::simd::filled_up;
use crate::quant::strips::{Job, Lone, Strip};
use crate::quant::x86::avx512::{as_bf16, bf16, load, load_f32, load_u16, load_u32, prefetch};
use crate::quant::x86::lone::{self, sixteen, walk_lone};
use crate::quant::x86::{cover, walk};

// Bytes of a row that are asked for ahead: of several in turn, and of one.
const AHEAD: usize = 1024;
const AHEAD_ALONE: usize = 4096;

/// In f32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn numbers(lut4: &Lut4, job: &Job<'_>, sums: &mut [f32]) {
    let x = job.x.arranged.numbers(job.x, Order::wide(lut4.low_first));
    let groups = x.len() / job.x.given.rows / 8;
    let kernel = Kernel {
        codebook: _mm512_castps_si512(load_f32(&lut4.codebook)),
        spread: spread(job.units.cols),
        per: 128 / job.units.cols,
        groups,
        x: x.as_chunks::<8>().0,
    };
    if lone::is_for(job, size_of_val(x)) {
        job.lone_rows(2, ScaleKind::I8Row, sums, |row| match kernel.per {
            2 => numbers_lone::<8>(&kernel, row),
            4 => numbers_lone::<4>(&kernel, row),
            _ => numbers_lone::<2>(&kernel, row),
        });
        return;
    }
    job.strips::<64>(2, sums, |strip, sums| {
        cover!(numbers_tile(&kernel, strip), sums, [2 x 8, 4 x 4, 4 x 2, 8 x 1]);
    });
}

/// In bfloat16, summed in f32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) fn halves(lut4: &Lut4, job: &Job<'_>, sums: &mut [f32]) {
    let x = job.x.arranged.halves(job.x, Order::halves(lut4.low_first));
    let groups = x.len() / job.x.given.rows / 4;
    let codebook = load_f32(&lut4.codebook);
    let kernel = Kernel {
        // twice, so that of the five bits of an index only four matter
        codebook: bf16(codebook, codebook),
        spread: spread(job.units.cols),
        per: 128 / job.units.cols,
        groups,
        x: x.as_chunks::<4>().0,
    };
    if lone::is_for(job, size_of_val(x)) {
        job.lone_rows(2, ScaleKind::I8Row, sums, |row| match kernel.per {
            2 => halves_lone::<8>(&kernel, row),
            4 => halves_lone::<4>(&kernel, row),
            _ => halves_lone::<2>(&kernel, row),
        });
        return;
    }
    job.strips::<64>(2, sums, |strip, sums| {
        cover!(halves_tile(&kernel, strip), sums, [2 x 8, 4 x 4, 4 x 2, 8 x 1]);
    });
}

struct Kernel<'a, X> {
    codebook: __m512i,
    /// Which of the scales of a group is that of each lane.
    spread: __m512i,
    /// Scales of a group.
    per: usize,
    /// Of a row of the activations.
    groups: usize,
    x: &'a [X],
}

impl<X> Kernel<'_, X> {
    #[inline(always)]
    fn rows<const WIDTH: usize>(&self, m: usize) -> [&[X]; WIDTH] {
        std::array::from_fn(|row| &self.x[(m + row) * self.groups..][..self.groups])
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn spread(unit: usize) -> __m512i {
    load_u32(&std::array::from_fn(|lane| (lane * 8 / unit) as u32))
}

/// The scales of a group, from `first` on, in its lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn scales_of(scales: &[f32], first: usize, spread: __m512i) -> __m512 {
    debug_assert!(first + 16 <= scales.len());
    let scales = scales.as_ptr().wrapping_add(first);
    // SAFETY: strips fill up their scales by 16.
    let scales = unsafe { _mm512_loadu_ps(scales) };
    _mm512_permutexvar_ps(spread, scales)
}

/// Where the scales of the lanes of each group are, of those of a span.
#[inline]
#[target_feature(enable = "avx512f")]
fn spreads<const SPAN: usize>(spread: __m512i) -> [__m512i; SPAN] {
    let mut spreads = [spread; SPAN];
    for (index, spread) in spreads.iter_mut().enumerate() {
        *spread = _mm512_add_epi32(*spread, _mm512_set1_epi32((index * 16 / SPAN) as i32));
    }
    spreads
}

/// The codes of a group as indices in f32 lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn numbers_indices(q: &[u8; 64]) -> [__m512i; 8] {
    let codes = load(q);
    [
        codes,
        _mm512_srli_epi32::<4>(codes),
        _mm512_srli_epi32::<8>(codes),
        _mm512_srli_epi32::<12>(codes),
        _mm512_srli_epi32::<16>(codes),
        _mm512_srli_epi32::<20>(codes),
        _mm512_srli_epi32::<24>(codes),
        _mm512_srli_epi32::<28>(codes),
    ]
}

/// The codes of a group as indices in lanes of 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn halves_indices(q: &[u8; 64]) -> [__m512i; 4] {
    let codes = load(q);
    [
        codes,
        _mm512_srli_epi16::<4>(codes),
        _mm512_srli_epi16::<8>(codes),
        _mm512_srli_epi16::<12>(codes),
    ]
}

/// The sum of a row, in spans of so many groups.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn numbers_lone<const SPAN: usize>(kernel: &Kernel<'_, [Numbers; 8]>, row: &Lone<'_>) -> f32 {
    const AHEAD: usize = AHEAD_ALONE;
    let codebook = _mm512_castsi512_ps(kernel.codebook);
    let spreads = spreads::<SPAN>(kernel.spread);
    let mut sum = _mm512_setzero_ps();
    walk_lone!(
        row[SPAN],
        kernel.x,
        |first| scales = sixteen::<true>(row.scales, first),
        |q, x, index| {
            let mut part = _mm512_setzero_ps();
            for (index, x) in numbers_indices(q).into_iter().zip(x) {
                let code = _mm512_permutexvar_ps(index, codebook);
                part = _mm512_fmadd_ps(code, load_f32(&x.0), part);
            }
            sum = _mm512_fmadd_ps(part, _mm512_permutexvar_ps(spreads[index], scales), sum);
        }
    );
    _mm512_reduce_add_ps(sum)
}

/// The sum of a row, in spans of so many groups.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn halves_lone<const SPAN: usize>(kernel: &Kernel<'_, [Halves; 4]>, row: &Lone<'_>) -> f32 {
    const AHEAD: usize = AHEAD_ALONE;
    let spreads = spreads::<SPAN>(kernel.spread);
    let mut sum = _mm512_setzero_ps();
    walk_lone!(
        row[SPAN],
        kernel.x,
        |first| scales = sixteen::<true>(row.scales, first),
        |q, x, index| {
            let mut part = _mm512_setzero_ps();
            for (index, x) in halves_indices(q).into_iter().zip(x) {
                let code = as_bf16(_mm512_permutexvar_epi16(index, kernel.codebook));
                part = _mm512_dpbf16_ps(part, code, as_bf16(load_u16(&x.0)));
            }
            sum = _mm512_fmadd_ps(part, _mm512_permutexvar_ps(spreads[index], scales), sum);
        }
    );
    _mm512_reduce_add_ps(sum)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn numbers_tile<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Numbers; 8]>,
    strip: &Strip<'_, 64>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let x: [&[[Numbers; 8]]; WIDTH] = kernel.rows(m);
    let codebook = _mm512_castsi512_ps(kernel.codebook);
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; ROWS];
    walk!(strip[row..ROWS], x, |q, index, group| {
        let mut parts = [_mm512_setzero_ps(); WIDTH];
        for (place, index) in numbers_indices(q).into_iter().enumerate() {
            let code = _mm512_permutexvar_ps(index, codebook);
            for m in 0..WIDTH {
                let x = load_f32(&x[m][group][place].0);
                parts[m] = _mm512_fmadd_ps(code, x, parts[m]);
            }
        }
        let scale = scales_of(strip.scales[row + index], group * kernel.per, kernel.spread);
        for m in 0..WIDTH {
            sums[index][m] = _mm512_fmadd_ps(parts[m], scale, sums[index][m]);
        }
    });
    let mut totals = [[0.0; WIDTH]; ROWS];
    for index in 0..ROWS {
        for m in 0..WIDTH {
            totals[index][m] = _mm512_reduce_add_ps(sums[index][m]);
        }
    }
    totals
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn halves_tile<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Halves; 4]>,
    strip: &Strip<'_, 64>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let x: [&[[Halves; 4]]; WIDTH] = kernel.rows(m);
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; ROWS];
    walk!(strip[row..ROWS], x, |q, index, group| {
        let mut parts = [_mm512_setzero_ps(); WIDTH];
        for (place, index) in halves_indices(q).into_iter().enumerate() {
            let code = as_bf16(_mm512_permutexvar_epi16(index, kernel.codebook));
            for m in 0..WIDTH {
                let x = as_bf16(load_u16(&x[m][group][place].0));
                parts[m] = _mm512_dpbf16_ps(parts[m], code, x);
            }
        }
        let scale = scales_of(strip.scales[row + index], group * kernel.per, kernel.spread);
        for m in 0..WIDTH {
            sums[index][m] = _mm512_fmadd_ps(parts[m], scale, sums[index][m]);
        }
    });
    let mut totals = [[0.0; WIDTH]; ROWS];
    for index in 0..ROWS {
        for m in 0..WIDTH {
            totals[index][m] = _mm512_reduce_add_ps(sums[index][m]);
        }
    }
    totals
}

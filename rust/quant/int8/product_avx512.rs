//! Products with registers of 512 bits.

use std::arch::x86_64::*;

use crate::quant::arrange::{Halves, Numbers, Order};
use crate::quant::layout::ScaleKind;
use crate::quant::simd::filled_up;
use crate::quant::strips::{Job, Lone, Strip};
use crate::quant::x86::avx2::load_half;
use crate::quant::x86::avx512::{as_bf16, load_f32, load_u16, prefetch, store_f32};
use crate::quant::x86::lone::{self, sixteen, walk_lone};
use crate::quant::x86::{cover, walk};

// Bytes of a row that are asked for ahead: of several in turn, and of one.
const AHEAD: usize = 2048;
const AHEAD_ALONE: usize = 4096;

/// In f32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn numbers(job: &Job<'_>, sums: &mut [f32]) {
    let x = job
        .x
        .arranged
        .numbers(job.x, Order::Plain)
        .as_chunks::<4>()
        .0;
    let groups = x.len() / job.x.given.rows;
    let kernel = Kernel { groups, x };
    if lone::is_for(job, size_of_val(x)) {
        job.lone_rows(1, ScaleKind::U8Row, sums, |row| numbers_lone(&kernel, row));
        return;
    }
    job.strips::<64>(1, sums, |strip, sums| {
        cover!(numbers_tile(&kernel, strip), sums, [2 x 8, 4 x 4, 4 x 2, 8 x 1]);
    });
}

/// In bfloat16, summed in f32: every code is one.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) fn halves(job: &Job<'_>, sums: &mut [f32]) {
    let x = job
        .x
        .arranged
        .halves(job.x, Order::Plain)
        .as_chunks::<2>()
        .0;
    let groups = x.len() / job.x.given.rows;
    let kernel = Kernel { groups, x };
    if lone::is_for(job, size_of_val(x)) {
        job.lone_rows(1, ScaleKind::U8Row, sums, |row| halves_lone(&kernel, row));
        return;
    }
    job.strips::<64>(1, sums, |strip, sums| {
        cover!(halves_tile(&kernel, strip), sums, [2 x 8, 4 x 4, 4 x 2, 8 x 1]);
    });
}

struct Kernel<'a, X> {
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn codes(q: &[u8; 16]) -> __m512 {
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_half(q)))
}

/// Scales where one of them can be read into all lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_memory(scales: __m512) -> Numbers {
    let mut numbers = Numbers([0.0; 16]);
    store_f32(scales, &mut numbers.0);
    numbers
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn numbers_lone(kernel: &Kernel<'_, [Numbers; 4]>, row: &Lone<'_>) -> f32 {
    const AHEAD: usize = AHEAD_ALONE;
    const SPAN: usize = 16;
    let mut sum = _mm512_setzero_ps();
    walk_lone!(
        row[SPAN],
        kernel.x,
        |first| scales = in_memory(sixteen::<false>(row.scales, first)),
        |q, x, index| {
            let mut part = _mm512_setzero_ps();
            for (q, x) in q.as_chunks::<16>().0.iter().zip(x) {
                part = _mm512_fmadd_ps(codes(q), load_f32(&x.0), part);
            }
            sum = _mm512_fmadd_ps(part, _mm512_set1_ps(scales.0[index]), sum);
        }
    );
    _mm512_reduce_add_ps(sum)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn halves_lone(kernel: &Kernel<'_, [Halves; 2]>, row: &Lone<'_>) -> f32 {
    const AHEAD: usize = AHEAD_ALONE;
    const SPAN: usize = 16;
    let mut sum = _mm512_setzero_ps();
    walk_lone!(
        row[SPAN],
        kernel.x,
        |first| scales = in_memory(sixteen::<false>(row.scales, first)),
        |q, x, index| {
            let mut part = _mm512_setzero_ps();
            for (q, x) in q.as_chunks::<32>().0.iter().zip(x) {
                let [low, high] = [0, 1].map(|half| codes(&q.as_chunks().0[half]));
                let codes = _mm512_cvtne2ps_pbh(high, low);
                part = _mm512_dpbf16_ps(part, codes, as_bf16(load_u16(&x.0)));
            }
            sum = _mm512_fmadd_ps(part, _mm512_set1_ps(scales.0[index]), sum);
        }
    );
    _mm512_reduce_add_ps(sum)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn numbers_tile<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Numbers; 4]>,
    strip: &Strip<'_, 64>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let x: [&[[Numbers; 4]]; WIDTH] = kernel.rows(m);
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; ROWS];
    walk!(strip[row..ROWS], x, |q, index, group| {
        let mut parts = [_mm512_setzero_ps(); WIDTH];
        for (place, q) in q.as_chunks::<16>().0.iter().enumerate() {
            let codes = codes(q);
            for m in 0..WIDTH {
                let x = load_f32(&x[m][group][place].0);
                parts[m] = _mm512_fmadd_ps(codes, x, parts[m]);
            }
        }
        let scale = _mm512_set1_ps(strip.scales[row + index][group]);
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
    kernel: &Kernel<'_, [Halves; 2]>,
    strip: &Strip<'_, 64>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let x: [&[[Halves; 2]]; WIDTH] = kernel.rows(m);
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; ROWS];
    walk!(strip[row..ROWS], x, |q, index, group| {
        let mut parts = [_mm512_setzero_ps(); WIDTH];
        let q = q.as_chunks::<16>().0;
        for place in 0..2 {
            let (low, high) = (codes(&q[2 * place]), codes(&q[2 * place + 1]));
            let codes = _mm512_cvtne2ps_pbh(high, low);
            for m in 0..WIDTH {
                let x = as_bf16(load_u16(&x[m][group][place].0));
                parts[m] = _mm512_dpbf16_ps(parts[m], codes, x);
            }
        }
        let scale = _mm512_set1_ps(strip.scales[row + index][group]);
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

//! Products in f32 with registers of 512 bits.

use std::arch::x86_64::*;

use crate::quant::arrange::Numbers;
use crate::quant::blocks::order::Order;
use crate::quant::blocks::wide::{
    Kernel, add, add_minima, ahead, four_of, group_of, half, parts, scales_and_minima,
    six_bit_codes, sixteen_scales, totals, two_halves, two_of,
};
use crate::quant::blocks::{Job, Kind};
use crate::quant::simd::{COUNT, fixed};
use crate::quant::x86::avx2::load_half;
use crate::quant::x86::avx512::{load, load_f32};
use crate::quant::x86::cover;

/// Write the sums of a job; false when there is no kernel.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn product(job: &Job<'_>, sums: &mut [f32]) -> bool {
    macro_rules! run {
        ($tile:ident, $order:expr, $sums:expr, $first:expr) => {{
            let table = _mm512_add_ps(load_f32(&COUNT), _mm512_set1_ps($first));
            let kernel = Kernel {
                job,
                x: job.x.blocked.numbers(job.x, $order).as_chunks().0,
                sums: $sums,
                table: [_mm512_castps_si512(table); 4],
            };
            cover!($tile(&kernel, job), sums, [1 x 8, 1 x 4, 1 x 2, 1 x 1]);
        }};
    }
    let blocked = &job.x.blocked;
    match job.kind {
        Kind::Q4_0 => run!(q4_0, Order::Plain, &[], -8.0),
        Kind::Q4_1 => run!(q4_1, Order::Plain, blocked.sums32(job.x), 0.0),
        Kind::Q8_0 => run!(q8_0, Order::Plain, &[], 0.0),
        Kind::Q4K => run!(q4_k, Order::Halves32(4), blocked.sums256(job.x), 0.0),
        Kind::Q6K => run!(q6_k, Order::Bytes(4), &[], 0.0),
        Kind::Affine(_) => run!(affine, Order::Nibbles(8), &[], 0.0),
        Kind::Fp8(_) => return false,
    }
    true
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn dot(sum: __m512, code: __m512, x: &Numbers) -> __m512 {
    _mm512_fmadd_ps(code, load_f32(&x.0), sum)
}

/// The numbers that the lowest bits of the lanes name.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn pick(index: __m512i, table: __m512i) -> __m512 {
    _mm512_permutexvar_ps(index, _mm512_castsi512_ps(table))
}

/// Lowest bytes as numbers, 32 less.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn centred(codes: __m512i) -> __m512 {
    let codes = _mm512_and_si512(codes, _mm512_set1_epi32(0xff));
    _mm512_cvtepi32_ps(_mm512_sub_epi32(codes, _mm512_set1_epi32(32)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn q4_0<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Numbers; 2]>,
    _: &Job<'_>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; 2];
    let blocks = kernel.row(row).as_chunks::<18>().0;
    let x = kernel.x::<WIDTH>(m, blocks.len());
    let mut step = 0;
    while step < blocks.len() {
        ahead(&blocks[step]);
        // in turn, so that a sum does not wait for the last
        for (sums, index) in sums.iter_mut().zip(step..blocks.len()) {
            let block = &blocks[index];
            let codes = _mm512_cvtepu8_epi32(load_half(fixed(block, 2)));
            let parts = parts!(dot, x[index], WIDTH, [
                0 => pick(codes, kernel.table[0]),
                1 => pick(_mm512_srli_epi32::<4>(codes), kernel.table[0]),
            ]);
            add(sums, parts, half(*fixed(block, 0)));
        }
        step += 2;
    }
    totals(sums)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn q4_1<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Numbers; 2]>,
    _: &Job<'_>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; 2];
    let blocks = kernel.row(row).as_chunks::<20>().0;
    let x = kernel.x::<WIDTH>(m, blocks.len());
    let of = kernel.sums::<WIDTH>(m, blocks.len());
    let mut step = 0;
    while step < blocks.len() {
        ahead(&blocks[step]);
        // in turn, so that a sum does not wait for the last
        for (sums, index) in sums.iter_mut().zip(step..blocks.len()) {
            let block = &blocks[index];
            let codes = _mm512_cvtepu8_epi32(load_half(fixed(block, 4)));
            let parts = parts!(dot, x[index], WIDTH, [
                0 => pick(codes, kernel.table[0]),
                1 => pick(_mm512_srli_epi32::<4>(codes), kernel.table[0]),
            ]);
            let both = two_halves(*fixed(block, 0));
            add(sums, parts, _mm512_moveldup_ps(both));
            add_minima(sums, both, &of, index);
        }
        step += 2;
    }
    totals(sums)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn q8_0<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Numbers; 2]>,
    _: &Job<'_>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; 2];
    let blocks = kernel.row(row).as_chunks::<34>().0;
    let x = kernel.x::<WIDTH>(m, blocks.len());
    let mut step = 0;
    while step < blocks.len() {
        ahead(&blocks[step]);
        // in turn, so that a sum does not wait for the last
        for (sums, index) in sums.iter_mut().zip(step..blocks.len()) {
            let block = &blocks[index];
            let parts = parts!(dot, x[index], WIDTH, [
                0 => _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_half(fixed(block, 2)))),
                1 => _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_half(fixed(block, 18)))),
            ]);
            add(sums, parts, half(*fixed(block, 0)));
        }
        step += 2;
    }
    totals(sums)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn q4_k<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Numbers; 16]>,
    _: &Job<'_>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; 2];
    let blocks = kernel.row(row).as_chunks::<144>().0;
    let x = kernel.x::<WIDTH>(m, blocks.len());
    let of = kernel.sums::<WIDTH>(m, blocks.len());
    let [table, ..] = kernel.table;
    for (index, block) in blocks.iter().enumerate() {
        ahead(block);
        let both = scales_and_minima(*fixed(block, 0), &block[4..16]);
        let codes = load(fixed(block, 16));
        let parts = parts!(dot, x[index], WIDTH, [
            0 => pick(codes, table),
            1 => pick(_mm512_srli_epi32::<8>(codes), table),
            2 => pick(_mm512_srli_epi32::<16>(codes), table),
            3 => pick(_mm512_srli_epi32::<24>(codes), table),
        ]);
        add(&mut sums[0], parts, two_of(both, 0, 2));
        let parts = parts!(dot, x[index], WIDTH, [
            4 => pick(_mm512_srli_epi32::<4>(codes), table),
            5 => pick(_mm512_srli_epi32::<12>(codes), table),
            6 => pick(_mm512_srli_epi32::<20>(codes), table),
            7 => pick(_mm512_srli_epi32::<28>(codes), table),
        ]);
        add(&mut sums[1], parts, two_of(both, 1, 3));
        let codes = load(fixed(block, 80));
        let parts = parts!(dot, x[index], WIDTH, [
            8 => pick(codes, table),
            9 => pick(_mm512_srli_epi32::<8>(codes), table),
            10 => pick(_mm512_srli_epi32::<16>(codes), table),
            11 => pick(_mm512_srli_epi32::<24>(codes), table),
        ]);
        add(&mut sums[0], parts, two_of(both, 4, 6));
        let parts = parts!(dot, x[index], WIDTH, [
            12 => pick(_mm512_srli_epi32::<4>(codes), table),
            13 => pick(_mm512_srli_epi32::<12>(codes), table),
            14 => pick(_mm512_srli_epi32::<20>(codes), table),
            15 => pick(_mm512_srli_epi32::<28>(codes), table),
        ]);
        add(&mut sums[1], parts, two_of(both, 5, 7));
        add_minima(&mut sums[index % 2], both, &of, index);
    }
    totals(sums)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn q6_k<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Numbers; 16]>,
    _: &Job<'_>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; 2];
    let blocks = kernel.row(row).as_chunks::<210>().0;
    let x = kernel.x::<WIDTH>(m, blocks.len());
    for (index, block) in blocks.iter().enumerate() {
        ahead(block);
        let scales = sixteen_scales(fixed(block, 192), *fixed(block, 208));
        let [a, b] = six_bit_codes(fixed(block, 0), fixed(block, 128));
        let [c, d] = six_bit_codes(fixed(block, 64), fixed(block, 160));
        let parts = parts!(dot, x[index], WIDTH, [
            0 => centred(a),
            1 => centred(_mm512_srli_epi32::<8>(a)),
            2 => centred(_mm512_srli_epi32::<16>(a)),
            3 => centred(_mm512_srli_epi32::<24>(a)),
        ]);
        add(&mut sums[0], parts, four_of(scales, 0));
        let parts = parts!(dot, x[index], WIDTH, [
            4 => centred(b),
            5 => centred(_mm512_srli_epi32::<8>(b)),
            6 => centred(_mm512_srli_epi32::<16>(b)),
            7 => centred(_mm512_srli_epi32::<24>(b)),
        ]);
        add(&mut sums[1], parts, four_of(scales, 4));
        let parts = parts!(dot, x[index], WIDTH, [
            8 => centred(c),
            9 => centred(_mm512_srli_epi32::<8>(c)),
            10 => centred(_mm512_srli_epi32::<16>(c)),
            11 => centred(_mm512_srli_epi32::<24>(c)),
        ]);
        add(&mut sums[0], parts, four_of(scales, 8));
        let parts = parts!(dot, x[index], WIDTH, [
            12 => centred(d),
            13 => centred(_mm512_srli_epi32::<8>(d)),
            14 => centred(_mm512_srli_epi32::<16>(d)),
            15 => centred(_mm512_srli_epi32::<24>(d)),
        ]);
        add(&mut sums[1], parts, four_of(scales, 12));
    }
    totals(sums)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn affine<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Numbers; 8]>,
    job: &Job<'_>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; 2];
    let Kind::Affine(layout) = job.kind else {
        unreachable!("dispatched by kind");
    };
    let all = kernel.row(row).as_chunks::<64>().0;
    let x = kernel.x::<WIDTH>(m, all.len());
    let per = layout.group / 128;
    let first = (job.first + row) * all.len().div_ceil(per);
    for index in 0..all.len() {
        ahead(&all[index]);
        let (numbers, scale) = group_of(layout, job, first + index / per);
        let table = _mm512_castps_si512(numbers);
        let codes = load(&all[index]);
        let parts = parts!(dot, x[index], WIDTH, [
            0 => pick(codes, table),
            1 => pick(_mm512_srli_epi32::<4>(codes), table),
            2 => pick(_mm512_srli_epi32::<8>(codes), table),
            3 => pick(_mm512_srli_epi32::<12>(codes), table),
            4 => pick(_mm512_srli_epi32::<16>(codes), table),
            5 => pick(_mm512_srli_epi32::<20>(codes), table),
            6 => pick(_mm512_srli_epi32::<24>(codes), table),
            7 => pick(_mm512_srli_epi32::<28>(codes), table),
        ]);
        add(&mut sums[index % 2], parts, _mm512_set1_ps(scale));
    }
    totals(sums)
}

//! Products in bfloat16, which holds the codes exactly, summed in f32, with registers of 512 bits.

use std::arch::x86_64::*;

use crate::quant::arrange::Halves;
use crate::quant::blocks::order::Order;
use crate::quant::blocks::wide::{
    Kernel, add, add_minima, ahead, four_of, group_of, half, parts, scale_of, scales_and_minima,
    six_bit_codes, sixteen_scales, totals, two_halves, two_of,
};
use crate::quant::blocks::{Job, Kind};
use crate::quant::float::{e4m3_to_f32, e5m2_to_f32};
use crate::quant::layout::Fp8;
use crate::quant::simd::{COUNT, fixed};
use crate::quant::x86::avx2::load_half;
use crate::quant::x86::avx512::{as_bf16, bf16, load, load_f32, load_u16};
use crate::quant::x86::cover;

/// Write the sums of a job.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")]
pub(super) fn product(job: &Job<'_>, sums: &mut [f32]) {
    macro_rules! run {
        ($tile:ident, $order:expr, $sums:expr, $table:expr) => {{
            let kernel = Kernel {
                job,
                x: job.x.blocked.halves(job.x, $order).as_chunks().0,
                sums: $sums,
                table: $table,
            };
            cover!($tile(&kernel, job), sums, [1 x 8, 1 x 4, 1 x 2, 1 x 1]);
        }};
    }
    let none = [_mm512_setzero_si512(); 4];
    let count = load_f32(&COUNT);
    let from = |first: f32| _mm512_add_ps(count, _mm512_set1_ps(first));
    let blocked = &job.x.blocked;
    match job.kind {
        Kind::Q4_0 => run!(q4_0, Order::Halves16, &[], [twice(from(-8.0)); 4]),
        Kind::Q4_1 => {
            let sums = blocked.sums32(job.x);
            run!(q4_1, Order::Halves16, sums, [twice(count); 4]);
        }
        Kind::Q8_0 => run!(q8_0, Order::Plain, &[], none),
        Kind::Q4K => {
            let sums = blocked.sums256(job.x);
            run!(q4_k, Order::Halves32(2), sums, [twice(count); 4]);
        }
        Kind::Q6K => {
            let low = bf16(from(-32.0), from(-16.0));
            let high = bf16(from(0.0), from(16.0));
            run!(q6_k, Order::Bytes(2), &[], [low, high, low, high]);
        }
        Kind::Affine(_) => run!(affine, Order::Nibbles(4), &[], none),
        Kind::Fp8(layout) => run!(fp8, Order::Unpacked, &[], table_of(layout)),
    }
}

/// A table of 16, where one of 32 is looked up in: the fifth bit of an index does not matter.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")]
fn twice(numbers: __m512) -> __m512i {
    bf16(numbers, numbers)
}

/// The lower bytes of all magnitudes, then the upper ones, as bfloat16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")]
fn table_of(layout: &Fp8) -> [__m512i; 4] {
    let mut bytes = [[0; 64]; 4];
    for code in 0..128_u8 {
        let number = match layout.is_e5m2 {
            true => e5m2_to_f32(code),
            false => e4m3_to_f32(code),
        };
        let [_, _, low, high] = number.to_le_bytes();
        bytes[usize::from(code / 64)][usize::from(code % 64)] = low;
        bytes[usize::from(2 + code / 64)][usize::from(code % 64)] = high;
    }
    [
        load(&bytes[0]),
        load(&bytes[1]),
        load(&bytes[2]),
        load(&bytes[3]),
    ]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")]
fn dot(sum: __m512, code: __m512i, x: &Halves) -> __m512 {
    _mm512_dpbf16_ps(sum, as_bf16(code), as_bf16(load_u16(&x.0)))
}

/// The codes of 16 bytes, as [`Order::Halves16`] has them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")]
fn nibbles(bytes: &[u8; 16], table: __m512i) -> __m512i {
    let bytes = _mm512_broadcast_i32x4(load_half(bytes));
    let index = _mm512_srlv_epi16(bytes, load_u16(&SHIFTS));
    _mm512_permutexvar_epi16(index, table)
}

const SHIFTS: [u16; 32] = [
    0, 0, 0, 0, 0, 0, 0, 0, 4, 4, 4, 4, 4, 4, 4, 4, 8, 8, 8, 8, 8, 8, 8, 8, 12, 12, 12, 12, 12, 12,
    12, 12,
];

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")]
fn q4_0<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Halves; 1]>,
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
            let parts =
                parts!(dot, x[index], WIDTH, [0 => nibbles(fixed(block, 2), kernel.table[0])]);
            add(sums, parts, half(*fixed(block, 0)));
        }
        step += 2;
    }
    totals(sums)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")]
fn q4_1<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Halves; 1]>,
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
            let parts =
                parts!(dot, x[index], WIDTH, [0 => nibbles(fixed(block, 4), kernel.table[0])]);
            let both = two_halves(*fixed(block, 0));
            add(sums, parts, _mm512_moveldup_ps(both));
            add_minima(sums, both, &of, index);
        }
        step += 2;
    }
    totals(sums)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")]
fn q8_0<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Halves; 1]>,
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
            let codes = {
                let low = _mm512_cvtepi8_epi32(load_half(fixed(block, 2)));
                let high = _mm512_cvtepi8_epi32(load_half(fixed(block, 18)));
                exact(_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(high))
            };
            let parts = parts!(dot, x[index], WIDTH, [0 => codes]);
            add(sums, parts, half(*fixed(block, 0)));
        }
        step += 2;
    }
    totals(sums)
}

/// Numbers that are bfloat16, as such.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")]
fn exact(low: __m512, high: __m512) -> __m512i {
    let both = _mm512_cvtne2ps_pbh(high, low);
    // SAFETY: both are 512 bits without meaning of their own.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(both) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")]
fn q4_k<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Halves; 8]>,
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
            0 => _mm512_permutexvar_epi16(codes, table),
            1 => _mm512_permutexvar_epi16(_mm512_srli_epi16::<8>(codes), table),
        ]);
        add(&mut sums[0], parts, two_of(both, 0, 2));
        let parts = parts!(dot, x[index], WIDTH, [
            2 => _mm512_permutexvar_epi16(_mm512_srli_epi16::<4>(codes), table),
            3 => _mm512_permutexvar_epi16(_mm512_srli_epi16::<12>(codes), table),
        ]);
        add(&mut sums[1], parts, two_of(both, 1, 3));
        let codes = load(fixed(block, 80));
        let parts = parts!(dot, x[index], WIDTH, [
            4 => _mm512_permutexvar_epi16(codes, table),
            5 => _mm512_permutexvar_epi16(_mm512_srli_epi16::<8>(codes), table),
        ]);
        add(&mut sums[0], parts, two_of(both, 4, 6));
        let parts = parts!(dot, x[index], WIDTH, [
            6 => _mm512_permutexvar_epi16(_mm512_srli_epi16::<4>(codes), table),
            7 => _mm512_permutexvar_epi16(_mm512_srli_epi16::<12>(codes), table),
        ]);
        add(&mut sums[1], parts, two_of(both, 5, 7));
        add_minima(&mut sums[index % 2], both, &of, index);
    }
    totals(sums)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")]
fn q6_k<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Halves; 8]>,
    _: &Job<'_>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; 2];
    let blocks = kernel.row(row).as_chunks::<210>().0;
    let x = kernel.x::<WIDTH>(m, blocks.len());
    let [low, high, ..] = kernel.table;
    for (index, block) in blocks.iter().enumerate() {
        ahead(block);
        let scales = sixteen_scales(fixed(block, 192), *fixed(block, 208));
        let [a, b] = six_bit_codes(fixed(block, 0), fixed(block, 128));
        let [c, d] = six_bit_codes(fixed(block, 64), fixed(block, 160));
        let parts = parts!(dot, x[index], WIDTH, [
            0 => _mm512_permutex2var_epi16(low, a, high),
            1 => _mm512_permutex2var_epi16(low, _mm512_srli_epi16::<8>(a), high),
        ]);
        add(&mut sums[0], parts, four_of(scales, 0));
        let parts = parts!(dot, x[index], WIDTH, [
            2 => _mm512_permutex2var_epi16(low, b, high),
            3 => _mm512_permutex2var_epi16(low, _mm512_srli_epi16::<8>(b), high),
        ]);
        add(&mut sums[1], parts, four_of(scales, 4));
        let parts = parts!(dot, x[index], WIDTH, [
            4 => _mm512_permutex2var_epi16(low, c, high),
            5 => _mm512_permutex2var_epi16(low, _mm512_srli_epi16::<8>(c), high),
        ]);
        add(&mut sums[0], parts, four_of(scales, 8));
        let parts = parts!(dot, x[index], WIDTH, [
            6 => _mm512_permutex2var_epi16(low, d, high),
            7 => _mm512_permutex2var_epi16(low, _mm512_srli_epi16::<8>(d), high),
        ]);
        add(&mut sums[1], parts, four_of(scales, 12));
    }
    totals(sums)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")]
fn affine<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Halves; 4]>,
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
        let table = exact(numbers, numbers);
        let codes = load(&all[index]);
        let parts = parts!(dot, x[index], WIDTH, [
            0 => _mm512_permutexvar_epi16(codes, table),
            1 => _mm512_permutexvar_epi16(_mm512_srli_epi16::<4>(codes), table),
            2 => _mm512_permutexvar_epi16(_mm512_srli_epi16::<8>(codes), table),
            3 => _mm512_permutexvar_epi16(_mm512_srli_epi16::<12>(codes), table),
        ]);
        add(&mut sums[index % 2], parts, _mm512_set1_ps(scale));
    }
    totals(sums)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")]
fn fp8<const ROWS: usize, const WIDTH: usize>(
    kernel: &Kernel<'_, [Halves; 2]>,
    job: &Job<'_>,
    row: usize,
    m: usize,
) -> [[f32; WIDTH]; ROWS] {
    let mut sums = [[_mm512_setzero_ps(); WIDTH]; 2];
    let Kind::Fp8(layout) = job.kind else {
        unreachable!("dispatched by kind");
    };
    let all = kernel.row(row).as_chunks::<64>().0;
    let x = kernel.x::<WIDTH>(m, all.len());
    let [low_a, low_b, high_a, high_b] = kernel.table;
    let sign = _mm512_set1_epi8(i8::MIN);
    let per = layout.block_cols / 64;
    for (block, first) in (0..all.len()).step_by(per).enumerate() {
        let scale = _mm512_set1_ps(scale_of(layout, job, row, block));
        for index in first..(first + per).min(all.len()) {
            ahead(&all[index]);
            let codes = load(&all[index]);
            let low = _mm512_permutex2var_epi8(low_a, codes, low_b);
            let high = _mm512_permutex2var_epi8(high_a, codes, high_b);
            let high = _mm512_or_si512(high, _mm512_and_si512(codes, sign));
            let parts = parts!(dot, x[index], WIDTH, [
                0 => _mm512_unpacklo_epi8(low, high),
                1 => _mm512_unpackhi_epi8(low, high),
            ]);
            add(&mut sums[index % 2], parts, scale);
        }
    }
    totals(sums)
}

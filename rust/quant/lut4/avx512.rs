//! Dequantisation with registers of 512 bits.
//!
//! To 16 bits, what is looked up are products `codebook * scale` that are rounded already. A group of
//! 64 columns is 32 bytes; they index the table once for each nibble, and the results are interleaved.

use std::arch::x86_64::*;

use crate::quant::float::Float;
use crate::quant::layout::Lut4;
use crate::quant::x86::avx2::{load, load_half};
use crate::quant::x86::avx512::{bf16, f16, load_f32, load_u16, load_u32, store};

/// Write whole groups of 64 columns, with 64 / `unit` scales each.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn write_groups(
    lut4: &Lut4,
    unit: usize,
    float: Float,
    (q, scales): (&[u8], &[f32]),
    out: &mut [u8],
) {
    match (float, unit) {
        (Float::Bf16, 64) => halves::<1, false>(lut4, q, scales, out),
        (Float::Bf16, 32) => halves::<2, false>(lut4, q, scales, out),
        (Float::Bf16, _) => halves::<4, false>(lut4, q, scales, out),
        (Float::F16, 64) => halves::<1, true>(lut4, q, scales, out),
        (Float::F16, 32) => halves::<2, true>(lut4, q, scales, out),
        (Float::F16, _) => halves::<4, true>(lut4, q, scales, out),
        (Float::F32, 64) => singles::<1>(lut4, q, scales, out),
        (Float::F32, 32) => singles::<2>(lut4, q, scales, out),
        (Float::F32, _) => singles::<4>(lut4, q, scales, out),
    }
}

/// To numbers of 16 bits, with `PER` scales in a group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn halves<const PER: usize, const IS_F16: bool>(
    lut4: &Lut4,
    q: &[u8],
    scales: &[f32],
    out: &mut [u8],
) {
    let codebook = load_f32(&lut4.codebook);
    let order = |first| interleaved::<32>(lut4.low_first, first).map(|lane| lane as u16);
    let orders = [load_u16(&order(0)), load_u16(&order(16))];
    // where the table of each pair of columns begins
    let entries = load_u16(&std::array::from_fn(|pair| (pair * PER / 32 * 16) as u16));
    let nibble = _mm512_set1_epi16(15);
    let groups = q.as_chunks::<32>().0.iter().zip(scales.as_chunks::<PER>().0);
    for ((q, scales), out) in groups.zip(out.as_chunks_mut::<128>().0) {
        let products = scales.map(|scale| _mm512_mul_ps(codebook, _mm512_set1_ps(scale)));
        let table = |first: usize, second: usize| {
            let (first, second) = (products[first % PER], products[second % PER]);
            if IS_F16 { f16(first, second) } else { bf16(first, second) }
        };
        let table = [table(0, 1), table(2, 3)];
        let find = |codes: __m512i| {
            if PER == 1 {
                // the table is there twice, and no more than five bits are looked at
                return _mm512_permutexvar_epi16(codes, table[0]);
            }
            let index = _mm512_or_si512(_mm512_and_si512(codes, nibble), entries);
            if PER == 2 {
                _mm512_permutexvar_epi16(index, table[0])
            } else {
                _mm512_permutex2var_epi16(table[0], index, table[1])
            }
        };
        let bytes = _mm512_cvtepu8_epi16(load(q));
        let uppers = find(_mm512_srli_epi16::<4>(bytes));
        let lowers = find(bytes);
        for (out, order) in out.as_chunks_mut::<64>().0.iter_mut().zip(orders) {
            store(_mm512_permutex2var_epi16(uppers, order, lowers), out);
        }
    }
}

/// To f32, with `PER` scales in a group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn singles<const PER: usize>(lut4: &Lut4, q: &[u8], scales: &[f32], out: &mut [u8]) {
    let codebook = load_f32(&lut4.codebook);
    let order = |first| interleaved::<16>(lut4.low_first, first).map(|lane| lane as u32);
    let orders = [load_u32(&order(0)), load_u32(&order(8))];
    let groups = q.as_chunks::<32>().0.iter().zip(scales.as_chunks::<PER>().0);
    for ((q, scales), out) in groups.zip(out.as_chunks_mut::<256>().0) {
        let mut quarters = out.as_chunks_mut::<64>().0.iter_mut().enumerate();
        for q in q.as_chunks::<16>().0 {
            let bytes = _mm512_cvtepu8_epi32(load_half(q));
            // no more than four bits of an index are looked at
            let uppers = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(bytes), codebook);
            let lowers = _mm512_permutexvar_ps(bytes, codebook);
            for (order, (quarter, out)) in orders.iter().zip(&mut quarters) {
                let codes = _mm512_permutex2var_ps(uppers, *order, lowers);
                let numbers = _mm512_mul_ps(codes, _mm512_set1_ps(scales[quarter * PER / 4]));
                store(_mm512_castps_si512(numbers), out);
            }
        }
    }
}

/// Lanes of two registers of `LANES`, upper nibbles and lower ones, in the order of columns, from the
/// pair `first` on.
fn interleaved<const LANES: usize>(low_first: bool, first: usize) -> [usize; LANES] {
    std::array::from_fn(|lane| {
        let is_upper = lane.is_multiple_of(2) != low_first;
        first + lane / 2 + if is_upper { 0 } else { LANES }
    })
}

//! Dequantisation with registers of 512 bits.

use std::arch::x86_64::*;

use crate::quant::float::Float;
use crate::quant::x86::avx2::load_half;
use crate::quant::x86::avx512::{bf16, f16, store};

/// Write whole groups of 64 columns, with 64 / `unit` scales each.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn write_groups(
    unit: usize,
    float: Float,
    (q, scales): (&[u8], &[f32]),
    out: &mut [u8],
) {
    match unit {
        64 => with_scales::<1>(float, q, scales, out),
        32 => with_scales::<2>(float, q, scales, out),
        _ => with_scales::<4>(float, q, scales, out),
    }
}

/// With `PER` scales in a group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn with_scales<const PER: usize>(float: Float, q: &[u8], scales: &[f32], out: &mut [u8]) {
    let groups = q.as_chunks::<64>().0.iter().zip(scales.as_chunks::<PER>().0);
    match float {
        Float::F32 => {
            for ((q, scales), out) in groups.zip(out.as_chunks_mut::<256>().0) {
                let numbers = numbers(q, scales);
                for (numbers, out) in numbers.into_iter().zip(out.as_chunks_mut::<64>().0) {
                    store(_mm512_castps_si512(numbers), out);
                }
            }
        }
        Float::F16 => {
            for ((q, scales), out) in groups.zip(out.as_chunks_mut::<128>().0) {
                let [first, second, third, fourth] = numbers(q, scales);
                let halves = [f16(first, second), f16(third, fourth)];
                for (numbers, out) in halves.into_iter().zip(out.as_chunks_mut::<64>().0) {
                    store(numbers, out);
                }
            }
        }
        Float::Bf16 => {
            for ((q, scales), out) in groups.zip(out.as_chunks_mut::<128>().0) {
                let [first, second, third, fourth] = numbers(q, scales);
                let halves = [bf16(first, second), bf16(third, fourth)];
                for (numbers, out) in halves.into_iter().zip(out.as_chunks_mut::<64>().0) {
                    store(numbers, out);
                }
            }
        }
    }
}

/// The numbers of a group, in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn numbers<const PER: usize>(q: &[u8; 64], scales: &[f32; PER]) -> [__m512; 4] {
    let q = q.as_chunks::<16>().0;
    std::array::from_fn(|quarter| {
        let codes = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_half(&q[quarter])));
        _mm512_mul_ps(codes, _mm512_set1_ps(scales[quarter * PER / 4]))
    })
}

//! Dequantisation with registers of 256 bits.

use std::arch::x86_64::*;

use crate::quant::float::Float;
use crate::quant::x86::avx2::{bf16, f16, load_half, store};

/// Write whole groups of 64 columns, with 64 / `unit` scales each.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn write_groups(
    unit: usize,
    float: Float,
    (q, scales): (&[u8], &[f32]),
    out: &mut [u8],
) {
    let size = float.nbytes();
    let sixteens = q.as_chunks::<16>().0.iter().zip(out.chunks_exact_mut(16 * size));
    for (index, (q, out)) in sixteens.enumerate() {
        let scale = _mm256_set1_ps(scales[index * 16 / unit]);
        let bytes = load_half(q);
        let number = |eight: __m128i| {
            let codes = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
            _mm256_mul_ps(codes, scale)
        };
        let (low, high) = (number(bytes), number(_mm_srli_si128::<8>(bytes)));
        let out = out.as_chunks_mut::<32>().0;
        match (float, out) {
            (Float::F32, [first, second]) => {
                store(_mm256_castps_si256(low), first);
                store(_mm256_castps_si256(high), second);
            }
            (Float::F16, [out]) => store(f16(low, high), out),
            (Float::Bf16, [out]) => store(bf16(low, high), out),
            _ => unreachable!("of the dtype's size"),
        }
    }
}

//! Rows of a weight one at a time, beside a single row of activations, with registers of 512 bits.
//!
//! Weights are then read in one stretch, which the processor fetches ahead of as it does for a sum;
//! several rows at a time are as many streams, and slower.

use std::arch::x86_64::*;

use crate::quant::simd::filled_up;
use crate::quant::strips::{Job, LoneScales};
use crate::quant::x86::avx2::load_half;
use crate::quant::x86::avx512::load_f32;

// Bytes of activations that stay in the first cache beside the weights that pass through it.
const ACTIVATIONS: usize = 24 << 10;

/// Whether rows are taken one at a time, where a row of the activations takes so many bytes.
#[inline(always)]
pub(crate) fn is_for(job: &Job<'_>, nbytes: usize) -> bool {
    job.x.given.rows == 1 && nbytes <= ACTIVATIONS
}

/// Sixteen scales of a row from `first` on, zeros behind the last; bytes are signed or not.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(crate) fn sixteen<const IS_SIGNED: bool>(scales: LoneScales<'_>, first: usize) -> __m512 {
    match scales {
        LoneScales::Bytes(codes, by) => {
            let codes = &codes[first..];
            let codes = match codes.first_chunk() {
                Some(codes) => load_half(codes),
                None => load_half(&filled_up(codes)),
            };
            let codes = if IS_SIGNED {
                _mm512_cvtepi8_epi32(codes)
            } else {
                _mm512_cvtepu8_epi32(codes)
            };
            _mm512_mul_ps(_mm512_cvtepi32_ps(codes), _mm512_set1_ps(by))
        }
        LoneScales::Wide(numbers) => {
            let numbers = &numbers[first..];
            match numbers.first_chunk() {
                Some(numbers) => load_f32(numbers),
                None => {
                    let mut filled = [0.0; 16];
                    filled[..numbers.len()].copy_from_slice(numbers);
                    load_f32(&filled)
                }
            }
        }
    }
}

/// Walk over a row in spans of `SPAN` groups of 64 bytes, which have sixteen scales.
///
/// Makes the scales of each span, whose first has that number, then runs the body with the bytes and
/// activations of each of its groups, and which of the span it is; the last group may be a copy,
/// filled up with zeros.
macro_rules! walk_lone {
    (
        $row:ident[$span:ident], $x:expr,
        |$first:ident| $scales:ident = $made:expr,
        |$q:ident, $line:ident, $index:ident| $body:block
    ) => {{
        let (q, tail) = $row.q.as_chunks::<64>();
        let (spans, rest) = q.as_chunks::<$span>();
        let (x_spans, _) = $x.as_chunks::<$span>();
        for (number, (span, x)) in spans.iter().zip(x_spans).enumerate() {
            let $first = 16 * number;
            let $scales = $made;
            for ($index, ($q, $line)) in span.iter().zip(x).enumerate() {
                prefetch($q, AHEAD);
                $body
            }
        }
        if !rest.is_empty() || !tail.is_empty() {
            let $first = 16 * spans.len();
            let $scales = $made;
            let x = &$x[spans.len() * $span..];
            for ($index, ($q, $line)) in rest.iter().zip(x).enumerate() {
                $body
            }
            if !tail.is_empty() {
                let ($index, $q, $line) = (rest.len(), &filled_up::<64>(tail), &x[rest.len()]);
                $body
            }
        }
    }};
}
pub(crate) use walk_lone;

//! Softmax and sums of values, sixteen numbers at a time.

use std::arch::x86_64::{
    __m512, _CMP_LT_OQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T0, _mm_prefetch,
    _mm512_add_epi32, _mm512_add_ps, _mm512_and_ps, _mm512_andnot_ps, _mm512_castps_si512,
    _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_cvtps_epi32, _mm512_div_ps, _mm512_fmadd_ps,
    _mm512_fnmadd_ps, _mm512_mask_mov_ps, _mm512_mul_ps, _mm512_or_ps, _mm512_roundscale_ps,
    _mm512_set1_ps, _mm512_slli_epi32, _mm512_sub_ps,
};

use crate::quant::attention::mix::{Factors, mixes};
use crate::quant::attention::softmax::{LEAST, LN_2_HIGH, LN_2_LOW, POLYNOMIAL};
use crate::quant::dense::avx512::{load, store};
use crate::quant::dense::convert::{F32, nbytes};
use crate::quant::dense::dot::{Lanes, Rows};

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn splat(number: f32) -> __m512 {
    _mm512_set1_ps(number)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn multiply_add(numbers: __m512, factors: __m512, sums: __m512) -> __m512 {
    _mm512_fmadd_ps(numbers, factors, sums)
}

/// e to the power of numbers that are not positive, see `softmax::POLYNOMIAL`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn exp(numbers: __m512) -> __m512 {
    let twos = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(
        _mm512_mul_ps(numbers, splat(std::f32::consts::LOG2_E)),
    );
    let rest = _mm512_fnmadd_ps(twos, splat(LN_2_HIGH), numbers);
    let rest = _mm512_fnmadd_ps(twos, splat(LN_2_LOW), rest);
    let mut power = splat(POLYNOMIAL[0]);
    for factor in &POLYNOMIAL[1..] {
        power = _mm512_fmadd_ps(power, rest, splat(*factor));
    }
    let twos = _mm512_slli_epi32::<23>(_mm512_cvtps_epi32(twos));
    let power = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(power), twos));
    let is_zero = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(numbers, splat(LEAST));
    _mm512_mask_mov_ps(power, is_zero, splat(0.0))
}

/// See `softmax::exponentials`; lanes of the sum.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn exponentials(scores: &mut [[f32; 16]], zero: f32) -> Lanes {
    let mut sums = splat(0.0);
    for scores in scores {
        // SAFETY: these are sixteen f32.
        let numbers = unsafe { load::<F32>(scores.as_ptr().cast()) };
        let numbers = exp(_mm512_sub_ps(numbers, splat(zero)));
        sums = _mm512_add_ps(sums, numbers);
        // SAFETY: as above.
        unsafe { store::<F32>(scores.as_mut_ptr().cast(), numbers) };
    }
    let mut lanes = Lanes::default();
    // SAFETY: lanes are sixteen f32.
    unsafe { store::<F32>(lanes.0.as_mut_ptr().cast(), sums) };
    lanes
}

/// See `softmax::cap`: tanh(y) is (1 - e) / (1 + e) with y's sign, where e = exp(-2 |y|).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn cap(scores: &mut [[f32; 16]], most: f32) {
    let (one, sign) = (splat(1.0), splat(-0.0));
    for scores in scores {
        // SAFETY: these are sixteen f32.
        let numbers = unsafe { load::<F32>(scores.as_ptr().cast()) };
        let magnitude = _mm512_andnot_ps(sign, _mm512_div_ps(numbers, splat(most)));
        let e = exp(_mm512_mul_ps(magnitude, splat(-2.0)));
        let tanh = _mm512_div_ps(_mm512_sub_ps(one, e), _mm512_add_ps(one, e));
        let tanh = _mm512_or_ps(tanh, _mm512_and_ps(sign, numbers));
        let capped = _mm512_mul_ps(tanh, splat(most));
        // SAFETY: as above.
        unsafe { store::<F32>(scores.as_mut_ptr().cast(), capped) };
    }
}

mixes! {
    "avx512f,avx512bw,avx512vl,avx512dq",
    [(4, 4), (3, 4), (2, 4), (1, 4), (4, 1), (3, 1), (2, 1), (1, 1)]
}

//! Softmax and sums of values, sixteen numbers at a time in two registers.

use std::arch::x86_64::{
    __m256, _CMP_LT_OQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T0, _mm_prefetch,
    _mm256_add_epi32, _mm256_add_ps, _mm256_and_ps, _mm256_andnot_ps, _mm256_castps_si256,
    _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_cvtps_epi32, _mm256_div_ps, _mm256_fmadd_ps,
    _mm256_fnmadd_ps, _mm256_mul_ps, _mm256_or_ps, _mm256_round_ps, _mm256_set1_ps,
    _mm256_slli_epi32, _mm256_sub_ps,
};

use crate::quant::attention::mix::{Factors, mixes};
use crate::quant::attention::softmax::{LEAST, LN_2_HIGH, LN_2_LOW, POLYNOMIAL};
use crate::quant::dense::avx2::{Pair, load, store};
use crate::quant::dense::convert::{F32, nbytes};
use crate::quant::dense::dot::{Lanes, Rows};

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn splat(number: f32) -> Pair {
    [_mm256_set1_ps(number); 2]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply_add(numbers: Pair, factors: Pair, sums: Pair) -> Pair {
    [
        _mm256_fmadd_ps(numbers[0], factors[0], sums[0]),
        _mm256_fmadd_ps(numbers[1], factors[1], sums[1]),
    ]
}

/// e to the power of numbers that are not positive, see `softmax::POLYNOMIAL`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn exp(numbers: __m256) -> __m256 {
    let twos = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm256_mul_ps(
        numbers,
        _mm256_set1_ps(std::f32::consts::LOG2_E),
    ));
    let rest = _mm256_fnmadd_ps(twos, _mm256_set1_ps(LN_2_HIGH), numbers);
    let rest = _mm256_fnmadd_ps(twos, _mm256_set1_ps(LN_2_LOW), rest);
    let mut power = _mm256_set1_ps(POLYNOMIAL[0]);
    for factor in &POLYNOMIAL[1..] {
        power = _mm256_fmadd_ps(power, rest, _mm256_set1_ps(*factor));
    }
    let twos = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(twos));
    let power = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(power), twos));
    let is_zero = _mm256_cmp_ps::<_CMP_LT_OQ>(numbers, _mm256_set1_ps(LEAST));
    _mm256_andnot_ps(is_zero, power)
}

/// See `softmax::exponentials`; lanes of the sum.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn exponentials(scores: &mut [[f32; 16]], zero: f32) -> Lanes {
    let zero = _mm256_set1_ps(zero);
    let mut sums = splat(0.0);
    for scores in scores {
        // SAFETY: these are sixteen f32.
        let numbers = unsafe { load::<F32>(scores.as_ptr().cast()) };
        let numbers = [
            exp(_mm256_sub_ps(numbers[0], zero)),
            exp(_mm256_sub_ps(numbers[1], zero)),
        ];
        sums = [
            _mm256_add_ps(sums[0], numbers[0]),
            _mm256_add_ps(sums[1], numbers[1]),
        ];
        // SAFETY: as above.
        unsafe { store::<F32>(scores.as_mut_ptr().cast(), numbers) };
    }
    let mut lanes = Lanes::default();
    // SAFETY: lanes are sixteen f32.
    unsafe { store::<F32>(lanes.0.as_mut_ptr().cast(), sums) };
    lanes
}

/// tanh(y) is (1 - e) / (1 + e) with y's sign, where e = exp(-2 |y|).
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tanh(numbers: __m256) -> __m256 {
    let (one, sign) = (_mm256_set1_ps(1.0), _mm256_set1_ps(-0.0));
    let magnitude = _mm256_andnot_ps(sign, numbers);
    let e = exp(_mm256_mul_ps(magnitude, _mm256_set1_ps(-2.0)));
    let tanh = _mm256_div_ps(_mm256_sub_ps(one, e), _mm256_add_ps(one, e));
    _mm256_or_ps(tanh, _mm256_and_ps(sign, numbers))
}

/// See `softmax::cap`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn cap(scores: &mut [[f32; 16]], most: f32) {
    let most = _mm256_set1_ps(most);
    for scores in scores {
        // SAFETY: these are sixteen f32.
        let numbers = unsafe { load::<F32>(scores.as_ptr().cast()) };
        let capped = [
            _mm256_mul_ps(tanh(_mm256_div_ps(numbers[0], most)), most),
            _mm256_mul_ps(tanh(_mm256_div_ps(numbers[1], most)), most),
        ];
        // SAFETY: as above.
        unsafe { store::<F32>(scores.as_mut_ptr().cast(), capped) };
    }
}

mixes! {
    "avx2,fma,f16c",
    [(2, 2), (1, 2), (4, 1), (3, 1), (2, 1), (1, 1)]
}

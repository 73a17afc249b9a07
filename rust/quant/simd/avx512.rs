//! AVX-512, with and without its instructions for bfloat16.

use std::arch::x86_64::*;

use crate::quant::float::Float;
use crate::quant::simd::avx2::{bytes_of_avx2, op};
use crate::quant::simd::{Kernel, OutBf16, OutF16, OutF32, Simd, store_bf16_slowly};

/// A value says that the processor has AVX-512 F, BW, VL and DQ, and AVX512-BF16 where `BF16`.
#[derive(Clone, Copy)]
struct Avx512<const BF16: bool>(());

/// Run a kernel with AVX-512.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn run<K: Kernel>(float: Float, kernel: K) {
    match float {
        Float::F32 => kernel.run::<_, OutF32>(Avx512::<false>(())),
        Float::F16 => kernel.run::<_, OutF16>(Avx512::<false>(())),
        Float::Bf16 => kernel.run::<_, OutBf16>(Avx512::<false>(())),
    }
}

/// Run a kernel with AVX-512 and AVX512-BF16; only bfloat16 gains.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) fn run_bf16<K: Kernel>(float: Float, kernel: K) {
    match float {
        Float::F32 | Float::F16 => run(float, kernel),
        Float::Bf16 => kernel.run::<_, OutBf16>(Avx512::<true>(())),
    }
}

impl<const BF16: bool> Avx512<BF16> {
    /// Bits of bfloat16 in the upper halves of 32-bit lanes; wrong for NaN.
    #[inline(always)]
    fn round(self, numbers: __m512) -> __m512i {
        let bits = op!(_mm512_castps_si512(numbers));
        let kept = op!(_mm512_srli_epi32::<16>(bits));
        let odd = op!(_mm512_and_si512(kept, op!(_mm512_set1_epi32(1))));
        let up = op!(_mm512_add_epi32(odd, op!(_mm512_set1_epi32(0x7fff))));
        op!(_mm512_add_epi32(bits, up))
    }

    /// The values of 32 binary16, as their bits.
    #[inline(always)]
    fn halves(self, bits: __m512i) -> [__m512; 2] {
        let low = op!(_mm512_castsi512_si256(bits));
        let high = op!(_mm512_extracti64x4_epi64::<1>(bits));
        [op!(_mm512_cvtph_ps(low)), op!(_mm512_cvtph_ps(high))]
    }

    /// 32 bytes as the upper halves of 16-bit items.
    #[inline(always)]
    fn upper(self, from: __m256i) -> __m512i {
        let wide = op!(_mm512_cvtepu8_epi16(from));
        op!(_mm512_slli_epi16::<8>(wide))
    }

    #[inline(always)]
    fn store(self, items: __m512i, out: &mut [u8; 64]) {
        op!(_mm512_storeu_si512(out.as_mut_ptr().cast(), items));
    }
}

impl<const BF16: bool> Simd for Avx512<BF16> {
    type Numbers = __m512;
    type Table = __m512i;

    bytes_of_avx2!();

    #[inline(always)]
    fn bits(self, from: u32) -> __m256i {
        op!(_mm256_movm_epi8(from))
    }

    #[inline(always)]
    fn signed(self, from: __m256i) -> [__m512; 2] {
        let low = op!(_mm512_cvtepi8_epi32(op!(_mm256_castsi256_si128(from))));
        let high = op!(_mm512_cvtepi8_epi32(op!(_mm256_extracti128_si256::<1>(from))));
        [op!(_mm512_cvtepi32_ps(low)), op!(_mm512_cvtepi32_ps(high))]
    }

    #[inline(always)]
    fn unsigned(self, from: __m256i) -> [__m512; 2] {
        let low = op!(_mm512_cvtepu8_epi32(op!(_mm256_castsi256_si128(from))));
        let high = op!(_mm512_cvtepu8_epi32(op!(_mm256_extracti128_si256::<1>(from))));
        [op!(_mm512_cvtepi32_ps(low)), op!(_mm512_cvtepi32_ps(high))]
    }

    #[inline(always)]
    fn e4m3(self, from: __m256i) -> [__m512; 2] {
        // the same fields in a binary16 mean 2^-8 of the value, subnormals too
        let moved = op!(_mm512_srai_epi16::<1>(self.upper(from)));
        let keep = op!(_mm512_set1_epi16(0xbfff_u16.cast_signed()));
        let bits = op!(_mm512_and_si512(moved, keep));
        let magnitude = op!(_mm512_and_si512(moved, op!(_mm512_set1_epi16(0x3fff))));
        let is_nan = op!(_mm512_cmpeq_epi16_mask(magnitude, op!(_mm512_set1_epi16(0x3f80))));
        let nan = op!(_mm512_set1_epi16(0x7e00));
        let bits = op!(_mm512_mask_mov_epi16(bits, is_nan, nan));
        let scale = self.splat(256.0);
        let [a, b] = self.halves(bits);
        [self.mul(a, scale), self.mul(b, scale)]
    }

    #[inline(always)]
    fn e5m2(self, from: __m256i) -> [__m512; 2] {
        self.halves(self.upper(from))
    }

    #[inline(always)]
    fn splat(self, number: f32) -> __m512 {
        op!(_mm512_set1_ps(number))
    }

    #[inline(always)]
    fn numbers(self, from: &[f32; 16]) -> __m512 {
        op!(_mm512_loadu_ps(from.as_ptr()))
    }

    #[inline(always)]
    fn array(self, from: __m512) -> [f32; 16] {
        let mut array = [0.0; 16];
        op!(_mm512_storeu_ps(array.as_mut_ptr(), from));
        array
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn store_f32(self, numbers: [__m512; 2], out: &mut [u8; 128]) {
        let (first, second) = out.split_at_mut(64);
        op!(_mm512_storeu_ps(first.as_mut_ptr().cast(), numbers[0]));
        op!(_mm512_storeu_ps(second.as_mut_ptr().cast(), numbers[1]));
    }

    #[inline(always)]
    fn store_f16(self, numbers: [__m512; 2], out: &mut [u8; 64]) {
        let low = op!(_mm512_castsi256_si512(op!(_mm512_cvtps_ph::<0>(numbers[0]))));
        let high = op!(_mm512_cvtps_ph::<0>(numbers[1]));
        self.store(op!(_mm512_inserti64x4::<1>(low, high)), out);
    }

    #[inline(always)]
    fn store_bf16(self, numbers: [__m512; 2], out: &mut [u8; 64]) {
        if BF16 {
            let low = op!(_mm512_fpclass_ps_mask::<SPECIAL>(numbers[0]));
            let high = op!(_mm512_fpclass_ps_mask::<SPECIAL>(numbers[1]));
            if low | high == 0 {
                let items = op!(_mm512_cvtne2ps_pbh(numbers[1], numbers[0]));
                // SAFETY: both are 64 bytes of plain numbers.
                self.store(unsafe { std::mem::transmute::<__m512bh, __m512i>(items) }, out);
                return;
            }
        }
        if op!(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(numbers[0], numbers[1])) != 0 {
            store_bf16_slowly([self.array(numbers[0]), self.array(numbers[1])], out);
            return;
        }
        let (low, high) = (self.round(numbers[0]), self.round(numbers[1]));
        let upper = op!(_mm512_loadu_si512(UPPER.as_ptr().cast()));
        self.store(op!(_mm512_permutex2var_epi16(low, upper, high)), out);
    }

    #[inline(always)]
    fn table_f16(self, numbers: __m512) -> __m512i {
        op!(_mm512_castsi256_si512(op!(_mm512_cvtps_ph::<0>(numbers))))
    }

    #[inline(always)]
    fn table_bf16(self, numbers: __m512) -> __m512i {
        if BF16 && op!(_mm512_fpclass_ps_mask::<SPECIAL>(numbers)) == 0 {
            let items = op!(_mm512_cvtneps_pbh(numbers));
            // SAFETY: both are 32 bytes of plain numbers.
            let items = unsafe { std::mem::transmute::<__m256bh, __m256i>(items) };
            return op!(_mm512_castsi256_si512(items));
        }
        let is_nan = op!(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(numbers, numbers));
        let nan = op!(_mm512_set1_epi32(0x7fc0_0000));
        let lanes = op!(_mm512_mask_mov_epi32(self.round(numbers), is_nan, nan));
        let items = op!(_mm512_cvtepi32_epi16(op!(_mm512_srli_epi32::<16>(lanes))));
        op!(_mm512_castsi256_si512(items))
    }

    #[inline(always)]
    fn look_up(self, table: __m512i, index: __m256i, out: &mut [u8; 64]) {
        let index = op!(_mm512_cvtepu8_epi16(index));
        self.store(op!(_mm512_permutexvar_epi16(index, table)), out);
    }

    #[inline(always)]
    fn pick(self, from: __m512, index: __m256i) -> [__m512; 2] {
        let low = op!(_mm512_cvtepu8_epi32(op!(_mm256_castsi256_si128(index))));
        let high = op!(_mm512_cvtepu8_epi32(op!(_mm256_extracti128_si256::<1>(index))));
        [
            op!(_mm512_permutexvar_ps(low, from)),
            op!(_mm512_permutexvar_ps(high, from)),
        ]
    }
}

/// Subnormals, which the instructions for bfloat16 take for zeros, and NaN, whose bits they keep.
const SPECIAL: i32 = 0x01 | 0x20 | 0x80;

/// The upper halves of 32-bit lanes of two registers.
static UPPER: [u16; 32] = {
    let mut index = [0; 32];
    let mut item = 0;
    while item < 32 {
        index[item] = 2 * item as u16 + 1;
        item += 1;
    }
    index
};

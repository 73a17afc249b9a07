//! AVX2 with F16C; the bytes of AVX-512 kernels too.

use std::arch::x86_64::*;

use crate::quant::float::Float;
use crate::quant::simd::{Kernel, OutBf16, OutF16, OutF32, Simd, store_bf16_slowly};

/// Call an intrinsic.
macro_rules! op {
    ($name:ident $(::<$constant:tt>)? ($a:expr $(, $b:expr $(, $c:expr $(, $d:expr)?)?)?)) => {{
        $crate::quant::simd::avx2::op!(@ $name [$($constant)?] (a = $a) $((b = $b) $((c = $c) $((d = $d))?)?)?)
    }};
    ($name:ident $(::<$constant:tt>)? ($a:expr, $b:expr, $c:expr, $d:expr,)) => {{
        $crate::quant::simd::avx2::op!(@ $name [] (a = $a) (b = $b) (c = $c) (d = $d))
    }};
    (@ $name:ident [$($constant:tt)?] $(($argument:ident = $value:expr))+) => {{
        $(let $argument = $value;)+
        // SAFETY: the kernel runs inside a function with the tier's features, see `simd::run`;
        // pointers come from references to as many bytes as the instruction touches.
        unsafe { $name $(::<$constant>)? ($($argument),+) }
    }};
}
pub(super) use op;

/// Methods on bytes, which every x86 tier has 32 of in a register.
macro_rules! bytes_of_avx2 {
    () => {
        type Bytes = __m256i;

        #[inline(always)]
        fn bytes(self, from: &[u8; 32]) -> __m256i {
            op!(_mm256_loadu_si256(from.as_ptr().cast()))
        }

        #[inline(always)]
        fn nibble_halves(self, from: &[u8; 16]) -> __m256i {
            let low = op!(_mm_loadu_si128(from.as_ptr().cast()));
            let high = op!(_mm_srli_epi16::<4>(low));
            let both = op!(_mm256_set_m128i(high, low));
            self.and(both, 15)
        }

        #[inline(always)]
        fn nibble_pairs(self, from: &[u8; 16]) -> __m256i {
            let packed = op!(_mm_loadu_si128(from.as_ptr().cast()));
            let words = op!(_mm256_cvtepu8_epi16(packed));
            let high = op!(_mm256_slli_epi16::<4>(words));
            self.and(self.or(words, high), 15)
        }

        #[inline(always)]
        fn and(self, a: __m256i, mask: u8) -> __m256i {
            let mask = op!(_mm256_set1_epi8(mask.cast_signed()));
            op!(_mm256_and_si256(a, mask))
        }

        #[inline(always)]
        fn or(self, a: __m256i, b: __m256i) -> __m256i {
            op!(_mm256_or_si256(a, b))
        }

        #[inline(always)]
        fn minus(self, a: __m256i, b: u8) -> __m256i {
            let b = op!(_mm256_set1_epi8(b.cast_signed()));
            op!(_mm256_sub_epi8(a, b))
        }

        #[inline(always)]
        fn down(self, a: __m256i, by: u8, mask: u8) -> __m256i {
            let by = op!(_mm_cvtsi32_si128(by.into()));
            self.and(op!(_mm256_srl_epi16(a, by)), mask)
        }

        #[inline(always)]
        fn up(self, a: __m256i, mask: u8, by: u8) -> __m256i {
            let by = op!(_mm_cvtsi32_si128(by.into()));
            op!(_mm256_sll_epi16(self.and(a, mask), by))
        }

        #[inline(always)]
        fn half(self, bits: u16) -> f32 {
            let bits = op!(_mm_cvtsi32_si128(bits.into()));
            op!(_mm_cvtss_f32(op!(_mm_cvtph_ps(bits))))
        }
    };
}
pub(super) use bytes_of_avx2;

/// A value says that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
struct Avx2(());

/// Run a kernel with AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run<K: Kernel>(float: Float, kernel: K) {
    match float {
        Float::F32 => kernel.run::<_, OutF32>(Avx2(())),
        Float::F16 => kernel.run::<_, OutF16>(Avx2(())),
        Float::Bf16 => kernel.run::<_, OutBf16>(Avx2(())),
    }
}

/// 16 items: their lower bytes and their upper ones, each twice.
#[derive(Clone, Copy)]
struct Halves {
    low: __m256i,
    high: __m256i,
}

impl Avx2 {
    /// 32 bytes by eights.
    #[inline(always)]
    fn eights(self, from: __m256i) -> [[__m128i; 2]; 2] {
        let low = op!(_mm256_castsi256_si128(from));
        let high = op!(_mm256_extracti128_si256::<1>(from));
        [
            [low, op!(_mm_unpackhi_epi64(low, low))],
            [high, op!(_mm_unpackhi_epi64(high, high))],
        ]
    }

    #[inline(always)]
    fn signed_eight(self, eight: __m128i) -> __m256 {
        op!(_mm256_cvtepi32_ps(op!(_mm256_cvtepi8_epi32(eight))))
    }

    #[inline(always)]
    fn unsigned_eight(self, eight: __m128i) -> __m256 {
        op!(_mm256_cvtepi32_ps(op!(_mm256_cvtepu8_epi32(eight))))
    }

    #[inline(always)]
    fn pick_eight(self, from: [__m256; 2], eight: __m128i) -> __m256 {
        let index = op!(_mm256_cvtepu8_epi32(eight));
        let below = op!(_mm256_permutevar8x32_ps(from[0], index));
        let above = op!(_mm256_permutevar8x32_ps(from[1], index));
        let is_above = op!(_mm256_castsi256_ps(op!(_mm256_slli_epi32::<28>(index))));
        op!(_mm256_blendv_ps(below, above, is_above))
    }

    /// The values of 16 binary16, as their bits.
    #[inline(always)]
    fn halves(self, bits: __m256i) -> [__m256; 2] {
        let low = op!(_mm256_castsi256_si128(bits));
        let high = op!(_mm256_extracti128_si256::<1>(bits));
        [op!(_mm256_cvtph_ps(low)), op!(_mm256_cvtph_ps(high))]
    }

    /// 32 bytes as the upper halves of 16-bit items.
    #[inline(always)]
    fn upper(self, from: __m256i) -> [__m256i; 2] {
        let low = op!(_mm256_cvtepu8_epi16(op!(_mm256_castsi256_si128(from))));
        let high = op!(_mm256_cvtepu8_epi16(op!(_mm256_extracti128_si256::<1>(from))));
        [
            op!(_mm256_slli_epi16::<8>(low)),
            op!(_mm256_slli_epi16::<8>(high)),
        ]
    }

    /// The values of 16 E4M3, as the upper halves of items.
    #[inline(always)]
    fn sixteen_e4m3(self, upper: __m256i) -> [__m256; 2] {
        // the same fields in a binary16 mean 2^-8 of the value, subnormals too
        let moved = op!(_mm256_srai_epi16::<1>(upper));
        let keep = op!(_mm256_set1_epi16(0xbfff_u16.cast_signed()));
        let bits = op!(_mm256_and_si256(moved, keep));
        let magnitude = op!(_mm256_and_si256(moved, op!(_mm256_set1_epi16(0x3fff))));
        let is_nan = op!(_mm256_cmpeq_epi16(magnitude, op!(_mm256_set1_epi16(0x3f80))));
        let nan = op!(_mm256_set1_epi16(0x7e00));
        let bits = op!(_mm256_blendv_epi8(bits, nan, is_nan));
        self.mul(self.halves(bits), self.splat(256.0))
    }

    #[inline(always)]
    fn round_sixteen(self, numbers: [__m256; 2]) -> __m256i {
        self.pack([self.round(numbers[0]), self.round(numbers[1])])
    }

    /// Bits of bfloat16 in 32-bit lanes.
    #[inline(always)]
    fn round_any(self, numbers: __m256) -> __m256i {
        let is_nan = op!(_mm256_cmp_ps::<_CMP_UNORD_Q>(numbers, numbers));
        let is_nan = op!(_mm256_castps_si256(is_nan));
        let nan = op!(_mm256_set1_epi32(0x7fc0));
        op!(_mm256_blendv_epi8(self.round(numbers), nan, is_nan))
    }

    /// Bits of bfloat16 in 32-bit lanes; wrong for NaN.
    #[inline(always)]
    fn round(self, numbers: __m256) -> __m256i {
        let bits = op!(_mm256_castps_si256(numbers));
        let kept = op!(_mm256_srli_epi32::<16>(bits));
        let odd = op!(_mm256_and_si256(kept, op!(_mm256_set1_epi32(1))));
        let up = op!(_mm256_add_epi32(odd, op!(_mm256_set1_epi32(0x7fff))));
        op!(_mm256_srli_epi32::<16>(op!(_mm256_add_epi32(bits, up))))
    }

    /// 16 items of 16 bits from 32-bit lanes.
    #[inline(always)]
    fn pack(self, lanes: [__m256i; 2]) -> __m256i {
        let packed = op!(_mm256_packus_epi32(lanes[0], lanes[1]));
        op!(_mm256_permute4x64_epi64::<0b11_01_10_00>(packed))
    }

    /// The bits of 16 binary16.
    #[inline(always)]
    fn to_f16(self, numbers: [__m256; 2]) -> __m256i {
        let low = op!(_mm256_cvtps_ph::<0>(numbers[0]));
        let high = op!(_mm256_cvtps_ph::<0>(numbers[1]));
        op!(_mm256_set_m128i(high, low))
    }

    /// A table of 16 items.
    #[inline(always)]
    fn split(self, items: __m256i) -> Halves {
        let low = op!(_mm256_and_si256(items, op!(_mm256_set1_epi16(255))));
        let high = op!(_mm256_srli_epi16::<8>(items));
        // lower bytes of each lane, then upper ones
        let packed = op!(_mm256_packus_epi16(low, high));
        Halves {
            low: op!(_mm256_permute4x64_epi64::<0b10_00_10_00>(packed)),
            high: op!(_mm256_permute4x64_epi64::<0b11_01_11_01>(packed)),
        }
    }

    #[inline(always)]
    fn store(self, items: [__m256i; 2], out: &mut [u8; 64]) {
        let (first, second) = out.split_at_mut(32);
        op!(_mm256_storeu_si256(first.as_mut_ptr().cast(), items[0]));
        op!(_mm256_storeu_si256(second.as_mut_ptr().cast(), items[1]));
    }
}

impl Simd for Avx2 {
    type Numbers = [__m256; 2];
    type Table = Halves;

    bytes_of_avx2!();

    #[inline(always)]
    fn bits(self, from: u32) -> __m256i {
        let all = op!(_mm256_set1_epi32(from.cast_signed()));
        let byte = op!(_mm256_setr_epi64x(
            0,
            0x0101_0101_0101_0101,
            0x0202_0202_0202_0202,
            0x0303_0303_0303_0303,
        ));
        let bit = op!(_mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed()));
        let mine = op!(_mm256_and_si256(op!(_mm256_shuffle_epi8(all, byte)), bit));
        op!(_mm256_cmpeq_epi8(mine, bit))
    }

    #[inline(always)]
    fn signed(self, from: __m256i) -> [Self::Numbers; 2] {
        let [[a, b], [c, d]] = self.eights(from);
        [
            [self.signed_eight(a), self.signed_eight(b)],
            [self.signed_eight(c), self.signed_eight(d)],
        ]
    }

    #[inline(always)]
    fn unsigned(self, from: __m256i) -> [Self::Numbers; 2] {
        let [[a, b], [c, d]] = self.eights(from);
        [
            [self.unsigned_eight(a), self.unsigned_eight(b)],
            [self.unsigned_eight(c), self.unsigned_eight(d)],
        ]
    }

    #[inline(always)]
    fn e4m3(self, from: __m256i) -> [Self::Numbers; 2] {
        let [a, b] = self.upper(from);
        [self.sixteen_e4m3(a), self.sixteen_e4m3(b)]
    }

    #[inline(always)]
    fn e5m2(self, from: __m256i) -> [Self::Numbers; 2] {
        let [a, b] = self.upper(from);
        [self.halves(a), self.halves(b)]
    }

    #[inline(always)]
    fn splat(self, number: f32) -> Self::Numbers {
        [op!(_mm256_set1_ps(number)); 2]
    }

    #[inline(always)]
    fn numbers(self, from: &[f32; 16]) -> Self::Numbers {
        let (low, high) = from.split_at(8);
        [op!(_mm256_loadu_ps(low.as_ptr())), op!(_mm256_loadu_ps(high.as_ptr()))]
    }

    #[inline(always)]
    fn array(self, from: Self::Numbers) -> [f32; 16] {
        let mut array = [0.0; 16];
        let (low, high) = array.split_at_mut(8);
        op!(_mm256_storeu_ps(low.as_mut_ptr(), from[0]));
        op!(_mm256_storeu_ps(high.as_mut_ptr(), from[1]));
        array
    }

    #[inline(always)]
    fn mul(self, a: Self::Numbers, b: Self::Numbers) -> Self::Numbers {
        [op!(_mm256_mul_ps(a[0], b[0])), op!(_mm256_mul_ps(a[1], b[1]))]
    }

    #[inline(always)]
    fn add(self, a: Self::Numbers, b: Self::Numbers) -> Self::Numbers {
        [op!(_mm256_add_ps(a[0], b[0])), op!(_mm256_add_ps(a[1], b[1]))]
    }

    #[inline(always)]
    fn sub(self, a: Self::Numbers, b: Self::Numbers) -> Self::Numbers {
        [op!(_mm256_sub_ps(a[0], b[0])), op!(_mm256_sub_ps(a[1], b[1]))]
    }

    #[inline(always)]
    fn store_f32(self, numbers: [Self::Numbers; 2], out: &mut [u8; 128]) {
        let [[a, b], [c, d]] = numbers;
        let (first, second) = out.split_at_mut(64);
        let (to_a, to_b) = first.split_at_mut(32);
        let (to_c, to_d) = second.split_at_mut(32);
        op!(_mm256_storeu_ps(to_a.as_mut_ptr().cast(), a));
        op!(_mm256_storeu_ps(to_b.as_mut_ptr().cast(), b));
        op!(_mm256_storeu_ps(to_c.as_mut_ptr().cast(), c));
        op!(_mm256_storeu_ps(to_d.as_mut_ptr().cast(), d));
    }

    #[inline(always)]
    fn store_f16(self, numbers: [Self::Numbers; 2], out: &mut [u8; 64]) {
        self.store([self.to_f16(numbers[0]), self.to_f16(numbers[1])], out);
    }

    #[inline(always)]
    fn store_bf16(self, numbers: [Self::Numbers; 2], out: &mut [u8; 64]) {
        let [a, b] = numbers;
        let in_a = op!(_mm256_cmp_ps::<_CMP_UNORD_Q>(a[0], a[1]));
        let in_b = op!(_mm256_cmp_ps::<_CMP_UNORD_Q>(b[0], b[1]));
        if op!(_mm256_movemask_ps(op!(_mm256_or_ps(in_a, in_b)))) != 0 {
            store_bf16_slowly([self.array(a), self.array(b)], out);
            return;
        }
        self.store([self.round_sixteen(a), self.round_sixteen(b)], out);
    }

    #[inline(always)]
    fn table_f16(self, numbers: Self::Numbers) -> Halves {
        self.split(self.to_f16(numbers))
    }

    #[inline(always)]
    fn table_bf16(self, numbers: Self::Numbers) -> Halves {
        let [a, b] = numbers;
        self.split(self.pack([self.round_any(a), self.round_any(b)]))
    }

    #[inline(always)]
    fn look_up(self, table: Halves, index: __m256i, out: &mut [u8; 64]) {
        let low = op!(_mm256_shuffle_epi8(table.low, index));
        let high = op!(_mm256_shuffle_epi8(table.high, index));
        // items 0-7 and 16-23, items 8-15 and 24-31
        let even = op!(_mm256_unpacklo_epi8(low, high));
        let odd = op!(_mm256_unpackhi_epi8(low, high));
        let first = op!(_mm256_permute2x128_si256::<0x20>(even, odd));
        let second = op!(_mm256_permute2x128_si256::<0x31>(even, odd));
        self.store([first, second], out);
    }

    #[inline(always)]
    fn pick(self, from: Self::Numbers, index: __m256i) -> [Self::Numbers; 2] {
        let [[a, b], [c, d]] = self.eights(index);
        [
            [self.pick_eight(from, a), self.pick_eight(from, b)],
            [self.pick_eight(from, c), self.pick_eight(from, d)],
        ]
    }
}

//! What a format's kernel is written in: bytes 32 at a time, numbers 16 at a time, one trait.
//!
//! A kernel is one generic function; [`run`] compiles it once per tier and dtype, inside a function
//! that has the tier's features. Everything below it is `#[inline(always)]` for that reason, and no
//! number passes through a closure: one that is not inlined calls every instruction as a function.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use std::sync::OnceLock;

use crate::quant::float::Float;
use crate::quant::tier::Tier;

/// The instructions of a tier; a value is proof that the processor has them.
pub(crate) trait Simd: Copy {
    /// 32 bytes.
    type Bytes: Copy;
    /// 16 f32.
    type Numbers: Copy;
    /// 16 items of two bytes, to be looked up.
    type Table: Copy;

    /// 32 bytes as they lie.
    fn bytes(self, from: &[u8; 32]) -> Self::Bytes;
    /// The low nibbles of 16 bytes, then the high ones.
    fn nibble_halves(self, from: &[u8; 16]) -> Self::Bytes;
    /// The low and the high nibble of each of 16 bytes in turn.
    fn nibble_pairs(self, from: &[u8; 16]) -> Self::Bytes;
    /// 255 where the bit is set, else 0.
    fn bits(self, from: u32) -> Self::Bytes;
    /// Bits that are in both.
    fn and(self, a: Self::Bytes, mask: u8) -> Self::Bytes;
    /// Bits that are in either.
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Wrapping difference.
    fn minus(self, a: Self::Bytes, b: u8) -> Self::Bytes;
    /// Shift bytes down, then keep the bits of `mask`; it has none that come from a neighbour.
    fn down(self, a: Self::Bytes, by: u8, mask: u8) -> Self::Bytes;
    /// Keep the bits of `mask`, then shift bytes up; none leaves its byte.
    fn up(self, a: Self::Bytes, mask: u8, by: u8) -> Self::Bytes;

    /// The values of signed bytes.
    fn signed(self, from: Self::Bytes) -> [Self::Numbers; 2];
    /// The values of unsigned bytes.
    fn unsigned(self, from: Self::Bytes) -> [Self::Numbers; 2];
    /// The values of E4M3 bytes.
    fn e4m3(self, from: Self::Bytes) -> [Self::Numbers; 2];
    /// The values of E5M2 bytes.
    fn e5m2(self, from: Self::Bytes) -> [Self::Numbers; 2];
    /// The value of a binary16; a NaN may be quieted.
    fn half(self, bits: u16) -> f32;

    /// All the same number.
    fn splat(self, number: f32) -> Self::Numbers;
    /// Numbers as they lie.
    fn numbers(self, from: &[f32; 16]) -> Self::Numbers;
    /// Numbers, one by one.
    fn array(self, from: Self::Numbers) -> [f32; 16];
    /// Products.
    fn mul(self, a: Self::Numbers, b: Self::Numbers) -> Self::Numbers;
    /// Sums.
    fn add(self, a: Self::Numbers, b: Self::Numbers) -> Self::Numbers;
    /// Differences.
    fn sub(self, a: Self::Numbers, b: Self::Numbers) -> Self::Numbers;

    /// Write 32 numbers as f32.
    fn store_f32(self, numbers: [Self::Numbers; 2], out: &mut [u8; 128]);
    /// Write 32 numbers as binary16.
    fn store_f16(self, numbers: [Self::Numbers; 2], out: &mut [u8; 64]);
    /// Write 32 numbers as bfloat16.
    fn store_bf16(self, numbers: [Self::Numbers; 2], out: &mut [u8; 64]);

    /// A table of binary16.
    fn table_f16(self, numbers: Self::Numbers) -> Self::Table;
    /// A table of bfloat16.
    fn table_bf16(self, numbers: Self::Numbers) -> Self::Table;
    /// Write the items of a table that 32 bytes below 16 name.
    fn look_up(self, table: Self::Table, index: Self::Bytes, out: &mut [u8; 64]);
    /// The numbers that 32 bytes below 16 name.
    fn pick(self, from: Self::Numbers, index: Self::Bytes) -> [Self::Numbers; 2];
}

/// A dtype of results, as a type.
pub(crate) trait Out: Copy {
    /// Bytes of 32 items.
    const CHUNK: usize;
    /// 16 items to be looked up.
    type Table<S: Simd>: Copy;

    /// Round 32 numbers and write them to [`Self::CHUNK`] bytes.
    fn store<S: Simd>(simd: S, numbers: [S::Numbers; 2], out: &mut [u8]);
    /// Round 16 numbers.
    fn table<S: Simd>(simd: S, numbers: S::Numbers) -> Self::Table<S>;
    /// Write the items of a table that 32 bytes below 16 name.
    fn look_up<S: Simd>(simd: S, table: Self::Table<S>, index: S::Bytes, out: &mut [u8]);

    /// As [`Self::store`], as many as `out` has room for.
    #[inline(always)]
    fn store_first<S: Simd>(simd: S, numbers: [S::Numbers; 2], out: &mut [u8]) {
        let mut all = [0; 128];
        Self::store(simd, numbers, &mut all[..Self::CHUNK]);
        out.copy_from_slice(&all[..out.len()]);
    }

    /// As [`Self::look_up`], as many as `out` has room for.
    #[inline(always)]
    fn look_up_first<S: Simd>(
        simd: S,
        table: Self::Table<S>,
        index: S::Bytes,
        out: &mut [u8],
    ) {
        let mut all = [0; 128];
        Self::look_up(simd, table, index, &mut all[..Self::CHUNK]);
        out.copy_from_slice(&all[..out.len()]);
    }
}

/// A kernel, generic over tier and dtype; both functions are `#[inline(always)]`.
pub(crate) trait Kernel {
    /// Do the work.
    fn run<S: Simd, O: Out>(self, simd: S);
}

/// Run a kernel with the instructions of a tier; false, and nothing done, where it has none here.
pub(crate) fn run<K: Kernel>(tier: Tier, float: Float, kernel: K) -> bool {
    static BEST: OnceLock<Tier> = OnceLock::new();
    if tier > *BEST.get_or_init(Tier::best) {
        return false;
    }
    match tier {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this tier is not above the best one, so the processor has its features.
        Tier::Avx2 => unsafe { avx2::run(float, kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::Avx512 => unsafe { avx512::run(float, kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::Avx512Bf16 => unsafe { avx512::run_bf16(float, kernel) },
        _ => return false,
    }
    true
}

/// Results as f32.
#[derive(Clone, Copy)]
pub(crate) struct OutF32;

/// Results as binary16.
#[derive(Clone, Copy)]
pub(crate) struct OutF16;

/// Results as bfloat16.
#[derive(Clone, Copy)]
pub(crate) struct OutBf16;

impl Out for OutF32 {
    const CHUNK: usize = 128;
    type Table<S: Simd> = S::Numbers;

    #[inline(always)]
    fn store<S: Simd>(simd: S, numbers: [S::Numbers; 2], out: &mut [u8]) {
        simd.store_f32(numbers, fixed_mut(out));
    }

    #[inline(always)]
    fn table<S: Simd>(_simd: S, numbers: S::Numbers) -> S::Numbers {
        numbers
    }

    #[inline(always)]
    fn look_up<S: Simd>(simd: S, table: S::Numbers, index: S::Bytes, out: &mut [u8]) {
        simd.store_f32(simd.pick(table, index), fixed_mut(out));
    }
}

impl Out for OutF16 {
    const CHUNK: usize = 64;
    type Table<S: Simd> = S::Table;

    #[inline(always)]
    fn store<S: Simd>(simd: S, numbers: [S::Numbers; 2], out: &mut [u8]) {
        simd.store_f16(numbers, fixed_mut(out));
    }

    #[inline(always)]
    fn table<S: Simd>(simd: S, numbers: S::Numbers) -> S::Table {
        simd.table_f16(numbers)
    }

    #[inline(always)]
    fn look_up<S: Simd>(simd: S, table: S::Table, index: S::Bytes, out: &mut [u8]) {
        simd.look_up(table, index, fixed_mut(out));
    }
}

impl Out for OutBf16 {
    const CHUNK: usize = 64;
    type Table<S: Simd> = S::Table;

    #[inline(always)]
    fn store<S: Simd>(simd: S, numbers: [S::Numbers; 2], out: &mut [u8]) {
        simd.store_bf16(numbers, fixed_mut(out));
    }

    #[inline(always)]
    fn table<S: Simd>(simd: S, numbers: S::Numbers) -> S::Table {
        simd.table_bf16(numbers)
    }

    #[inline(always)]
    fn look_up<S: Simd>(simd: S, table: S::Table, index: S::Bytes, out: &mut [u8]) {
        simd.look_up(table, index, fixed_mut(out));
    }
}

/// `N` bytes from `at` on.
///
/// # Panics
/// If the bytes end before: a mistake of this package.
#[inline(always)]
pub(crate) fn fixed<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..]
        .first_chunk()
        .expect("a weight is as large as its shape demands")
}

/// All of `N` bytes.
#[inline(always)]
fn fixed_mut<const N: usize>(bytes: &mut [u8]) -> &mut [u8; N] {
    bytes.try_into().expect("results are written 32 at a time")
}

/// Write 32 numbers as bfloat16, one by one: for NaN, which is rare.
#[cold]
fn store_bf16_slowly(numbers: [[f32; 16]; 2], out: &mut [u8; 64]) {
    for (number, out) in numbers.as_flattened().iter().zip(out.chunks_exact_mut(2)) {
        Float::Bf16.store(*number, out);
    }
}

/// Codes that are fewer than a kernel takes, with zeros behind.
#[inline(always)]
pub(crate) fn filled_up<const N: usize>(codes: &[u8]) -> [u8; N] {
    let mut filled = [0; N];
    filled[..codes.len()].copy_from_slice(codes);
    filled
}

/// What four bits count.
pub(crate) const COUNT: [f32; 16] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
];

/// 32 numbers as two times 16.
#[inline(always)]
pub(crate) fn halves(numbers: &[f32; 32]) -> [&[f32; 16]; 2] {
    let numbers = numbers.as_chunks().0;
    [&numbers[0], &numbers[1]]
}

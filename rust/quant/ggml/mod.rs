//! The block types of GGUF, decoded as ggml's own Python package `gguf` does, to the bit.

mod k_quants;
mod small;
mod table;

pub(crate) use self::k_quants::six_bits;

use std::marker::PhantomData;
use std::ops::Range;

use crate::quant::dequantize::write_rounded;
use crate::quant::float::Float;
use crate::quant::layout::{GgmlType, Layout};
use crate::quant::simd::{self, Kernel, Out, Simd};
use crate::quant::tier::Tier;
use crate::quant::weight::Weight;

/// See [`crate::quant::dequantize::write_columns`].
pub(crate) fn write_columns(
    tier: Tier,
    weight: &Weight<'_>,
    row: usize,
    cols: Range<usize>,
    float: Float,
    out: &mut [u8],
) {
    let Layout::Ggml(kind) = weight.layout else {
        unreachable!("dequantize::write_columns matches on the layout")
    };
    let nbytes = |items| items / kind.block() * kind.block_bytes();
    let q = &weight.parts.q[row * nbytes(weight.cols)..][nbytes(cols.start)..nbytes(cols.end)];
    match kind {
        GgmlType::Q4_0 => write::<small::Q4_0>(tier, q, float, out),
        GgmlType::Q4_1 => write::<small::Q4_1>(tier, q, float, out),
        GgmlType::Q5_0 => write::<small::Q5_0>(tier, q, float, out),
        GgmlType::Q5_1 => write::<small::Q5_1>(tier, q, float, out),
        GgmlType::Q8_0 => write::<small::Q8_0>(tier, q, float, out),
        GgmlType::Q2_K => write::<k_quants::Q2K>(tier, q, float, out),
        GgmlType::Q3_K => write::<k_quants::Q3K>(tier, q, float, out),
        GgmlType::Q4_K => write::<k_quants::Q4K>(tier, q, float, out),
        GgmlType::Q5_K => write::<k_quants::Q5K>(tier, q, float, out),
        GgmlType::Q6_K => write::<k_quants::Q6K>(tier, q, float, out),
        GgmlType::IQ4_NL => write::<table::Iq4Nl>(tier, q, float, out),
        GgmlType::IQ4_XS => write::<table::Iq4Xs>(tier, q, float, out),
        GgmlType::MXFP4 => write::<table::Mxfp4>(tier, q, float, out),
    }
}

/// A block type.
trait Block {
    /// Its name.
    const KIND: GgmlType;

    /// The number at `index` of a block.
    fn number(block: &[u8], index: usize) -> f32;

    /// Write all numbers of a block; `#[inline(always)]`.
    fn write<S: Simd, O: Out>(simd: S, block: &[u8], out: &mut [u8]);
}

fn write<B: Block>(tier: Tier, q: &[u8], float: Float, out: &mut [u8]) {
    let kernel = Blocks {
        q,
        out: &mut *out,
        kind: PhantomData::<B>,
    };
    if !simd::run(tier, float, kernel) {
        let blocks = q.chunks_exact(B::KIND.block_bytes());
        let numbers =
            blocks.flat_map(|block| (0..B::KIND.block()).map(|index| B::number(block, index)));
        write_rounded(float, numbers, out);
    }
}

struct Blocks<'a, B> {
    q: &'a [u8],
    out: &'a mut [u8],
    kind: PhantomData<B>,
}

impl<B: Block> Kernel for Blocks<'_, B> {
    #[inline(always)]
    fn run<S: Simd, O: Out>(self, simd: S) {
        let blocks = self.q.chunks_exact(B::KIND.block_bytes());
        let outs = self.out.chunks_exact_mut(B::KIND.block() / 32 * O::CHUNK);
        for (block, out) in blocks.zip(outs) {
            B::write::<S, O>(simd, block, out);
        }
    }
}

/// The nibble at `index` of bytes whose low nibbles come first, then the high ones, `half` each.
fn nibble(bytes: &[u8], index: usize, half: usize) -> u8 {
    bytes[index / (2 * half) * half + index % half] >> (index / half % 2 * 4) & 15
}

/// The binary16 at byte `at`.
fn f16(bytes: &[u8], at: usize) -> f32 {
    Float::F16.load(&bytes[at..at + 2], 0)
}

/// The binary16 at byte `at`.
#[inline(always)]
fn half<S: Simd>(simd: S, bytes: &[u8], at: usize) -> f32 {
    simd.half(u16::from_le_bytes(*simd::fixed(bytes, at)))
}

//! Activations in the orders in which kernels meet the codes, made when first asked for.

use std::sync::OnceLock;

use crate::quant::float::Float;
use crate::quant::product::Prepared;
use crate::quant::tier::Tier;

/// Sixteen f32 in a cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Numbers(pub(crate) [f32; 16]);

/// Thirty-two bfloat16 in a cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Halves(pub(crate) [u16; 32]);

/// How columns follow one another; rows are filled up with zeros to whole groups.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// As they come, in groups of 64.
    Plain,
    /// As nibbles lie in lanes: first the first nibble of each lane, then the second of each.
    Nibbles {
        /// Lanes of a register.
        lanes: usize,
        /// Nibbles in a lane.
        nibbles: usize,
        /// Whether the lower nibble of a byte comes first.
        low_first: bool,
    },
}

impl Order {
    /// For f32 lanes of registers of 512 bits: groups of 128 columns.
    pub(crate) const fn wide(low_first: bool) -> Self {
        Self::Nibbles {
            lanes: 16,
            nibbles: 8,
            low_first,
        }
    }

    /// For f32 lanes of registers of 256 bits: groups of 64 columns.
    pub(crate) const fn narrow(low_first: bool) -> Self {
        Self::Nibbles {
            lanes: 8,
            nibbles: 8,
            low_first,
        }
    }

    /// For bfloat16 lanes of registers of 512 bits: groups of 128 columns.
    pub(crate) const fn halves(low_first: bool) -> Self {
        Self::Nibbles {
            lanes: 32,
            nibbles: 4,
            low_first,
        }
    }

    const fn group(self) -> usize {
        match self {
            Self::Plain => 64,
            Self::Nibbles { lanes, nibbles, .. } => lanes * nibbles,
        }
    }
}

/// Every order that was asked for.
#[derive(Default)]
pub(crate) struct Arranged {
    numbers: Cells<Numbers>,
    halves: Cells<Halves>,
}

// One for each order: plain, and three kinds of lanes with either nibble first.
type Cells<T> = [OnceLock<Vec<T>>; 7];

impl Order {
    const fn cell(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Nibbles {
                lanes, low_first, ..
            } => 1 + 2 * (lanes / 16) + low_first as usize,
        }
    }
}

impl Arranged {
    /// The activations, each row from a new line on.
    pub(crate) fn numbers(&self, x: &Prepared<'_>, order: Order) -> &[Numbers] {
        self.numbers[order.cell()].get_or_init(|| {
            let numbers = x.numbers().as_chunks().0;
            rows(x.tier, numbers, x.given.cols, order, f32::from_le_bytes)
        })
    }

    /// The same as bfloat16, which they must be.
    pub(crate) fn halves(&self, x: &Prepared<'_>, order: Order) -> &[Halves] {
        assert_eq!(x.given.float, Float::Bf16, "activations for these kernels");
        self.halves[order.cell()].get_or_init(|| {
            let halves = x.given.bytes.as_chunks().0;
            rows(x.tier, halves, x.given.cols, order, u16::from_le_bytes)
        })
    }
}

/// A cache line of `N` items.
trait Line<T, const N: usize>: Copy {
    const ZERO: Self;

    fn items(&mut self) -> &mut [T; N];
}

impl Line<f32, 16> for Numbers {
    const ZERO: Self = Self([0.0; 16]);

    #[inline(always)]
    fn items(&mut self) -> &mut [f32; 16] {
        &mut self.0
    }
}

impl Line<u16, 32> for Halves {
    const ZERO: Self = Self([0; 32]);

    #[inline(always)]
    fn items(&mut self) -> &mut [u16; 32] {
        &mut self.0
    }
}

/// All rows in an order, `N` items of `SIZE` bytes to a line.
fn rows<T: Copy, L: Line<T, N>, const SIZE: usize, const N: usize>(
    tier: Tier,
    numbers: &[[u8; SIZE]],
    cols: usize,
    order: Order,
    item: impl Fn([u8; SIZE]) -> T + Copy,
) -> Vec<L> {
    let group = order.group();
    // one at least: weights without columns have no lines
    let row_lines = (cols.div_ceil(group) * group / N).max(1);
    let rows = numbers.chunks_exact(cols.max(1));
    let mut lines = vec![L::ZERO; rows.len() * row_lines];
    for (row, lines) in rows.zip(lines.chunks_exact_mut(row_lines)) {
        let (whole, tail) = row.split_at(cols / group * group);
        let (out, out_tail) = lines.split_at_mut(whole.len() / N);
        arrange(tier, whole, order, item, out);
        if !tail.is_empty() {
            let mut padded = [[0; SIZE]; 128];
            padded[..tail.len()].copy_from_slice(tail);
            arrange(tier, &padded[..group], order, item, out_tail);
        }
    }
    lines
}

/// Whole groups of columns, with the instructions of a tier.
fn arrange<T: Copy, L: Line<T, N>, const SIZE: usize, const N: usize>(
    tier: Tier,
    from: &[[u8; SIZE]],
    order: Order,
    item: impl Fn([u8; SIZE]) -> T,
    lines: &mut [L],
) {
    match tier {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the tier is available, as the caller of all kernels sees to.
        Tier::Avx512 | Tier::Avx512Bf16 => unsafe { arrange_avx512(from, order, item, lines) },
        _ => arrange_any(from, order, item, lines),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn arrange_avx512<T: Copy, L: Line<T, N>, const SIZE: usize, const N: usize>(
    from: &[[u8; SIZE]],
    order: Order,
    item: impl Fn([u8; SIZE]) -> T,
    lines: &mut [L],
) {
    arrange_any(from, order, item, lines);
}

/// A compiler makes SIMD of these loops: their lengths are constant.
#[inline(always)]
fn arrange_any<T: Copy, L: Line<T, N>, const SIZE: usize, const N: usize>(
    from: &[[u8; SIZE]],
    order: Order,
    item: impl Fn([u8; SIZE]) -> T,
    lines: &mut [L],
) {
    let Order::Nibbles {
        lanes,
        nibbles,
        low_first,
    } = order
    else {
        for (part, line) in from.as_chunks::<N>().0.iter().zip(lines) {
            for (from, to) in part.iter().zip(line.items()) {
                *to = item(*from);
            }
        }
        return;
    };
    let swap = usize::from(!low_first);
    if lanes == 8 {
        // two registers to a line
        let groups = from.as_chunks::<8>().0.as_chunks::<8>().0;
        for (part, lines) in groups.iter().zip(lines.as_chunks_mut::<4>().0) {
            for nibble in 0..8 {
                let line = lines[(nibble ^ swap) / 2].items();
                let to = &mut line[(nibble ^ swap) % 2 * 8..][..8];
                for (lane, to) in part.iter().zip(to) {
                    *to = item(lane[nibble]);
                }
            }
        }
    } else if nibbles == 8 {
        by_nibble::<8, _, _, _, _>(from, swap, item, lines);
    } else {
        by_nibble::<4, _, _, _, _>(from, swap, item, lines);
    }
}

/// For each group, a line for each nibble, of all lanes.
#[inline(always)]
fn by_nibble<const NIBBLES: usize, T: Copy, L: Line<T, N>, const SIZE: usize, const N: usize>(
    from: &[[u8; SIZE]],
    swap: usize,
    item: impl Fn([u8; SIZE]) -> T,
    lines: &mut [L],
) {
    let groups = from.as_chunks::<NIBBLES>().0.as_chunks::<N>().0;
    for (part, lines) in groups.iter().zip(lines.as_chunks_mut::<NIBBLES>().0) {
        for nibble in 0..NIBBLES {
            let line = lines[nibble ^ swap].items();
            for (lane, to) in part.iter().zip(line) {
                *to = item(lane[nibble]);
            }
        }
    }
}

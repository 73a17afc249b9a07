//! Activations in the orders in which kernels meet the codes, made when first asked for.

use std::sync::OnceLock;

use crate::quant::float::Float;
use crate::quant::product::Prepared;

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
            lines(numbers, x.given.cols, order, f32::from_le_bytes, Numbers)
        })
    }

    /// The same as bfloat16, which they must be.
    pub(crate) fn halves(&self, x: &Prepared<'_>, order: Order) -> &[Halves] {
        assert_eq!(x.given.float, Float::Bf16, "activations for these kernels");
        self.halves[order.cell()].get_or_init(|| {
            let halves = x.given.bytes.as_chunks().0;
            lines(halves, x.given.cols, order, u16::from_le_bytes, Halves)
        })
    }
}

/// All rows in an order, `N` items of `SIZE` bytes to a line.
fn lines<T: Copy, L, const SIZE: usize, const N: usize>(
    numbers: &[[u8; SIZE]],
    cols: usize,
    order: Order,
    item: impl Fn([u8; SIZE]) -> T,
    line: impl Fn([T; N]) -> L,
) -> Vec<L> {
    let group = order.group();
    let rows = numbers.chunks_exact(cols.max(1));
    let mut lines = Vec::with_capacity(rows.len() * cols.div_ceil(group) * group / N);
    for row in rows {
        let (whole, tail) = row.split_at(cols / group * group);
        let mut padded = [[0; SIZE]; 128];
        padded[..tail.len()].copy_from_slice(tail);
        let padded = if tail.is_empty() {
            &[]
        } else {
            &padded[..group]
        };
        for part in [whole, padded] {
            match order {
                Order::Plain => {
                    lines
                        .extend((part.as_chunks::<N>().0.iter()).map(|part| line(part.map(&item))));
                }
                Order::Nibbles {
                    lanes: 8,
                    low_first,
                    ..
                } => {
                    // two registers to a line
                    for part in part.as_chunks::<8>().0.as_chunks::<8>().0 {
                        for pair in [0, 2, 4, 6] {
                            let nibbles =
                                [pair, pair + 1].map(|nibble| nibble ^ usize::from(!low_first));
                            let number = |place: usize| part[place % 8][nibbles[place / 8 % 2]];
                            lines.push(line(std::array::from_fn(|place| item(number(place)))));
                        }
                    }
                }
                Order::Nibbles {
                    nibbles: 8,
                    low_first,
                    ..
                } => by_nibble::<8, SIZE, N, T, L>(part, low_first, &item, &line, &mut lines),
                Order::Nibbles { low_first, .. } => {
                    by_nibble::<4, SIZE, N, T, L>(part, low_first, &item, &line, &mut lines);
                }
            }
        }
    }
    lines
}

/// For each group, a line for each nibble, of all lanes.
fn by_nibble<const NIBBLES: usize, const SIZE: usize, const N: usize, T: Copy, L>(
    part: &[[u8; SIZE]],
    low_first: bool,
    item: &impl Fn([u8; SIZE]) -> T,
    line: &impl Fn([T; N]) -> L,
    lines: &mut Vec<L>,
) {
    for part in part.as_chunks::<NIBBLES>().0.as_chunks::<N>().0 {
        for nibble in 0..NIBBLES {
            let first = nibble ^ usize::from(!low_first);
            lines.push(line(part.map(|lane| item(lane[first]))));
        }
    }
}

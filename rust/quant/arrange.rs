//! Activations in the orders in which kernels meet the codes, made when first asked for.

use std::sync::OnceLock;

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
            let item = |number| number;
            lines(x, order, item, Numbers)
        })
    }

    /// The same as bfloat16, which they must be.
    pub(crate) fn halves(&self, x: &Prepared<'_>, order: Order) -> &[Halves] {
        self.halves[order.cell()].get_or_init(|| {
            let item = |number: f32| (number.to_bits() >> 16) as u16;
            lines(x, order, item, Halves)
        })
    }
}

/// All rows in an order, `N` items to a line.
fn lines<T, L, const N: usize>(
    x: &Prepared<'_>,
    order: Order,
    item: impl Fn(f32) -> T,
    line: impl Fn([T; N]) -> L,
) -> Vec<L> {
    let (cols, group) = (x.given.cols, order.group());
    let numbers = x.numbers().as_chunks::<4>().0;
    let numbers: Vec<f32> = numbers
        .iter()
        .map(|&item| f32::from_le_bytes(item))
        .collect();
    let rows = numbers.chunks_exact(cols.max(1));
    let mut lines = Vec::with_capacity(rows.len() * cols.div_ceil(group) * group / N);
    for row in rows {
        let (whole, tail) = row.split_at(cols / group * group);
        let mut padded = [0.0; 128];
        padded[..tail.len()].copy_from_slice(tail);
        let padded = if tail.is_empty() {
            &[]
        } else {
            &padded[..group]
        };
        for part in whole.chunks_exact(group).chain(padded.chunks_exact(group)) {
            match order {
                Order::Plain => {
                    for part in part.as_chunks::<N>().0 {
                        lines.push(line(part.map(&item)));
                    }
                }
                Order::Nibbles {
                    lanes: 8,
                    low_first,
                    ..
                } => {
                    let part = part.as_chunks::<8>().0;
                    for pair in [0, 2, 4, 6] {
                        // two registers to a line
                        let nibbles =
                            [pair, pair + 1].map(|nibble| nibble ^ usize::from(!low_first));
                        let number = |place: usize| part[place % 8][nibbles[place / 8 % 2]];
                        lines.push(line(std::array::from_fn(|place| item(number(place)))));
                    }
                }
                Order::Nibbles { low_first, .. } => {
                    // a line for each nibble, of all lanes
                    let nibbles = group / N;
                    for nibble in 0..nibbles {
                        let first = nibble ^ usize::from(!low_first);
                        let mut numbers = part[first..].iter().step_by(nibbles);
                        lines.push(line(std::array::from_fn(|_| {
                            item(numbers.next().copied().unwrap_or_default())
                        })));
                    }
                }
            }
        }
    }
    lines
}

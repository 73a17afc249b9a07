//! Activations in the orders in which codes of blocks lie in lanes, made when first asked for.

use std::sync::OnceLock;

use crate::quant::arrange::{Halves, Numbers};
use crate::quant::float::Float;
use crate::quant::product::Prepared;

/// How columns of a group follow one another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// As they come.
    Plain,
    /// 32 bytes of low nibbles, then of high ones, twice; lanes are of so many bytes.
    Halves32(usize),
    /// 16 bytes, 8 lanes of 16 bits, shifted by each nibble; low nibbles come first.
    Halves16,
    /// Lanes of so many bytes: the first of each, then the next.
    Bytes(usize),
    /// Lanes of so many nibbles: the first of each, then the next.
    Nibbles(usize),
    /// 64 bytes, of each 16 first the lower eight, then the upper.
    Unpacked,
}

const ORDERS: usize = 10;

impl Order {
    const fn cell(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Halves32(bytes) => 1 + bytes / 4,
            Self::Halves16 => 3,
            Self::Bytes(bytes) => 4 + bytes / 4,
            Self::Nibbles(nibbles) => 6 + nibbles / 8,
            Self::Unpacked => 9,
        }
    }

    /// Columns of a group; rows are whole groups.
    const fn group(self) -> usize {
        match self {
            Self::Plain | Self::Halves16 => 32,
            Self::Bytes(_) | Self::Unpacked => 64,
            Self::Halves32(_) | Self::Nibbles(_) => 128,
        }
    }

    /// The column of a group that comes at a place.
    const fn col(self, place: usize) -> usize {
        match self {
            Self::Plain => place,
            Self::Halves32(bytes) => {
                let lanes = 64 / bytes;
                let (line, lane) = (place / lanes, place % lanes);
                let (nibble, byte) = (line / bytes, line % bytes);
                let half = lane / (lanes / 2);
                half * 64 + nibble * 32 + lane % (lanes / 2) * bytes + byte
            }
            Self::Halves16 => {
                let (nibble, lane) = (place / 8, place % 8);
                nibble % 2 * 16 + 2 * lane + nibble / 2
            }
            Self::Bytes(bytes) => {
                let lanes = 64 / bytes;
                place % lanes * bytes + place / lanes
            }
            Self::Nibbles(nibbles) => {
                let lanes = 128 / nibbles;
                place % lanes * nibbles + place / lanes
            }
            Self::Unpacked => place % 32 / 8 * 16 + place / 32 * 8 + place % 8,
        }
    }
}

/// Every order that was asked for.
#[derive(Default)]
pub(crate) struct Blocked {
    numbers: [OnceLock<Vec<Numbers>>; ORDERS],
    halves: [OnceLock<Vec<Halves>>; ORDERS],
    sums32: OnceLock<Vec<Numbers>>,
    sums256: OnceLock<Vec<Numbers>>,
}

impl Blocked {
    /// The activations as f32.
    pub(super) fn numbers(&self, x: &Prepared<'_>, order: Order) -> &[Numbers] {
        self.numbers[order.cell()].get_or_init(|| {
            let numbers = x.numbers().as_chunks::<4>().0;
            arrange(numbers, order, f32::from_le_bytes, Numbers)
        })
    }

    /// The same as bfloat16, which they must be.
    pub(super) fn halves(&self, x: &Prepared<'_>, order: Order) -> &[Halves] {
        debug_assert!(x.given.float == Float::Bf16);
        self.halves[order.cell()].get_or_init(|| {
            let halves = x.given.bytes.as_chunks::<2>().0;
            arrange(halves, order, u16::from_le_bytes, Halves)
        })
    }

    /// A line for each 32 columns: in odd places the sum of four of them, else zero.
    pub(super) fn sums32(&self, x: &Prepared<'_>) -> &[Numbers] {
        self.sums32.get_or_init(|| {
            let numbers = x.numbers().as_chunks::<128>().0.iter();
            let line = numbers.map(|bytes| {
                let mut line = [0.0; 16];
                for (place, four) in bytes.as_chunks::<16>().0.iter().enumerate() {
                    line[2 * place + 1] = four
                        .as_chunks()
                        .0
                        .iter()
                        .copied()
                        .map(f32::from_le_bytes)
                        .sum();
                }
                Numbers(line)
            });
            line.collect()
        })
    }

    /// A line for each 256 columns: zeros, then the sums of 32 each, negated.
    pub(super) fn sums256(&self, x: &Prepared<'_>) -> &[Numbers] {
        self.sums256.get_or_init(|| {
            let numbers = x.numbers().as_chunks::<1024>().0.iter();
            let line = numbers.map(|bytes| {
                let mut line = [0.0; 16];
                for (sum, bytes) in line[8..].iter_mut().zip(bytes.as_chunks::<128>().0) {
                    // in lanes: shorter sums, and what the processor is quick at
                    let mut lanes = [0.0; 8];
                    for eight in bytes.as_chunks::<32>().0 {
                        for (lane, item) in lanes.iter_mut().zip(eight.as_chunks().0) {
                            *lane += f32::from_le_bytes(*item);
                        }
                    }
                    *sum = -lanes.iter().sum::<f32>();
                }
                Numbers(line)
            });
            line.collect()
        })
    }
}

/// All groups in an order, `N` items to a line.
fn arrange<T, U: Copy + Default, L, const BYTES: usize, const N: usize>(
    items: &[T],
    order: Order,
    item: impl Fn([u8; BYTES]) -> U,
    line: impl Fn([U; N]) -> L,
) -> Vec<L>
where
    T: Copy + Into<[u8; BYTES]>,
{
    let group = order.group();
    let mut cols = [0; 128];
    for (place, col) in cols.iter_mut().enumerate().take(group) {
        *col = order.col(place);
    }
    let cols = &cols.as_chunks::<N>().0[..group / N];
    let mut lines = Vec::with_capacity(items.len() / N);
    for part in items.chunks_exact(group) {
        for cols in cols {
            lines.push(line(cols.map(|col| item(part[col].into()))));
        }
    }
    lines
}

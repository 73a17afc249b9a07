//! Byte ranges of files, and how the parts of a unit lie in a slot.

use std::cmp::Reverse;
use std::ptr;

use crate::error::Error;

/// Every slot starts at a multiple of this, and no part asks for more.
pub const SLOT_ALIGNMENT: usize = 4096;

/// A range of bytes of one of the opened files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Index into the list of opened files.
    pub file: u32,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Length in bytes.
    pub nbytes: u64,
}

impl Extent {
    /// The first byte after it.
    ///
    /// # Errors
    /// `ExtentTooLarge` when it cannot be counted.
    pub fn end(&self) -> Result<u64, Error> {
        self.offset
            .checked_add(self.nbytes)
            .ok_or_else(|| self.too_large())
    }

    fn too_large(&self) -> Error {
        Error::ExtentTooLarge {
            file: self.file,
            offset: self.offset,
            nbytes: self.nbytes,
        }
    }
}

/// A tensor, or some rows of one, as a part of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it lies.
    pub extent: Extent,
    /// Its address in memory is a multiple of this; a power of two up to 4096.
    pub item_size: u32,
}

/// A read of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRead {
    /// What is read: begin and length are multiples of the alignment, so it may end after the file.
    pub extent: Extent,
    /// Bytes from its start that must arrive.
    pub needed: usize,
    /// Where it goes, from the start of the slot; a multiple of the alignment.
    pub slot_offset: usize,
}

/// Where a part lies in the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotPart {
    /// Where it is after [`UnitLayout::settle`]; a multiple of the part's item size.
    pub slot_offset: usize,
    /// Where its bytes arrive.
    pub read_offset: usize,
    /// Its length.
    pub nbytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Move {
    from: usize,
    to: usize,
    nbytes: usize,
}

/// How the parts of a unit are read into a slot, and where they lie afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitLayout {
    reads: Vec<SlotRead>,
    parts: Vec<SlotPart>,
    // In the order in which none overwrites what another still has to move.
    moves: Vec<Move>,
    nbytes: usize,
}

impl UnitLayout {
    /// Lay out `parts` for an engine of this alignment, a power of two. Reads that touch or overlap
    /// are one read, in whatever order the parts come.
    ///
    /// # Errors
    /// When an extent overflows, an item size is no power of two, or parts share bytes that cannot
    /// be aligned for all of them.
    ///
    /// # Panics
    /// If the alignment is not a power of two: an engine's mistake.
    pub fn new(parts: &[Part], alignment: usize) -> Result<Self, Error> {
        assert!(
            alignment.is_power_of_two(),
            "alignment {alignment} is not a power of two"
        );
        let mut order: Vec<usize> = (0..parts.len()).collect();
        for part in parts {
            part.extent.end()?;
            let item_size = part.item_size as usize;
            if !item_size.is_power_of_two() || item_size > SLOT_ALIGNMENT {
                return Err(Error::ItemSize {
                    item_size: part.item_size,
                });
            }
        }
        order.retain(|&index| parts[index].extent.nbytes > 0);
        order.sort_by_key(|&index| {
            let extent = parts[index].extent;
            (extent.file, extent.offset, Reverse(extent.nbytes))
        });

        let mut layout = Self {
            reads: Vec::new(),
            parts: vec![
                SlotPart {
                    slot_offset: 0,
                    read_offset: 0,
                    nbytes: 0
                };
                parts.len()
            ],
            moves: Vec::new(),
            nbytes: 0,
        };
        let mut cursor = 0_usize;
        let mut rest = order.as_slice();
        while let Some((read, members)) = next_read(parts, rest, alignment)? {
            rest = &rest[members..];
            let start = align_up(cursor, alignment.max(64)).ok_or_else(|| read.too_large())?;
            let members = &order[order.len() - rest.len() - members..order.len() - rest.len()];
            cursor = layout.place(parts, members, read, start)?;
        }
        let grain = alignment.max(SLOT_ALIGNMENT);
        layout.nbytes = align_up(cursor, grain).ok_or(Error::ArenaTooLarge { needed: u64::MAX })?;
        Ok(layout)
    }

    // Add one read and the parts in it; returns the end of the room it takes.
    fn place(
        &mut self,
        parts: &[Part],
        members: &[usize],
        read: Extent,
        start: usize,
    ) -> Result<usize, Error> {
        let too_large = || read.too_large();
        let nbytes = usize::try_from(read.nbytes).map_err(|_| too_large())?;
        let read_end = start.checked_add(nbytes).ok_or_else(too_large)?;
        let arrival = |extent: Extent| {
            // Within the read, whose length fits.
            start + (extent.offset - read.offset) as usize
        };
        let mut needed = 0;
        let mut moves = Vec::new();
        let mut settled_end = start;
        let mut rest = members;
        while let Some(&first) = rest.first() {
            // Parts that share bytes stay together.
            let from = arrival(parts[first].extent);
            let mut end = from;
            let mut count = 0;
            for &index in rest {
                let extent = parts[index].extent;
                if count > 0 && arrival(extent) >= end {
                    break;
                }
                end = end.max(arrival(extent) + extent.nbytes as usize);
                count += 1;
            }
            let (cluster, others) = rest.split_at(count);
            rest = others;
            let lowest = from.max(settled_end);
            let to = (lowest..lowest.saturating_add(SLOT_ALIGNMENT))
                .find(|to| {
                    cluster.iter().all(|&index| {
                        let place = to + (arrival(parts[index].extent) - from);
                        place.is_multiple_of(parts[index].item_size as usize)
                    })
                })
                .ok_or(Error::PartsOverlap {
                    file: read.file,
                    offset: parts[first].extent.offset,
                })?;
            for &index in cluster {
                let read_offset = arrival(parts[index].extent);
                self.parts[index] = SlotPart {
                    slot_offset: to + (read_offset - from),
                    read_offset,
                    nbytes: parts[index].extent.nbytes as usize,
                };
            }
            if to != from {
                moves.push(Move {
                    from,
                    to,
                    nbytes: end - from,
                });
            }
            needed = end - start;
            settled_end = to.checked_add(end - from).ok_or_else(too_large)?;
        }
        // All moves go up: from the last to the first, none overwrites what is still to be moved.
        self.moves.extend(moves.into_iter().rev());
        self.reads.push(SlotRead {
            extent: read,
            needed,
            slot_offset: start,
        });
        Ok(read_end.max(settled_end))
    }

    /// The reads, by file and offset.
    #[must_use]
    pub fn reads(&self) -> &[SlotRead] {
        &self.reads
    }

    /// The parts, in the order they were given.
    #[must_use]
    pub fn parts(&self) -> &[SlotPart] {
        &self.parts
    }

    /// Bytes of the slot, a multiple of 4096 and of the alignment; 0 if no part has any.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        self.nbytes
    }

    /// Bytes that [`UnitLayout::settle`] has to move.
    #[must_use]
    pub fn moved_nbytes(&self) -> usize {
        self.moves.iter().map(|part| part.nbytes).sum()
    }

    /// Move the parts that arrived unaligned to where they belong.
    ///
    /// # Safety
    /// `slot` starts `nbytes()` bytes that nobody else reads or writes meanwhile, and all reads
    /// into them have ended.
    pub unsafe fn settle(&self, slot: *mut u8) {
        for part in &self.moves {
            let (from, to) = (slot.wrapping_add(part.from), slot.wrapping_add(part.to));
            // SAFETY: both ranges lie within the slot, by construction in `place`; the caller keeps
            // everybody else away. They may overlap, which `copy` allows.
            unsafe { ptr::copy(from, to, part.nbytes) };
        }
    }
}

// The aligned read that the first of `rest` begins, and how many of `rest` lie in it.
fn next_read(
    parts: &[Part],
    rest: &[usize],
    alignment: usize,
) -> Result<Option<(Extent, usize)>, Error> {
    let Some(&first) = rest.first() else {
        return Ok(None);
    };
    let alignment = alignment as u64;
    let file = parts[first].extent.file;
    let begin = parts[first].extent.offset / alignment * alignment;
    let mut end = begin;
    let mut count = 0;
    for &index in rest {
        let extent = parts[index].extent;
        if extent.file != file || (count > 0 && extent.offset / alignment * alignment > end) {
            break;
        }
        let aligned_end = extent
            .end()?
            .checked_next_multiple_of(alignment)
            .ok_or_else(|| extent.too_large())?;
        end = end.max(aligned_end);
        count += 1;
    }
    Ok(Some((
        Extent {
            file,
            offset: begin,
            nbytes: end - begin,
        },
        count,
    )))
}

fn align_up(value: usize, alignment: usize) -> Option<usize> {
    value.checked_next_multiple_of(alignment)
}

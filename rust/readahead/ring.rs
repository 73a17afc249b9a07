//! Which bytes of the ring are taken: a contiguous place per slot, handed out round and round.

use std::collections::BTreeMap;

/// Every place starts at a multiple of this and is a multiple of this long.
pub const GRAIN: usize = 4096;

/// Hands out contiguous places of varying size in one span of bytes.
///
/// The next place is the one after the newest, wrapping at the end, as in a FIFO ring. A place that
/// was given back out of turn is used before its older neighbours are free, so that a lease held
/// for long blocks its own bytes only.
#[derive(Debug)]
pub struct Ring {
    capacity: usize,
    live: BTreeMap<usize, usize>,
    cursor: usize,
}

impl Ring {
    /// A ring of `capacity` bytes, rounded down to the grain.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity - capacity % GRAIN,
            live: BTreeMap::new(),
            cursor: 0,
        }
    }

    /// Bytes in all.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that are handed out.
    #[must_use]
    pub fn used(&self) -> usize {
        self.live.values().sum()
    }

    /// What a place for `nbytes` takes; at least one grain, so that no two places start alike.
    #[must_use]
    pub fn footprint(nbytes: usize) -> usize {
        nbytes
            .max(1)
            .checked_next_multiple_of(GRAIN)
            .unwrap_or(usize::MAX)
    }

    /// Take a place for `nbytes`; its start, or `None` when no gap is long enough.
    pub fn allocate(&mut self, nbytes: usize) -> Option<usize> {
        let needed = Self::footprint(nbytes);
        let mut before = None;
        let mut after = None;
        for (start, end) in self.gaps(|_| true) {
            if end - start < needed {
                continue;
            }
            if end > self.cursor {
                after = Some(start);
                break;
            }
            before = before.or(Some(start));
        }
        let start = after.or(before)?;
        self.live.insert(start, needed);
        self.cursor = start + needed;
        Some(start)
    }

    /// Give back the place that starts at `start`; false if there is none.
    pub fn free(&mut self, start: usize) -> bool {
        self.live.remove(&start).is_some()
    }

    /// Whether `nbytes` would find a place if only those places were taken whose start `stays`.
    pub fn would_fit(&self, nbytes: usize, stays: impl Fn(usize) -> bool) -> bool {
        let needed = Self::footprint(nbytes);
        self.gaps(stays).any(|(start, end)| end - start >= needed)
    }

    fn gaps(&self, stays: impl Fn(usize) -> bool) -> impl Iterator<Item = (usize, usize)> {
        let end = (self.capacity, 0);
        let mut free_from = 0;
        self.live
            .iter()
            .map(|(&start, &nbytes)| (start, nbytes))
            .filter(move |&(start, _)| stays(start))
            .chain(std::iter::once(end))
            .map(move |(start, nbytes)| {
                let gap = (free_from, start);
                free_from = start + nbytes;
                gap
            })
    }
}

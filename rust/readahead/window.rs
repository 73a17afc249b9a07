//! The slots between the oldest that is still in use and the newest, with their places in the ring.

use std::collections::VecDeque;
use std::ops::Range;

use crate::error::Error;
use crate::readahead::ring::Ring;
use crate::readahead::schedule;
use crate::readahead::slot::{SlotState, Slots};
use crate::sync::Arc;

#[derive(Debug)]
struct Entry {
    unit: u32,
    demanded: bool,
    // None once the bytes went back to the ring.
    place: Option<usize>,
    error: Option<Error>,
}

/// Which untaken slots go first when room is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victims {
    /// Those wanted last, and none that was demanded: a demand needs the room.
    NewestPlanned,
    /// Those the consumer passed over: it waits for a later unit.
    Oldest,
}

/// What is in memory or on its way there. Changed under the lock only; leases are taken and
/// dropped beside it, through the words of the slots.
#[derive(Debug)]
pub(crate) struct Window {
    slots: Arc<Slots>,
    ring: Ring,
    tail: u64,
    entries: VecDeque<Entry>,
    filling: usize,
}

impl Window {
    pub(crate) fn new(slots: Arc<Slots>, ring_bytes: usize) -> Self {
        let entries = VecDeque::with_capacity(slots.count());
        Self {
            slots,
            ring: Ring::new(ring_bytes),
            tail: 0,
            entries,
            filling: 0,
        }
    }

    /// The words of the slots.
    pub(crate) fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// Slots with reads on their way, wanted or not.
    pub(crate) fn filling(&self) -> usize {
        self.filling
    }

    /// Bytes and slots that are free, wherever they lie.
    pub(crate) fn spare(&self) -> (usize, usize) {
        let nbytes = self.ring.capacity() - self.ring.used();
        (nbytes, self.slots.count() - self.entries.len())
    }

    /// The sequence number that the next slot gets.
    pub(crate) fn head(&self) -> u64 {
        self.tail + self.entries.len() as u64
    }

    /// Open a slot for a unit: its sequence number and place, or `None` if there is no room.
    pub(crate) fn open(
        &mut self,
        unit: u32,
        nbytes: usize,
        demanded: bool,
    ) -> Option<(u64, usize)> {
        if self.entries.len() == self.slots.count() {
            return None;
        }
        let place = self.ring.allocate(nbytes)?;
        let sequence = self.head();
        self.entries.push_back(Entry {
            unit,
            demanded,
            place: Some(place),
            error: None,
        });
        self.slots.open(sequence, unit, place);
        self.filling += 1;
        Some((sequence, place))
    }

    /// All reads of a slot have ended: hand it out, or its error, or its bytes back to the ring if
    /// nobody wants it any more. True if somebody may take it.
    pub(crate) fn finish(&mut self, sequence: u64, error: Option<Error>) -> bool {
        self.filling -= 1;
        let failed = error.is_some();
        if failed {
            // Before the word says so: whoever sees `Failed` finds the error.
            self.entry(sequence).error = error;
        }
        let wanted = if failed {
            self.slots.fail(sequence)
        } else {
            self.slots.publish(sequence)
        };
        if !wanted {
            self.slots.release(sequence);
        }
        if failed || !wanted {
            self.free(sequence);
        }
        wanted
    }

    /// Collect what leases released.
    pub(crate) fn reclaim(&mut self) {
        for sequence in self.sequences() {
            if self.slots.state(sequence) == SlotState::Released {
                self.free(sequence);
            }
        }
        // Only what was freed above: a lease may end between two looks at its word.
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.place.is_none())
            && self.slots.state(self.tail) == SlotState::Released
        {
            self.entries.pop_front();
            self.tail += 1;
        }
    }

    /// The oldest slot of a unit that nobody has taken, and its state.
    pub(crate) fn find(&self, unit: u32) -> Option<(u64, SlotState)> {
        self.untaken()
            .find(|&(sequence, _)| self.unit(sequence) == unit)
    }

    /// Take the error out of a failed slot, which is then free.
    pub(crate) fn take_error(&mut self, sequence: u64) -> Option<Error> {
        let error = self.entry(sequence).error.take();
        self.slots.release(sequence);
        error
    }

    /// Keep the untaken slots that serve as the head of a new order, discard the others; how many
    /// entries of the order are served.
    pub(crate) fn keep(&mut self, order: &[u32], cyclic: bool) -> usize {
        let untaken: Vec<u64> = self.untaken().map(|(sequence, _)| sequence).collect();
        let units: Vec<u32> = untaken
            .iter()
            .map(|&sequence| self.unit(sequence))
            .collect();
        let (kept, matched) = schedule::matching_head(&units, order, cyclic);
        for (sequence, kept) in untaken.into_iter().zip(kept) {
            if kept {
                self.entry(sequence).demanded = false;
            } else {
                self.slots.discard(sequence);
            }
        }
        self.reclaim();
        matched
    }

    /// Throw out finished slots that nobody took until `nbytes` find a place; the units thrown
    /// out. None are if even all of them would not do.
    pub(crate) fn make_room(&mut self, nbytes: usize, victims: Victims) -> Vec<u32> {
        let mut expendable: Vec<u64> = self
            .untaken()
            .filter(|&(sequence, state)| {
                state != SlotState::Filling
                    && (victims == Victims::Oldest || !self.entry_at(sequence).demanded)
            })
            .map(|(sequence, _)| sequence)
            .collect();
        if !self.would_fit(nbytes, &expendable) {
            return Vec::new();
        }
        if victims == Victims::NewestPlanned {
            expendable.reverse();
        }
        let mut thrown_out = Vec::new();
        for sequence in expendable {
            if self.would_fit(nbytes, &[]) {
                break;
            }
            if self.slots.discard(sequence) == SlotState::Released {
                thrown_out.push(self.unit(sequence));
                self.reclaim();
            }
        }
        thrown_out
    }

    /// The units that are leased, oldest first.
    pub(crate) fn leased(&self) -> Vec<u32> {
        self.sequences()
            .filter(|&sequence| self.slots.state(sequence) == SlotState::Leased)
            .map(|sequence| self.unit(sequence))
            .collect()
    }

    fn would_fit(&self, nbytes: usize, without: &[u64]) -> bool {
        let gone: Vec<usize> = without
            .iter()
            .filter_map(|&sequence| self.entry_at(sequence).place)
            .collect();
        let oldest_stays =
            self.entries.len() == self.slots.count() && !without.contains(&self.tail);
        !oldest_stays && self.ring.would_fit(nbytes, |place| !gone.contains(&place))
    }

    fn untaken(&self) -> impl Iterator<Item = (u64, SlotState)> {
        self.sequences()
            .map(|sequence| (sequence, self.slots.state(sequence)))
            .filter(|(_, state)| {
                matches!(
                    state,
                    SlotState::Filling | SlotState::Ready | SlotState::Failed
                )
            })
    }

    fn sequences(&self) -> Range<u64> {
        self.tail..self.head()
    }

    fn unit(&self, sequence: u64) -> u32 {
        self.entry_at(sequence).unit
    }

    fn free(&mut self, sequence: u64) {
        if let Some(place) = self.entry(sequence).place.take() {
            self.ring.free(place);
        }
    }

    fn index(&self, sequence: u64) -> usize {
        usize::try_from(sequence - self.tail).expect("smaller than the number of slots")
    }

    fn entry_at(&self, sequence: u64) -> &Entry {
        &self.entries[self.index(sequence)]
    }

    fn entry(&mut self, sequence: u64) -> &mut Entry {
        let index = self.index(sequence);
        &mut self.entries[index]
    }
}

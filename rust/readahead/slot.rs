//! The word through which a slot passes from the I/O thread to the consumer and back.

use crate::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Where a slot stands.
///
/// ```text
/// (Released) → Filling → Ready → Leased → Released
///                 ├────→ Failed ────────→ Released
///                 └────→ Discarded ─────→ Released      Ready → Released when thrown out
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SlotState {
    /// Nobody's: the descriptor may be used for another sequence number.
    Released = 0,
    /// Reads are on their way; only the I/O thread touches the bytes.
    Filling = 1,
    /// The bytes are there for whoever takes them.
    Ready = 2,
    /// The bytes belong to a lease.
    Leased = 3,
    /// The reads failed; the error waits for whoever takes the unit.
    Failed = 4,
    /// Nobody wants the bytes, but reads are still on their way.
    Discarded = 5,
}

/// One descriptor. The sequence number in its word is the generation: a late hand that holds an
/// old number changes nothing.
#[derive(Debug)]
struct Slot {
    // sequence number << 8 | state
    word: AtomicU64,
    unit: AtomicU32,
    place: AtomicUsize,
}

/// The descriptors, indexed by sequence number modulo their power-of-two count.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Box<[Slot]>,
}

fn word(sequence: u64, state: SlotState) -> u64 {
    sequence << 8 | state as u64
}

impl Slots {
    /// At least `count` descriptors, all released.
    #[must_use]
    pub(crate) fn new(count: usize) -> Self {
        let slots = (0..count.next_power_of_two())
            .map(|_| Slot {
                word: AtomicU64::new(word(u64::MAX >> 8, SlotState::Released)),
                unit: AtomicU32::new(u32::MAX),
                place: AtomicUsize::new(0),
            })
            .collect();
        Self { slots }
    }

    /// How many there are.
    #[must_use]
    pub(crate) fn count(&self) -> usize {
        self.slots.len()
    }

    fn slot(&self, sequence: u64) -> &Slot {
        let mask = self.slots.len() as u64 - 1;
        let index = usize::try_from(sequence & mask).expect("smaller than the number of slots");
        &self.slots[index]
    }

    /// The state of a sequence number; `Released` once its descriptor serves another one.
    #[must_use]
    pub(crate) fn state(&self, sequence: u64) -> SlotState {
        // Pairs with the Release in `release`: what the holder of the lease did to the bytes
        // happens before the next fill.
        let found = self.slot(sequence).word.load(Ordering::Acquire);
        for state in [
            SlotState::Filling,
            SlotState::Ready,
            SlotState::Leased,
            SlotState::Failed,
            SlotState::Discarded,
        ] {
            if found == word(sequence, state) {
                return state;
            }
        }
        SlotState::Released
    }

    /// Producer: start filling `place` with `unit` as number `sequence`, whose descriptor's former
    /// number has been released.
    pub(crate) fn open(&self, sequence: u64, unit: u32, place: usize) {
        let slot = self.slot(sequence);
        // Relaxed: the Release in `publish` makes both visible to whoever leases.
        slot.unit.store(unit, Ordering::Relaxed);
        slot.place.store(place, Ordering::Relaxed);
        // Relaxed: a consumer does nothing with a slot that is being filled.
        slot.word
            .store(word(sequence, SlotState::Filling), Ordering::Relaxed);
    }

    /// Producer: hand out the filled slot; false if it was discarded meanwhile.
    pub(crate) fn publish(&self, sequence: u64) -> bool {
        // Pairs with the Acquire in `lease`: the bytes are there before the word says so.
        self.pass(sequence, SlotState::Filling, SlotState::Ready)
    }

    /// Producer: hand out the failure, which lies ready; false if the slot was discarded meanwhile.
    pub(crate) fn fail(&self, sequence: u64) -> bool {
        // Pairs with the Acquire in `state`.
        self.pass(sequence, SlotState::Filling, SlotState::Failed)
    }

    /// Either side: nobody wants it any more. A ready slot is released at once; one that is being
    /// filled is marked. Returns what it is after that, `Leased` if a lease came first.
    pub(crate) fn discard(&self, sequence: u64) -> SlotState {
        if self.pass(sequence, SlotState::Filling, SlotState::Discarded) {
            return SlotState::Discarded;
        }
        for state in [SlotState::Ready, SlotState::Failed] {
            if self.pass(sequence, state, SlotState::Released) {
                return SlotState::Released;
            }
        }
        self.state(sequence)
    }

    /// Consumer: lease the slot if it is ready and holds `unit`; its place.
    pub(crate) fn lease(&self, sequence: u64, unit: u32) -> Option<usize> {
        let slot = self.slot(sequence);
        // Pairs with the Release in `publish`; guards the two loads below.
        if slot.word.load(Ordering::Acquire) != word(sequence, SlotState::Ready)
            || slot.unit.load(Ordering::Relaxed) != unit
        {
            return None;
        }
        let place = slot.place.load(Ordering::Relaxed);
        // Fails if the slot was discarded since the load, so that `place` may be stale.
        self.pass(sequence, SlotState::Ready, SlotState::Leased)
            .then_some(place)
    }

    /// Lease, failure or discarded fill: the bytes are free. Only by whoever holds the slot.
    pub(crate) fn release(&self, sequence: u64) {
        // Pairs with the Acquire in `state`, by which the producer finds the place free.
        self.slot(sequence)
            .word
            .store(word(sequence, SlotState::Released), Ordering::Release);
    }

    fn pass(&self, sequence: u64, from: SlotState, to: SlotState) -> bool {
        // AcqRel: publishes what this side did, and sees what the other side did before `from`.
        self.slot(sequence)
            .word
            .compare_exchange(
                word(sequence, from),
                word(sequence, to),
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .is_ok()
    }
}

//! Units that stay in memory: where each lies, whether it is there, and how many leases look at it.

use crate::sync::atomic::{AtomicU64, Ordering};

/// Where a resident stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ResidentState {
    /// Still to be read.
    Unloaded = 0,
    /// Reads are on their way.
    Loading = 1,
    /// There, for any number of leases.
    Loaded = 2,
    /// The reads failed; the error waits for whoever takes the unit.
    Failed = 3,
    /// Given up while reads are on their way.
    Leaving = 4,
    /// Given up; the unit is streamed.
    Evicted = 5,
}

const STATES: [ResidentState; 6] = [
    ResidentState::Unloaded,
    ResidentState::Loading,
    ResidentState::Loaded,
    ResidentState::Failed,
    ResidentState::Leaving,
    ResidentState::Evicted,
];

// Of 56 bits for the number of leases: no program can have so many.
const LEASE: u64 = 1 << 8;

/// One resident. Its word is the number of leases << 8 | state.
#[derive(Debug)]
pub(crate) struct Resident {
    unit: u32,
    place: usize,
    word: AtomicU64,
}

impl Resident {
    /// A resident still to be read into `place`.
    #[must_use]
    pub(crate) fn new(unit: u32, place: usize) -> Self {
        Self {
            unit,
            place,
            word: AtomicU64::new(ResidentState::Unloaded as u64),
        }
    }

    /// Its unit.
    #[must_use]
    pub(crate) fn unit(&self) -> u32 {
        self.unit
    }

    /// Its start in the arena.
    #[must_use]
    pub(crate) fn place(&self) -> usize {
        self.place
    }

    /// Where it stands.
    #[must_use]
    pub(crate) fn state(&self) -> ResidentState {
        // Pairs with the Release in `pass`.
        STATES[(self.word.load(Ordering::Acquire) & 0xff) as usize]
    }

    /// Go from one state without leases to another; false if it stands elsewhere.
    pub(crate) fn pass(&self, from: ResidentState, to: ResidentState) -> bool {
        // Release: loaded bytes before `Loaded`. Acquire: bytes that leases used before `Evicted`.
        self.word
            .compare_exchange(from as u64, to as u64, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Count a lease; false if the bytes are not there.
    pub(crate) fn lease(&self) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        while word & 0xff == ResidentState::Loaded as u64 {
            // Acquire pairs with the Release in `pass`: the bytes are there.
            match self.word.compare_exchange_weak(
                word,
                word + LEASE,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(found) => word = found,
            }
        }
        false
    }

    /// A lease ended.
    pub(crate) fn release(&self) {
        // Pairs with the Acquire in `pass`, which gives the pages back.
        self.word.fetch_sub(LEASE, Ordering::Release);
    }
}

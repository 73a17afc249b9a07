//! The consumer's claim on the bytes of a unit.

use std::fmt;

use crate::readahead::ring::Ring;
use crate::readahead::shared::Shared;
use crate::readahead::state::Target;
use crate::readahead::trace::EventKind;
use crate::sync::Arc;

/// The bytes of one unit. They stay where they are until the lease is dropped, also after the
/// readahead was closed or dropped. Leases of one resident look at the same bytes.
pub struct Lease {
    shared: Arc<Shared>,
    unit: u32,
    place: usize,
    claim: Target,
    // 0 where its end is not recorded.
    taken_ns: u64,
}

impl Lease {
    /// The holder has leased `claim`, whose bytes start at `place` of the arena.
    pub(crate) fn new(shared: &Arc<Shared>, unit: u32, place: usize, claim: Target) -> Self {
        Self {
            shared: Arc::clone(shared),
            unit,
            place,
            claim,
            taken_ns: 0,
        }
    }

    /// Record it, from now on.
    pub(crate) fn traced(mut self) -> Self {
        self.taken_ns = self.shared.trace_ns();
        self
    }

    /// The unit.
    #[must_use]
    pub fn unit(&self) -> u32 {
        self.unit
    }

    /// What the unit is called in messages.
    #[must_use]
    pub fn name(&self) -> String {
        self.shared.catalogue.name(self.unit)
    }

    /// Whether the unit stays in memory when the lease is dropped.
    #[must_use]
    pub fn is_resident(&self) -> bool {
        matches!(self.claim, Target::Resident(_))
    }

    /// Length in bytes.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        self.shared.catalogue.nbytes(self.unit)
    }

    /// The first byte, at a multiple of 4096.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.shared.arena.as_ptr().wrapping_add(self.place)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        debug_assert!(self.place + Ring::footprint(self.nbytes()) <= self.shared.arena.nbytes());
        // SAFETY: the place lies in the arena, which the lease keeps alive; the engine finished
        // writing before the lease was given, and writes there again only after it was dropped.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.nbytes()) }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Lease")
            .field("unit", &self.unit)
            .field("name", &self.name())
            .field("nbytes", &self.nbytes())
            .field("claim", &self.claim)
            .finish()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.shared.is_forked() {
            return;
        }
        if self.taken_ns != 0
            && let Some(trace) = &self.shared.trace
        {
            trace.note_use(EventKind::Lease, self.unit, self.nbytes(), self.taken_ns);
        }
        match self.claim {
            Target::Slot(sequence) => {
                self.shared.slots.release(sequence);
                if self.shared.bell.ring() {
                    self.shared.wake();
                }
            }
            Target::Resident(index) => {
                if let Some(resident) = self.shared.catalogue.residents().get(index as usize) {
                    resident.release();
                }
            }
        }
    }
}

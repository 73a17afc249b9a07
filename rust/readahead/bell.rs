//! Whether the I/O thread wants to hear of a released slot.

use crate::sync::atomic::{AtomicBool, Ordering};

/// Armed by the I/O thread when it finds no room, rung by whoever makes some.
///
/// Both sides swap: of two swaps on one flag the later sees the earlier. Either the releasing side
/// finds the bell armed and wakes the thread, or the arming side, which looks for room once more
/// after arming, sees the release. No wake-up is lost and none is sent that nobody waits for.
#[derive(Debug)]
pub(crate) struct Bell {
    armed: AtomicBool,
}

impl Default for Bell {
    fn default() -> Self {
        Self {
            armed: AtomicBool::new(false),
        }
    }
}

impl Bell {
    /// I/O thread: ask to be woken; look for room once more after this, before sleeping.
    pub(crate) fn arm(&self) {
        // Pairs with the AcqRel in `ring`.
        self.armed.swap(true, Ordering::AcqRel);
    }

    /// I/O thread: awake, no need to ring.
    pub(crate) fn disarm(&self) {
        // AcqRel swap, not a store: it must not hide an earlier `ring` from the next `arm`.
        self.armed.swap(false, Ordering::AcqRel);
    }

    /// After a release: true if the thread has to be woken, for one caller only.
    #[must_use]
    pub(crate) fn ring(&self) -> bool {
        // Pairs with the AcqRel in `arm`: the release before this is seen by the look after it.
        self.armed.swap(false, Ordering::AcqRel)
    }
}

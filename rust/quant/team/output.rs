//! Memory that the threads of a team fill, each its own part.

use std::marker::PhantomData;
use std::ops::Range;

/// Memory that several threads write to; they keep out of each other's parts.
#[derive(Debug)]
pub struct Output<'a, T> {
    start: *mut T,
    len: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: a part is only reached through `part`, whose callers promise that parts are apart.
unsafe impl<T: Send> Sync for Output<'_, T> {}

impl<'a, T> Output<'a, T> {
    /// The memory of a slice.
    #[must_use]
    pub fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            borrowed: PhantomData,
        }
    }

    /// Memory that other outputs have as well; no slice of it is made but of parts.
    ///
    /// # Safety
    /// For `'a`, there are `len` items from `start` on, which nobody reads or writes but through
    /// such outputs. Whoever asks for parts knows those of all of them.
    #[must_use]
    pub unsafe fn shared(start: *mut T, len: usize) -> Self {
        Self {
            start,
            len,
            borrowed: PhantomData,
        }
    }

    /// How many items.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The address of the first one.
    pub(crate) fn address(&self) -> usize {
        self.start.addr()
    }

    /// The items of a range.
    ///
    /// # Safety
    /// While the result lives, nobody has a part that overlaps it, of this output or another.
    ///
    /// # Panics
    /// If the range leaves the slice.
    #[expect(clippy::mut_from_ref, reason = "parts are apart, as callers promise")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "items {range:?} of {}",
            self.len
        );
        let start = self.start.wrapping_add(range.start);
        // SAFETY: the range lies in the memory that `new` or `shared` got, and is this caller's alone.
        unsafe { std::slice::from_raw_parts_mut(start, range.len()) }
    }
}

//! Memory that the threads of a team fill, each its own part.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice that several threads write to; they keep out of each other's parts.
pub(crate) struct Output<'a, T> {
    start: *mut T,
    len: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: a part is only reached through `part`, whose callers promise that parts are apart.
unsafe impl<T: Send> Sync for Output<'_, T> {}

impl<'a, T> Output<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            borrowed: PhantomData,
        }
    }

    /// The items of a range.
    ///
    /// # Safety
    /// While the result lives, nobody has a part that overlaps it.
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
        // SAFETY: the range lies in the slice that `new` borrowed, and is this caller's alone.
        unsafe { std::slice::from_raw_parts_mut(start, range.len()) }
    }
}

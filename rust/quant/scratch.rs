//! Memory that each thread keeps for the kernels, so that a call allocates nothing.

use std::cell::Cell;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

thread_local! {
    static KEPT: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Memory that its thread gets back when this is dropped.
pub(crate) struct Lent {
    lines: Vec<Line>,
    nbytes: usize,
}

impl Lent {
    /// So many bytes at least, aligned to 64, with anything in them.
    pub(crate) fn new(nbytes: usize) -> Self {
        // taken, not borrowed: who asks again before this is dropped gets memory of its own
        let mut lines = KEPT.take();
        let count = nbytes.div_ceil(64);
        if lines.len() < count {
            lines.resize(count, Line([0; 64]));
        }
        Self { lines, nbytes }
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: a line is 64 bytes of which every value is valid, as is every byte.
        let (_, bytes, _) = unsafe { self.lines.align_to_mut::<u8>() };
        &mut bytes[..self.nbytes]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        KEPT.set(std::mem::take(&mut self.lines));
    }
}

/// Give `work` the memory that [`Lent`] is.
pub(crate) fn with<R>(nbytes: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
    work(Lent::new(nbytes).bytes())
}

/// The first `count` items of bytes from [`Lent`] and the rest.
///
/// # Panics
/// If the bytes are too few or not aligned for it.
pub(crate) fn split<T: Plain>(bytes: &mut [u8], count: usize) -> (&mut [T], &mut [u8]) {
    let size = (count * size_of::<T>()).next_multiple_of(64);
    let (bytes, rest) = bytes.split_at_mut(size);
    // SAFETY: any bytes are valid items, as `Plain` says.
    let (before, items, _) = unsafe { bytes.align_to_mut::<T>() };
    assert!(before.is_empty(), "scratch is aligned");
    (&mut items[..count], rest)
}

/// Bytes that `split` takes for so many items.
pub(crate) const fn size<T: Plain>(count: usize) -> usize {
    (count * size_of::<T>()).next_multiple_of(64)
}

/// Types of which any bytes are valid, and which have no padding.
///
/// # Safety
/// The type is such a one.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: any bytes are a u8.
unsafe impl Plain for u8 {}
// SAFETY: any bytes are an f32.
unsafe impl Plain for f32 {}
// SAFETY: sixteen f32 and nothing else.
unsafe impl Plain for crate::quant::dense::dot::Lanes {}

/// Numbers as their bytes.
pub(crate) fn bytes(numbers: &[f32]) -> &[u8] {
    // SAFETY: any bytes are u8.
    let (_, bytes, _) = unsafe { numbers.align_to::<u8>() };
    bytes
}

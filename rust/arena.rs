//! One allocation of huge pages that all weights live in.

use std::ptr::NonNull;

use crate::error::Error;

/// Size of a huge page, to which an arena is aligned.
pub const HUGE_PAGE: usize = 2 << 20;

/// The pages that an arena asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// Of 2 MiB, where the kernel has them.
    #[default]
    Huge,
    /// Of the machine's smallest size, to measure what the others are good for.
    Small,
}

/// The memory that an arena takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of pages that were touched.
    pub resident: u64,
    /// Bytes of those that are huge pages.
    pub huge: u64,
    /// Bytes of those that are locked: never swapped out.
    pub locked: u64,
}

/// Zeroed anonymous memory, aligned to 2 MiB, in huge pages where the kernel has them. Takes no
/// memory before it is touched, and is given back when dropped.
///
/// It hands out addresses, never references: who may touch which bytes is for its users to agree on.
#[derive(Debug)]
pub struct Arena {
    start: NonNull<u8>,
    nbytes: usize,
    // The mapping is absent in forked children, where its address may be somebody else's.
    process: u32,
}

// SAFETY: an address and a length, which do not change; the bytes behind them are guarded by users.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Memory of `nbytes`, rounded up to whole pages; at least one.
    ///
    /// # Errors
    /// `ArenaTooLarge` if there is no such amount of address space.
    pub fn new(nbytes: usize) -> Result<Self, Error> {
        Self::with_pages(nbytes, Pages::Huge)
    }

    /// As [`new`](Self::new), in pages of that size.
    ///
    /// # Errors
    /// As for `new`.
    pub fn with_pages(nbytes: usize, pages: Pages) -> Result<Self, Error> {
        let too_large = || Error::ArenaTooLarge {
            needed: nbytes as u64,
        };
        let nbytes = nbytes
            .max(1)
            .checked_next_multiple_of(platform::page_nbytes())
            .ok_or_else(too_large)?;
        if nbytes > isize::MAX as usize - HUGE_PAGE {
            return Err(too_large());
        }
        let start = platform::map(nbytes, pages).ok_or_else(too_large)?;
        Ok(Self {
            start,
            nbytes,
            process: std::process::id(),
        })
    }

    /// Where it starts.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Its length.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        self.nbytes
    }

    /// Keep pages in memory once they were touched, until they are discarded. Nothing is touched
    /// for it, but all of the arena counts against the limit of locked memory.
    ///
    /// # Errors
    /// `NotLocked` where the system refuses.
    pub fn lock(&self) -> Result<(), Error> {
        platform::lock(self.start, self.nbytes).map_err(|source| Error::NotLocked {
            nbytes: self.nbytes,
            source,
        })
    }

    /// Give the whole pages within a range back to the kernel: they read as zeros afterwards and
    /// take no memory until they are touched again.
    ///
    /// # Panics
    /// If the range is not within the arena.
    pub fn discard(&self, offset: usize, nbytes: usize) {
        let end = offset.checked_add(nbytes).filter(|&end| end <= self.nbytes);
        let end = end.expect("the range was cut from this arena");
        let page = platform::page_nbytes();
        let (first, last) = (offset.next_multiple_of(page), end / page * page);
        if first < last && self.is_ours() {
            // SAFETY: `first` is within the mapping.
            let start = unsafe { self.start.add(first) };
            // SAFETY: whole pages of this mapping, as just checked.
            unsafe { platform::discard(start, last - first) };
        }
    }

    /// Make the kernel find memory for the whole pages within a range, whose contents stay as they
    /// are; tell whether it did.
    ///
    /// # Panics
    /// If the range is not within the arena.
    #[must_use]
    pub fn populate(&self, offset: usize, nbytes: usize) -> bool {
        let end = offset.checked_add(nbytes).filter(|&end| end <= self.nbytes);
        let end = end.expect("the range was cut from this arena");
        let page = platform::page_nbytes();
        let (first, last) = (offset.next_multiple_of(page), end / page * page);
        if first >= last || !self.is_ours() {
            return false;
        }
        // SAFETY: `first` is within the mapping.
        let start = unsafe { self.start.add(first) };
        platform::populate(start, last - first)
    }

    /// How much memory it takes now, and in which pages; zeros where the kernel does not tell.
    #[must_use]
    pub fn usage(&self) -> Usage {
        if self.is_ours() {
            platform::usage(self.start, self.nbytes)
        } else {
            Usage::default()
        }
    }

    fn is_ours(&self) -> bool {
        self.process == std::process::id()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.is_ours() {
            // SAFETY: mapped by `map` with this length; nobody looks at it any more.
            unsafe { platform::unmap(self.start, self.nbytes) };
        }
    }
}

#[cfg(target_os = "linux")]
mod platform {
    use std::ffi::c_void;
    use std::fs::File;
    use std::io;
    use std::io::{BufRead, BufReader};
    use std::ptr::{self, NonNull};

    use rustix::mm::{
        Advice, MapFlags, MlockFlags, ProtFlags, madvise, mlock_with, mmap_anonymous, munlock,
        munmap,
    };

    use crate::arena::HUGE_PAGE;
    use crate::arena::Pages;
    use crate::arena::Usage;

    pub(super) fn page_nbytes() -> usize {
        rustix::param::page_size()
    }

    pub(super) fn map(nbytes: usize, pages: Pages) -> Option<NonNull<u8>> {
        // More than is wanted, so that an aligned part can be cut out.
        let room = nbytes.checked_add(HUGE_PAGE)?;
        let (access, kind) = (
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        );
        // SAFETY: a new mapping at an address that the kernel chooses.
        let mapped = unsafe { mmap_anonymous(ptr::null_mut(), room, access, kind) }.ok()?;
        let lead = mapped.cast::<u8>().align_offset(HUGE_PAGE);
        let start = mapped.wrapping_byte_add(lead);
        for (at, spare) in [
            (mapped, lead),
            (start.wrapping_byte_add(nbytes), HUGE_PAGE - lead),
        ] {
            if spare > 0 {
                // SAFETY: the parts of the new mapping before and after the aligned one.
                let _ = unsafe { munmap(at, spare) };
            }
        }
        // Wishes: without huge pages it is slower, and a kernel that cannot keep it out of children
        // copies its page tables.
        let size = match pages {
            Pages::Huge => Advice::LinuxHugepage,
            Pages::Small => Advice::LinuxNoHugepage,
        };
        for advice in [size, Advice::LinuxDontFork] {
            // SAFETY: the aligned part, which this function has mapped.
            let _ = unsafe { madvise(start, nbytes, advice) };
        }
        NonNull::new(start.cast())
    }

    pub(super) fn lock(start: NonNull<u8>, nbytes: usize) -> io::Result<()> {
        // SAFETY: a mapping made by `map`; locking changes no byte of it.
        unsafe { mlock_with(start.as_ptr().cast(), nbytes, MlockFlags::ONFAULT) }?;
        Ok(())
    }

    pub(super) fn populate(start: NonNull<u8>, nbytes: usize) -> bool {
        // SAFETY: pages of a mapping made by `map`; finding memory for them changes no byte.
        unsafe { madvise(start.as_ptr().cast(), nbytes, Advice::LinuxPopulateWrite) }.is_ok()
    }

    /// # Safety
    /// Whole pages of a mapping made by `map`.
    pub(super) unsafe fn discard(start: NonNull<u8>, nbytes: usize) {
        // Locked pages would stay.
        // SAFETY: the caller's promise; unlocking changes no byte.
        let _ = unsafe { munlock(start.as_ptr().cast(), nbytes) };
        // SAFETY: the caller's promise.
        let _ = unsafe { madvise(start.as_ptr().cast(), nbytes, Advice::LinuxDontNeed) };
    }

    /// # Safety
    /// A whole mapping made by `map`, which nobody uses any more.
    pub(super) unsafe fn unmap(start: NonNull<u8>, nbytes: usize) {
        // SAFETY: the caller's promise.
        let _ = unsafe { munmap(start.as_ptr().cast::<c_void>(), nbytes) };
    }

    pub(super) fn usage(start: NonNull<u8>, nbytes: usize) -> Usage {
        let begin = start.as_ptr() as usize;
        let end = begin + nbytes;
        let Ok(file) = File::open("/proc/self/smaps") else {
            return Usage::default();
        };
        let mut is_inside = false;
        let mut usage = Usage::default();
        let bytes = |text: &str| {
            let kibibytes: u64 = text.trim().trim_end_matches(" kB").parse().unwrap_or(0);
            kibibytes * 1024
        };
        for line in BufReader::new(file).lines().map_while(Result::ok) {
            if let Some((first, last)) = address_range(&line) {
                is_inside = first < end && last > begin;
            } else if is_inside && let Some(rest) = line.strip_prefix("Rss:") {
                usage.resident += bytes(rest);
            } else if is_inside && let Some(rest) = line.strip_prefix("AnonHugePages:") {
                usage.huge += bytes(rest);
            } else if is_inside && let Some(rest) = line.strip_prefix("Locked:") {
                usage.locked += bytes(rest);
            }
        }
        usage
    }

    // The range of a line that begins a mapping.
    fn address_range(line: &str) -> Option<(usize, usize)> {
        let (first, last) = line.split_once(' ')?.0.split_once('-')?;
        let parse = |text| usize::from_str_radix(text, 16).ok();
        Some((parse(first)?, parse(last)?))
    }
}

/// Not built here: memory of the allocator, which systems hand out lazily too.
#[cfg(not(target_os = "linux"))]
mod platform {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::io;
    use std::ptr::NonNull;

    use crate::arena::HUGE_PAGE;
    use crate::arena::Pages;
    use crate::arena::Usage;

    pub(super) fn page_nbytes() -> usize {
        4096
    }

    fn layout(nbytes: usize) -> Option<Layout> {
        Layout::from_size_align(nbytes, HUGE_PAGE).ok()
    }

    pub(super) fn map(nbytes: usize, _pages: Pages) -> Option<NonNull<u8>> {
        // SAFETY: at least one page.
        NonNull::new(unsafe { alloc_zeroed(layout(nbytes)?) })
    }

    pub(super) fn lock(_start: NonNull<u8>, _nbytes: usize) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn populate(_start: NonNull<u8>, _nbytes: usize) -> bool {
        false
    }

    /// # Safety
    /// Whole pages of memory from `map`.
    pub(super) unsafe fn discard(start: NonNull<u8>, nbytes: usize) {
        // The allocator takes no parts back; zeros are what a reader is promised.
        // SAFETY: the caller's promise.
        unsafe { start.write_bytes(0, nbytes) };
    }

    /// # Safety
    /// All memory of one call of `map`, which nobody uses any more.
    pub(super) unsafe fn unmap(start: NonNull<u8>, nbytes: usize) {
        if let Some(layout) = layout(nbytes) {
            // SAFETY: the caller's promise.
            unsafe { dealloc(start.as_ptr(), layout) };
        }
    }

    pub(super) fn usage(_start: NonNull<u8>, _nbytes: usize) -> Usage {
        Usage::default()
    }
}

//! What of a file is in the page cache, and reads that take bytes from there or not at all.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

// Pages of a file that are looked at, spread over it.
const SAMPLES: u64 = 32;
// Of so many sampled pages one may be absent when a file is said to be cached.
const PAGES_PER_ABSENT: u64 = 16;
// A read that finds a page absent makes the kernel fetch the rest of what it asked for: no more.
const PIECE_NBYTES: usize = 256 << 10;
// So many reads in a row that were not all there end the search.
const MAX_MISSES: u32 = 4;

/// What a sample of a file's pages found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Pages that are in the page cache.
    pub cached: u64,
    /// Pages that were looked at.
    pub sampled: u64,
}

/// Look at up to 32 pages spread over the first `nbytes` bytes of a file, until more than
/// `most_absent` are not in the page cache; the looking puts nothing there. Nothing is looked at
/// where the kernel does not tell.
#[must_use]
pub fn sample(file: &File, nbytes: u64, most_absent: u64) -> Sample {
    let page = page_nbytes();
    let pages = nbytes.div_ceil(page);
    let count = pages.min(SAMPLES);
    let mut sample = Sample::default();
    for number in 0..count {
        // The first and the last, and evenly between.
        let at = number * (pages - 1) / (count - 1).max(1);
        let Some(is_cached) = platform::is_cached(file, at * page) else {
            return Sample::default();
        };
        sample.sampled += 1;
        sample.cached += u64::from(is_cached);
        if sample.sampled - sample.cached > most_absent {
            break;
        }
    }
    sample
}

/// Whether the page at `offset` is in the page cache; none where the kernel does not tell.
pub(crate) fn is_cached(file: &File, offset: u64) -> Option<bool> {
    platform::is_cached(file, offset)
}

/// Open a file so that looking at its pages and reading some of them fetches no others.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    // opening a pipe would wait for somebody who writes to it
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    let file = File::open(path)?;
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
    Ok(file)
}

/// Clear pages of a file from the page cache, where the kernel takes such wishes.
pub(crate) fn clear(file: &File, offset: u64, nbytes: u64) {
    #[cfg(target_os = "linux")]
    {
        let page = page_nbytes();
        let begin = offset / page * page;
        let end = offset.saturating_add(nbytes).next_multiple_of(page);
        let length = std::num::NonZeroU64::new(end - begin);
        // A wish: the pages are clean and cost the kernel nothing to drop later.
        let _ = rustix::fs::fadvise(file, begin, length, rustix::fs::Advice::DontNeed);
    }
    // Not built here: others have no such call.
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, nbytes);
}

fn page_nbytes() -> u64 {
    #[cfg(unix)]
    return rustix::param::page_size() as u64;
    #[cfg(not(unix))]
    return 4096;
}

/// A file that was in the page cache when it was opened, and is read from there as long as it is.
#[derive(Debug)]
pub(crate) struct Hot {
    file: File,
    misses: AtomicU32,
    cached_bytes: AtomicU64,
}

impl Hot {
    /// Open `path` for it, if nearly all of it is cached and it still is the file `twin`.
    pub(crate) fn open(path: &Path, twin: &File) -> Option<Self> {
        let file = open(path).ok()?;
        let nbytes = file.metadata().ok()?.len();
        if !platform::is_same(&file, twin) {
            return None;
        }
        let allowed = nbytes.div_ceil(page_nbytes()).min(SAMPLES) / PAGES_PER_ABSENT;
        let sample = sample(&file, nbytes, allowed);
        let is_hot = sample.sampled > 0 && sample.sampled - sample.cached <= allowed;
        is_hot.then(|| Self {
            file,
            misses: AtomicU32::new(0),
            cached_bytes: AtomicU64::new(0),
        })
    }

    /// Whether it is worth trying. Relaxed, as all here: hints and counters that guard no memory.
    pub(crate) fn is_on(&self) -> bool {
        self.misses.load(Ordering::Relaxed) < MAX_MISSES
    }

    pub(crate) fn cached_bytes(&self) -> u64 {
        self.cached_bytes.load(Ordering::Relaxed)
    }

    /// Read all of `nbytes` from the page cache; false when it is not all there: the memory then
    /// holds anything. Pages that were there stay there, and no others come.
    ///
    /// # Safety
    /// `nbytes` bytes at `ptr` are valid and nobody else's meanwhile.
    pub(crate) unsafe fn read(&self, ptr: *mut u8, nbytes: usize, offset: u64) -> bool {
        let is_all = platform::count(&self.file, offset, nbytes as u64)
            .is_none_or(|pages| pages >= pages_of(offset, nbytes as u64));
        // SAFETY: the caller's promise.
        let is_hit = is_all && unsafe { self.read_pieces(ptr, nbytes, offset) };
        if is_hit {
            self.misses.store(0, Ordering::Relaxed);
            self.cached_bytes
                .fetch_add(nbytes as u64, Ordering::Relaxed);
        } else {
            self.misses.fetch_add(1, Ordering::Relaxed);
        }
        is_hit
    }

    /// # Safety
    /// As for `read`.
    unsafe fn read_pieces(&self, ptr: *mut u8, nbytes: usize, offset: u64) -> bool {
        let mut done = 0;
        while done < nbytes {
            let asked = PIECE_NBYTES.min(nbytes - done);
            let start = ptr.wrapping_add(done);
            // SAFETY: a part of the caller's memory; any byte is a valid `u8`.
            let piece = unsafe { std::slice::from_raw_parts_mut(start, asked) };
            let found = platform::read_cached(&self.file, piece, offset + done as u64);
            if found < asked {
                let begin = offset + (done + found) as u64;
                forget(&self.file, begin, (asked - found) as u64);
                return false;
            }
            done += asked;
        }
        true
    }
}

fn pages_of(offset: u64, nbytes: u64) -> u64 {
    let page = page_nbytes();
    (offset + nbytes).div_ceil(page) - offset / page
}

/// Bring a page into the page cache, and wait for it.
pub(crate) fn fetch(file: &File, offset: u64) {
    #[cfg(unix)]
    let _ = std::os::unix::fs::FileExt::read_at(file, &mut [0], offset);
    #[cfg(not(unix))]
    let _ = (file, offset);
}

// Clear what a read in vain has made the kernel fetch. That is under way: pages can be cleared only
// when they have arrived, so the first and the last are waited for.
fn forget(file: &File, offset: u64, nbytes: u64) {
    fetch(file, offset);
    fetch(file, offset + nbytes.saturating_sub(1));
    clear(file, offset, nbytes);
}

#[cfg(target_os = "linux")]
mod platform {
    use std::fs::File;
    use std::io::IoSliceMut;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};
    use std::ptr;

    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

    // The same number on every architecture; libc does not carry it for all of them.
    const SYS_CACHESTAT: libc::c_long = 451;

    #[repr(C)]
    struct Range {
        offset: u64,
        nbytes: u64,
    }

    #[repr(C)]
    #[derive(Default)]
    struct Found {
        cached: u64,
        dirty: u64,
        writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }

    // The pages of its files are those of another file system: cachestat counts none, nor does it
    // know RWF_NOWAIT. A mapping is one of the file below, and mincore knows its pages.
    const OVERLAYFS_MAGIC: u32 = 0x794c_7630;

    fn is_overlay(file: &File) -> rustix::io::Result<bool> {
        Ok(rustix::fs::fstatfs(file)?.f_type as u32 == OVERLAYFS_MAGIC)
    }

    /// Pages of a range that are cached; none before Linux 6.5, or if the file is somebody else's.
    pub(super) fn count(file: &File, offset: u64, nbytes: u64) -> Option<u64> {
        if is_overlay(file).ok()? {
            return count_mapped(file, offset, nbytes);
        }
        let range = Range { offset, nbytes };
        let mut found = Found::default();
        // SAFETY: the kernel reads the one struct and fills the other, which have its layout.
        let status =
            unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &range, &mut found, 0) };
        (status == 0).then_some(found.cached)
    }

    // None if the file is somebody else's: mincore says of those that all is there.
    fn count_mapped(file: &File, offset: u64, nbytes: u64) -> Option<u64> {
        if file.metadata().ok()?.uid() != rustix::process::geteuid().as_raw() {
            return None;
        }
        let page = super::page_nbytes();
        let begin = offset / page * page;
        let length = usize::try_from(offset + nbytes - begin).ok()?;
        let mut pages = vec![0_u8; length.div_ceil(usize::try_from(page).ok()?)];
        let (access, kind) = (ProtFlags::READ, MapFlags::SHARED);
        // SAFETY: a new mapping, which nobody looks into.
        let start = unsafe { mmap(ptr::null_mut(), length, access, kind, file, begin) }.ok()?;
        // SAFETY: the mapping just made, and a byte for each of its pages.
        let status = unsafe { libc::mincore(start, length, pages.as_mut_ptr()) };
        // SAFETY: the mapping made above.
        let unmapped = unsafe { munmap(start, length) };
        let is_told = status == 0 && unmapped.is_ok();
        is_told.then(|| pages.iter().map(|page| u64::from(page & 1)).sum())
    }

    pub(super) fn is_cached(file: &File, offset: u64) -> Option<bool> {
        if let Some(pages) = count(file, offset, 1) {
            return Some(pages > 0);
        }
        match preadv2(
            file,
            &mut [IoSliceMut::new(&mut [0])],
            offset,
            ReadWriteFlags::NOWAIT,
        ) {
            Ok(nbytes) => Some(nbytes > 0),
            // The kernel has begun to fetch the page.
            Err(Errno::AGAIN) => {
                super::forget(file, offset, 1);
                Some(false)
            }
            Err(_) => None,
        }
    }

    /// How many of the bytes come from the page cache at once.
    pub(super) fn read_cached(file: &File, into: &mut [u8], offset: u64) -> usize {
        let nbytes = into.len() as u64;
        match preadv2(
            file,
            &mut [IoSliceMut::new(into)],
            offset,
            ReadWriteFlags::NOWAIT,
        ) {
            Ok(nbytes) => nbytes,
            // What is cleared between the two calls is read all the same.
            Err(Errno::OPNOTSUPP)
                if count(file, offset, nbytes) == Some(super::pages_of(offset, nbytes)) =>
            {
                file.read_at(into, offset).unwrap_or(0)
            }
            Err(_) => 0,
        }
    }

    pub(super) fn is_same(one: &File, other: &File) -> bool {
        let identity = |file: &File| file.metadata().map(|found| (found.dev(), found.ino()));
        matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
    }
}

/// Not built here: no other system tells, so that nothing is ever hot.
#[cfg(not(target_os = "linux"))]
mod platform {
    use std::fs::File;

    pub(super) fn count(_file: &File, _offset: u64, _nbytes: u64) -> Option<u64> {
        None
    }

    pub(super) fn is_cached(_file: &File, _offset: u64) -> Option<bool> {
        None
    }

    pub(super) fn read_cached(_file: &File, _into: &mut [u8], _offset: u64) -> usize {
        0
    }

    pub(super) fn is_same(_one: &File, _other: &File) -> bool {
        false
    }
}

//! One opened file, read past the page cache or through it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::io::transfer::ReadFile;

/// One opened file.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) file: File,
    path: PathBuf,
    engine: &'static str,
    /// Of offsets, lengths and addresses.
    pub(crate) alignment: usize,
    /// Whether what was read is to be cleared from the page cache.
    pub(crate) is_cached: bool,
}

impl Source {
    pub(crate) fn new(
        file: File,
        path: &Path,
        engine: &'static str,
        alignment: usize,
        is_cached: bool,
    ) -> Self {
        Self {
            file,
            path: path.to_owned(),
            engine,
            alignment,
            is_cached,
        }
    }

    /// One read of the kernel's: short, interrupted or refused as it pleases.
    ///
    /// # Safety
    /// `nbytes` bytes at `ptr` are valid and nobody else's meanwhile.
    pub(crate) unsafe fn read_at(
        &self,
        ptr: *mut u8,
        nbytes: usize,
        offset: u64,
    ) -> io::Result<usize> {
        // SAFETY: the caller's promise; any byte is a valid `u8`.
        let buffer = unsafe { std::slice::from_raw_parts_mut(ptr, nbytes) };
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::read_at(&self.file, buffer, offset);
        // Not built here.
        #[cfg(windows)]
        return std::os::windows::fs::FileExt::seek_read(&self.file, buffer, offset);
    }

    /// Clear from the page cache what was read there.
    pub(crate) fn leave(&self, offset: u64, nbytes: usize) {
        #[cfg(target_os = "linux")]
        if self.is_cached {
            // Whole pages: the first and the last may be a neighbour's too, who then reads them again.
            let begin = offset / 4096 * 4096;
            let end = (offset + nbytes as u64).next_multiple_of(4096);
            let length = std::num::NonZeroU64::new(end - begin);
            // A wish: the pages are clean and cost the kernel nothing to drop later.
            let _ = rustix::fs::fadvise(&self.file, begin, length, rustix::fs::Advice::DontNeed);
        }
        // Not built here: others have no such call.
        #[cfg(not(target_os = "linux"))]
        let _ = (self.is_cached, offset, nbytes);
    }
}

impl ReadFile for Source {
    fn path(&self) -> &Path {
        &self.path
    }

    fn engine(&self) -> &'static str {
        self.engine
    }

    fn nbytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

/// Open `path`; without waiting for the other end of a pipe, which no checkpoint is.
pub(crate) fn open_file(path: &Path, options: &std::fs::OpenOptions) -> Result<File, Error> {
    let open = |source| Error::open(source, path);
    if !path.metadata().map_err(open)?.is_file() {
        return Err(open(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        )));
    }
    options.open(path).map_err(open)
}

//! One opened file, read past the page cache, through it or from a mapping.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::io::ReadRequest;
#[cfg(unix)]
use crate::io::mmap::Mapping;
use crate::io::page_cache::{self, Hot};
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
    /// The page cache, if the file was there.
    pub(crate) hot: Option<Hot>,
    /// The `mmap` engine's.
    #[cfg(unix)]
    pub(crate) mapping: Option<Mapping>,
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
            hot: None,
            #[cfg(unix)]
            mapping: None,
        }
    }

    /// The device that the file lies on: equal numbers, equal devices.
    #[cfg(unix)]
    pub(crate) fn device(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;

        self.file.metadata().map_or(0, |about| about.dev())
    }

    /// Not built here: all on one.
    #[cfg(not(unix))]
    pub(crate) fn device(&self) -> u64 {
        0
    }

    /// Look whether the file is in the page cache; it is then read from there.
    pub(crate) fn look(&mut self) {
        self.hot = Hot::open(&self.path, &self.file);
    }

    /// Whether a read is worth trying in the page cache first.
    pub(crate) fn is_hot(&self) -> bool {
        self.hot.as_ref().is_some_and(Hot::is_on)
    }

    /// Bytes that came from the page cache though the engine reads past it.
    pub(crate) fn cached_bytes(&self) -> u64 {
        self.hot.as_ref().map_or(0, Hot::cached_bytes)
    }

    /// What a request needs, if the page cache has all of it: so many bytes.
    ///
    /// # Safety
    /// The request's memory is valid and nobody else's meanwhile.
    pub(crate) unsafe fn read_hot(&self, request: &ReadRequest) -> Option<usize> {
        let hot = self.hot.as_ref().filter(|hot| hot.is_on())?;
        let (ptr, needed) = (request.buffer.ptr, request.needed);
        // SAFETY: the caller's promise; no request needs more than it has room for.
        let is_hit = unsafe { hot.read(ptr, needed, request.offset) };
        is_hit.then_some(needed)
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
        #[cfg(unix)]
        if let Some(mapping) = &self.mapping {
            let file_nbytes = self.nbytes()?;
            // SAFETY: the caller's promise.
            return Ok(unsafe { mapping.copy(ptr, nbytes, offset, file_nbytes) });
        }
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
        if self.is_cached {
            // Whole pages: the first and the last may be a neighbour's too, who then reads them again.
            page_cache::clear(&self.file, offset, nbytes as u64);
        }
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

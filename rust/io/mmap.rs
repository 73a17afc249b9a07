//! The `mmap` engine: copies from a mapping, as most loaders do; a baseline to measure against.
//!
//! It is never chosen by itself. The kernel reads a page when it is touched, what was read stays in
//! the page cache and counts as the process's, and a file that is cut off while it is copied from
//! kills the process (SIGBUS): nothing that runs in it can turn that into an error.

use std::path::PathBuf;

use crate::error::Error;
use crate::io::IoOptions;
use crate::io::pool::Pool;

#[cfg(unix)]
pub(crate) use crate::io::mmap::mapping::{Mapping, source};

/// The engine's name.
pub(crate) const NAME: &str = "mmap";

/// The engine over `paths`.
pub(crate) fn open(paths: &[PathBuf], options: &IoOptions) -> Result<Pool, Error> {
    let sources = paths
        .iter()
        .map(|path| source(path))
        .collect::<Result<_, _>>()?;
    Pool::new(NAME, sources, options.queue_depth)
}

#[cfg(unix)]
mod mapping {
    use std::fs::{File, OpenOptions};
    use std::io;
    use std::path::Path;
    use std::ptr::{self, NonNull};

    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

    use crate::error::Error;
    use crate::io::mmap::NAME;
    use crate::io::source::{Source, open_file};

    /// A whole file in the address space.
    #[derive(Debug)]
    pub(crate) struct Mapping {
        start: NonNull<u8>,
        nbytes: usize,
    }

    // SAFETY: an address and a length, which do not change; the bytes are only read.
    unsafe impl Send for Mapping {}
    // SAFETY: as above.
    unsafe impl Sync for Mapping {}

    impl Mapping {
        // None of an empty file, which cannot be mapped.
        fn of(file: &File) -> io::Result<Option<Self>> {
            let Ok(nbytes) = usize::try_from(file.metadata()?.len()) else {
                return Err(io::ErrorKind::FileTooLarge.into());
            };
            if nbytes == 0 {
                return Ok(None);
            }
            let (access, kind) = (ProtFlags::READ, MapFlags::SHARED);
            // SAFETY: a new mapping at an address that the kernel chooses.
            let start = unsafe { mmap(ptr::null_mut(), nbytes, access, kind, file, 0) }?;
            let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
            Ok(Some(Self { start, nbytes }))
        }

        /// Copy from a file of `file_nbytes` now, as a read would: short at its end.
        ///
        /// # Safety
        /// `nbytes` bytes at `ptr` are valid and nobody else's meanwhile.
        pub(crate) unsafe fn copy(
            &self,
            ptr: *mut u8,
            nbytes: usize,
            offset: u64,
            file_nbytes: u64,
        ) -> usize {
            let end = usize::try_from(file_nbytes)
                .unwrap_or(usize::MAX)
                .min(self.nbytes);
            let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(end);
            let nbytes = nbytes.min(end - offset);
            // SAFETY: `offset` is within the mapping.
            let from = unsafe { self.start.as_ptr().add(offset) };
            // SAFETY: mapped so far, and the caller's memory is not. That the file does not end
            // before its length of a moment ago is not in our hands: see the module.
            unsafe { ptr.copy_from_nonoverlapping(from, nbytes) };
            nbytes
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: mapped by `of` with this length; nobody looks at it any more.
            let _ = unsafe { munmap(self.start.as_ptr().cast(), self.nbytes) };
        }
    }

    /// Open a file for the engine.
    pub(crate) fn source(path: &Path) -> Result<Source, Error> {
        let file = open_file(path, OpenOptions::new().read(true))?;
        let mapping = Mapping::of(&file).map_err(|error| Error::EngineUnavailable {
            engine: NAME,
            path: path.to_owned(),
            reason: format!("mmap: {error}"),
        })?;
        let mut source = Source::new(file, path, NAME, 1, false);
        source.mapping = mapping;
        Ok(source)
    }
}

#[cfg(not(unix))]
fn source(path: &std::path::Path) -> Result<crate::io::source::Source, Error> {
    Err(Error::EngineUnavailable {
        engine: NAME,
        path: path.to_owned(),
        reason: "not built for this system".to_owned(),
    })
}

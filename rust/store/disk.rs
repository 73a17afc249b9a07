//! What the writer does to the disk, step by step; the seam at which tests let it fail.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, StoreError};

/// A step that may be the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// A temporary file is made, of its full size.
    Create,
    /// Bytes are written to it.
    Write,
    /// It is made to last.
    Sync,
    /// It gets its name.
    Rename,
    /// The name is made to last.
    SyncDirectory,
    /// The record that says it is finished is written.
    Record,
}

/// Asked before each step; an error ends the work there, as a killed process would.
pub type Watch<'w> = dyn Fn(Step, &Path) -> io::Result<()> + Sync + 'w;

// A file that is being written.
#[derive(Debug)]
pub(crate) struct Output {
    file: File,
    // Of what it will be.
    path: PathBuf,
}

impl Output {
    /// Make the temporary file, and have all its room: a full disk shows here.
    pub(crate) fn create(path: PathBuf, nbytes: u64, watch: &Watch<'_>) -> Result<Self, Error> {
        let temporary = temporary(&path);
        let done = watch(Step::Create, &path).and_then(|()| {
            let mut options = OpenOptions::new();
            let file = options
                .write(true)
                .create(true)
                .truncate(true)
                .open(&temporary)?;
            reserve(&file, nbytes)?;
            Ok(file)
        });
        match done {
            Ok(file) => Ok(Self { file, path }),
            Err(source) => Err(fault(
                source,
                &temporary,
                format!("making a file of {nbytes} bytes"),
            )),
        }
    }

    /// Write bytes at an offset, and let the kernel begin to bring them to the disk.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8], watch: &Watch<'_>) -> Result<(), Error> {
        let done =
            watch(Step::Write, &self.path).and_then(|()| write_at(&self.file, offset, bytes));
        done.map_err(|source| {
            let what = format!("writing {} bytes at offset {offset}", bytes.len());
            fault(source, &temporary(&self.path), what)
        })?;
        start_writing(&self.file, offset, bytes.len() as u64);
        Ok(())
    }

    /// Make it last under its name.
    pub(crate) fn finish(&self, watch: &Watch<'_>) -> Result<(), Error> {
        let Self { file, path } = self;
        let temporary = temporary(path);
        let step = |step, what: &str, action: &dyn Fn() -> io::Result<()>| {
            let done = watch(step, path).and_then(|()| action());
            done.map_err(|source| fault(source, &temporary, what.to_owned()))
        };
        step(Step::Sync, "writing to the disk", &|| file.sync_all())?;
        // What is read next is read past the page cache.
        #[cfg(target_os = "linux")]
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
        step(Step::Rename, "renaming", &|| fs::rename(&temporary, path))?;
        step(Step::SyncDirectory, "writing the directory", &|| {
            sync_parent(path)
        })
    }
}

/// Replace a small file at once, and make it last.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = temporary(path);
    let done = (|| {
        let mut file = File::create(&temporary)?;
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_parent(path)
    })();
    done.map_err(|source| fault(source, &temporary, format!("writing {} bytes", bytes.len())))
}

pub(crate) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

pub(crate) fn fault(source: io::Error, path: &Path, what: String) -> Error {
    Error::Store(StoreError::Write {
        source,
        path: path.to_owned(),
        what,
    })
}

fn reserve(file: &File, nbytes: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if nbytes > 0 {
        use rustix::fs::{FallocateFlags, fallocate};
        if allocated(|| fallocate(file, FallocateFlags::empty(), 0, nbytes))? {
            return Ok(());
        }
    }
    file.set_len(nbytes)
}

/// Call until no signal comes between; whether the file system can allocate at all.
#[cfg(target_os = "linux")]
fn allocated(allocate: impl FnMut() -> rustix::io::Result<()>) -> io::Result<bool> {
    match rustix::io::retry_on_intr(allocate) {
        Ok(()) => Ok(true),
        // A file system that cannot: a full disk shows when it is written.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn write_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_all_at(file, bytes, offset);
    // Not built here.
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let written = std::os::windows::fs::FileExt::seek_write(file, &bytes[done..], at)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            done += written;
        }
        Ok(())
    }
}

// Else the disk would rest until the file is finished, and dirty pages pile up.
fn start_writing(file: &File, offset: u64, nbytes: u64) {
    #[cfg(target_os = "linux")]
    if nbytes >= 1 << 20 {
        // On Linux this begins to write what is dirty, and drops what is clean already.
        let length = std::num::NonZeroU64::new(nbytes);
        let _ = rustix::fs::fadvise(file, offset, length, rustix::fs::Advice::DontNeed);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, nbytes);
}

fn sync_parent(path: &Path) -> io::Result<()> {
    // Directories cannot be opened on Windows.
    #[cfg(unix)]
    if let Some(parent) = path.parent() {
        File::open(parent)?.sync_all()?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn room_is_asked_for_again_after_a_signal() {
        let mut answers = [Err(Errno::INTR), Err(Errno::INTR), Ok(())].into_iter();
        assert!(allocated(|| answers.next().unwrap()).unwrap());
        assert!(answers.next().is_none());
    }

    #[test]
    fn a_file_system_without_allocation_is_no_failure_and_a_full_one_is() {
        assert!(!allocated(|| Err(Errno::OPNOTSUPP)).unwrap());
        let full = allocated(|| Err(Errno::NOSPC)).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    }
}

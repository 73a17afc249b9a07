//! Whether files are still what they were when they were opened.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::error::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    nbytes: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        #[cfg(unix)]
        let (device, inode) = {
            use std::os::unix::fs::MetadataExt as _;
            (metadata.dev(), metadata.ino())
        };
        // Not built here: size and time alone.
        #[cfg(not(unix))]
        let (device, inode) = (0, 0);
        Self {
            device,
            inode,
            nbytes: metadata.len(),
            modified: metadata.modified().ok(),
        }
    }
}

/// What a list of files was when this was made.
#[derive(Clone, Debug)]
pub struct Identity {
    files: Vec<(PathBuf, Stamp)>,
}

impl Identity {
    /// What `paths` are. Taken before an engine opens them, it also covers the time between.
    ///
    /// # Errors
    /// `Open` when one cannot be examined.
    pub fn of(paths: &[PathBuf]) -> Result<Self, Error> {
        let stamp = |path: &PathBuf| match fs::metadata(path) {
            Ok(metadata) => Ok((path.clone(), Stamp::of(&metadata))),
            Err(source) => Err(Error::open(source, path)),
        };
        Ok(Self {
            files: paths.iter().map(stamp).collect::<Result<_, _>>()?,
        })
    }

    /// Fail unless every path still leads to the same file, of the same size, unwritten since.
    ///
    /// # Errors
    /// `CheckpointChanged` with the first that does not.
    pub fn check(&self) -> Result<(), Error> {
        for (path, stamp) in &self.files {
            let is_same = fs::metadata(path).is_ok_and(|found| Stamp::of(&found) == *stamp);
            if !is_same {
                return Err(Error::CheckpointChanged { path: path.clone() });
            }
        }
        Ok(())
    }
}

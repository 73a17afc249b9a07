//! Our shards: a file of safetensors per layer, aligned for direct reads, and a manifest.

pub mod checksum;
mod disk;
pub mod format;
pub mod job;
pub mod manifest;
pub mod progress;
pub mod verify;
pub mod writer;

use std::path::Path;

pub use crate::store::disk::{Step, Watch};

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::store::manifest::Manifest;

/// Open the store in `directory`, all its directories; none if there is no manifest.
///
/// # Errors
/// When the manifest, a header or the size of a file is not what it should be.
pub fn open(directory: &Path) -> Result<Option<Checkpoint>, Error> {
    // Of a file, nothing beside it counts.
    if !directory.is_dir() {
        return Ok(None);
    }
    let directory =
        &std::path::absolute(directory).map_err(|source| Error::open(source, directory))?;
    let Some(manifest) = Manifest::read(directory)? else {
        return Ok(None);
    };
    let paths = manifest.paths(directory)?;
    Checkpoint::of_files(paths, format::PAD).map(Some)
}

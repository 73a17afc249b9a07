//! The `buffered` engine: reads through the page cache and clears it behind itself.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::io::IoOptions;
use crate::io::pool::Pool;
use crate::io::source::{Source, open_file};

/// The engine's name.
pub(crate) const NAME: &str = "buffered";

/// Open a file for it.
pub(crate) fn source(path: &Path) -> Result<Source, Error> {
    let file = open_file(path, OpenOptions::new().read(true))?;
    // The kernel's own readahead would fill the cache with what nobody clears.
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
    // Not built here.
    #[cfg(target_os = "macos")]
    let _ = rustix::fs::fcntl_nocache(&file, true);
    Ok(Source::new(file, path, NAME, 1, true))
}

/// The engine over `paths`.
pub(crate) fn open(paths: &[PathBuf], options: &IoOptions) -> Result<Pool, Error> {
    let sources = paths
        .iter()
        .map(|path| source(path))
        .collect::<Result<_, _>>()?;
    Pool::new(NAME, sources, options.queue_depth)
}

//! The `direct` engine: threads that read past the page cache.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::io::IoOptions;
use crate::io::pool::Pool;
use crate::io::source::Source;

/// The engine's name.
pub(crate) const NAME: &str = "direct";

/// Open a file past the page cache, for `engine`.
#[cfg(target_os = "linux")]
pub(crate) fn source(path: &Path, engine: &'static str) -> Result<Source, Error> {
    use std::fs::OpenOptions;
    use std::os::unix::fs::OpenOptionsExt as _;

    use rustix::fs::{AtFlags, StatxFlags, statx};

    use crate::io::source::open_file;

    let unavailable = |reason: String| Error::EngineUnavailable {
        engine,
        path: path.to_owned(),
        reason,
    };
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECT);
    let file = open_file(path, &options).map_err(|error| match error {
        Error::Open { source, .. } if is_refusal(&source) => {
            unavailable(format!("open with O_DIRECT: {source}"))
        }
        other => other,
    })?;
    // Where direct reads come into the page cache even so, no more comes than is asked for.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
    let mut alignment = 4096;
    if let Ok(found) = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        && found.stx_mask & StatxFlags::DIOALIGN.bits() != 0
    {
        alignment = found.stx_dio_mem_align.max(found.stx_dio_offset_align) as usize;
        if found.stx_dio_offset_align == 0 || !alignment.is_power_of_two() {
            return Err(unavailable(
                "this file cannot be read past the page cache".to_owned(),
            ));
        }
    }
    Ok(Source::new(file, path, engine, alignment, false))
}

/// Whether this is how a file system says that it has no direct reads.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    let is_kernels = error.raw_os_error().is_some();
    is_kernels
        && matches!(
            error.kind(),
            io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
        )
}

/// Open a file past the page cache, for `engine`.
#[cfg(not(target_os = "linux"))]
pub(crate) fn source(path: &Path, engine: &'static str) -> Result<Source, Error> {
    let reason = "only Linux has O_DIRECT".to_owned();
    Err(Error::EngineUnavailable {
        engine,
        path: path.to_owned(),
        reason,
    })
}

/// Open files past the page cache, for `engine`; `has_residue` says that they come into it even so.
pub(crate) fn sources(
    paths: &[PathBuf],
    engine: &'static str,
    has_residue: bool,
    options: &IoOptions,
) -> Result<Vec<Source>, Error> {
    let open = |path: &PathBuf| {
        let mut source = source(path, engine)?;
        source.is_cached = has_residue;
        if options.page_cache {
            source.look();
        }
        Ok(source)
    };
    paths.iter().map(open).collect()
}

/// The engine over `paths`.
pub(crate) fn open(
    paths: &[PathBuf],
    has_residue: bool,
    options: &IoOptions,
) -> Result<Pool, Error> {
    let sources = sources(paths, NAME, has_residue, options)?;
    Pool::new(NAME, sources, options.queue_depth)
}

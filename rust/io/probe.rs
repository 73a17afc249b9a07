//! Which engine can read these files: decided by a read, not by an open.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::arena::Arena;
use crate::error::Error;
use crate::io::source::Source;
use crate::io::throttle::Throttle;
use crate::io::transfer::ReadFile as _;
#[cfg(target_os = "linux")]
use crate::io::uring::Uring;
use crate::io::{
    Buffer, EngineChoice, IoEngine, IoOptions, ReadRequest, blocking, buffered, direct, mmap,
    page_cache,
};

/// What a probe of one engine on one file found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// The engine's name.
    pub engine: &'static str,
    /// Whether it read the file.
    pub ok: bool,
    /// Why it did not; or, if it did, what is to be known about it.
    pub reason: Option<String>,
    /// Alignment that it would ask for; 0 if it cannot be used.
    pub alignment: usize,
    /// Whether its reads past the page cache come into it even so, as where the file system has to
    /// decompress: the engine then clears behind itself.
    pub residue: bool,
}

/// An engine, and why it is not another.
pub struct Opened {
    /// The engine.
    pub engine: Box<dyn IoEngine>,
    /// Those that would have been preferred, each with the reason that it cannot be used.
    pub refusals: Vec<(&'static str, String)>,
}

// What a read told.
#[derive(Clone, Copy)]
struct Probed {
    alignment: usize,
    has_residue: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Uring,
    Direct,
    Buffered,
    Mmap,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Uring, Self::Direct, Self::Buffered, Self::Mmap];
    const AUTO: [Self; 3] = [Self::Uring, Self::Direct, Self::Buffered];

    fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Direct => direct::NAME,
            Self::Buffered => buffered::NAME,
            Self::Mmap => mmap::NAME,
        }
    }

    fn open(
        self,
        paths: &[PathBuf],
        has_residue: bool,
        options: &IoOptions,
    ) -> Result<Box<dyn IoEngine>, Error> {
        Ok(match self {
            #[cfg(target_os = "linux")]
            Self::Uring => Box::new(Uring::open(paths, has_residue, options)?),
            #[cfg(not(target_os = "linux"))]
            Self::Uring => {
                return Err(Error::EngineUnavailable {
                    engine: self.name(),
                    path: paths.first().cloned().unwrap_or_default(),
                    reason: "only Linux has io_uring".to_owned(),
                });
            }
            Self::Direct => Box::new(direct::open(paths, has_residue, options)?),
            Self::Buffered => Box::new(buffered::open(paths, options)?),
            Self::Mmap => Box::new(mmap::open(paths, options)?),
        })
    }

    // Read the first block of a file the way the engine would.
    fn probe(self, path: &Path) -> Result<Probed, Error> {
        let read = || match self {
            Self::Uring => {
                let options = IoOptions {
                    queue_depth: 1,
                    page_cache: false,
                    ..IoOptions::default()
                };
                read_one(self.open(&[path.to_owned()], false, &options)?, path)
            }
            Self::Direct => read_block(&direct::source(path, self.name())?),
            Self::Buffered => read_block(&buffered::source(path)?),
            Self::Mmap => read_block(&mmap::source(path)?),
        };
        let is_past_cache = matches!(self, Self::Uring | Self::Direct);
        let watch = is_past_cache.then(|| Residue::watch(path)).flatten();
        let alignment = read()?;
        Ok(Probed {
            alignment,
            has_residue: watch.is_some_and(|watch| !watch.is_cleared()),
        })
    }
}

// Tells whether the first page of a file comes into the page cache.
struct Residue {
    file: File,
    was_cached: bool,
}

impl Residue {
    // None where it cannot be told: the page stays, or the kernel says nothing.
    fn watch(path: &Path) -> Option<Self> {
        let file = page_cache::open(path).ok()?;
        let was_cached = page_cache::is_cached(&file, 0)?;
        page_cache::clear(&file, 0, 1);
        let watch = Self { file, was_cached };
        watch.is_cleared().then_some(watch)
    }

    fn is_cleared(&self) -> bool {
        page_cache::is_cached(&self.file, 0) == Some(false)
    }
}

impl Drop for Residue {
    // A page that was there stays there.
    fn drop(&mut self) {
        if self.was_cached {
            page_cache::fetch(&self.file, 0);
        } else {
            page_cache::clear(&self.file, 0, 1);
        }
    }
}

fn first_block(alignment: usize, file_nbytes: u64) -> Result<(Arena, ReadRequest), Error> {
    let arena = Arena::new(alignment)?;
    let buffer = Buffer {
        ptr: arena.as_ptr(),
        nbytes: alignment,
    };
    let needed = alignment.min(usize::try_from(file_nbytes).unwrap_or(alignment));
    Ok((
        arena,
        ReadRequest {
            token: 0,
            file: 0,
            offset: 0,
            buffer,
            needed,
        },
    ))
}

fn read_block(source: &Source) -> Result<usize, Error> {
    let nbytes = source
        .nbytes()
        .map_err(|error| Error::open(error, source.path()))?;
    let (_arena, request) = first_block(source.alignment, nbytes)?;
    // SAFETY: the arena is larger than the block, and outlives the read.
    unsafe { blocking::read(source, request)? };
    Ok(source.alignment)
}

fn read_one(engine: Box<dyn IoEngine>, path: &Path) -> Result<usize, Error> {
    let nbytes = path
        .metadata()
        .map_err(|error| Error::open(error, path))?
        .len();
    let (_arena, request) = first_block(engine.alignment(), nbytes)?;
    // Dropped before the arena, which it may still write to.
    let mut engine = engine;
    engine.submit(request)?;
    let mut done = Vec::new();
    while done.is_empty() {
        engine.wait(&mut done, None)?;
    }
    for completion in done {
        completion.result?;
    }
    Ok(engine.alignment())
}

/// Probe every engine on a file.
#[must_use]
pub fn probe(path: &Path) -> Vec<ProbeReport> {
    let report = |kind: Kind| match kind.probe(path) {
        Ok(Probed {
            alignment,
            has_residue,
        }) => {
            let remark = match kind {
                Kind::Mmap => Some(
                    "never chosen by itself: what it reads stays in the page cache, and a file \
                     that is truncated meanwhile kills the process",
                ),
                _ if has_residue => Some(
                    "direct reads come into the page cache on this file system; they are cleared \
                     from it",
                ),
                _ => None,
            };
            ProbeReport {
                engine: kind.name(),
                ok: true,
                reason: remark.map(str::to_owned),
                alignment,
                residue: has_residue,
            }
        }
        Err(error) => ProbeReport {
            engine: kind.name(),
            ok: false,
            reason: Some(reason(&error)),
            alignment: 0,
            residue: false,
        },
    };
    Kind::ALL.into_iter().map(report).collect()
}

/// Open `paths` with the engine chosen: one that has read a block on every file system of theirs.
///
/// # Errors
/// As for [`choose`].
pub fn open(
    paths: &[PathBuf],
    choice: EngineChoice,
    options: IoOptions,
) -> Result<Box<dyn IoEngine>, Error> {
    Ok(choose(paths, choice, options)?.engine)
}

/// Open `paths` as [`open`] does, and tell why the engine is not one that would be preferred.
///
/// # Errors
/// `Open` when a file is not there, `EngineUnavailable` when the engine asked for, or all of them,
/// cannot read the files.
pub fn choose(
    paths: &[PathBuf],
    choice: EngineChoice,
    options: IoOptions,
) -> Result<Opened, Error> {
    options.check()?;
    let places = one_per_file_system(paths)?;
    let kinds: &[Kind] = match choice {
        EngineChoice::Auto => &Kind::AUTO,
        EngineChoice::Uring => &[Kind::Uring],
        EngineChoice::Direct => &[Kind::Direct],
        EngineChoice::Buffered => &[Kind::Buffered],
        EngineChoice::Mmap => &[Kind::Mmap],
    };
    let mut refusals = Vec::new();
    let mut refused = PathBuf::new();
    for &kind in kinds {
        match try_open(kind, paths, &places, &options) {
            Ok(mut engine) => {
                if options.throttle_gbps.is_some() || options.latency_us > 0 {
                    let (gbps, latency_us) = (options.throttle_gbps, options.latency_us);
                    engine = Box::new(Throttle::new(engine, gbps, latency_us));
                }
                return Ok(Opened { engine, refusals });
            }
            // No engine opens what cannot be opened.
            Err((_, error @ Error::Open { .. })) => return Err(error),
            Err((path, error)) => {
                refused = path;
                refusals.push((kind.name(), reason(&error)));
            }
        }
    }
    let reason = match refusals.as_slice() {
        [(_, reason)] => reason.clone(),
        many => {
            let reasons = many
                .iter()
                .map(|(name, reason)| format!("{name}: {reason}"));
            reasons.collect::<Vec<_>>().join("; ")
        }
    };
    let engine = match (choice, refusals.last()) {
        (EngineChoice::Auto, _) | (_, None) => "auto",
        (_, Some((name, _))) => name,
    };
    Err(Error::EngineUnavailable {
        engine,
        path: refused,
        reason,
    })
}

fn try_open(
    kind: Kind,
    paths: &[PathBuf],
    places: &[PathBuf],
    options: &IoOptions,
) -> Result<Box<dyn IoEngine>, (PathBuf, Error)> {
    let mut has_residue = false;
    for path in places {
        let probed = kind.probe(path).map_err(|error| (path.clone(), error))?;
        has_residue |= probed.has_residue;
    }
    let first = places.first().cloned().unwrap_or_default();
    kind.open(paths, has_residue, options)
        .map_err(|error| (first, error))
}

// A file of each file system; that all are there is found on the way.
fn one_per_file_system(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut seen = HashSet::new();
    let mut places = Vec::new();
    for path in paths {
        let metadata = path.metadata().map_err(|error| Error::open(error, path))?;
        #[cfg(unix)]
        let device = std::os::unix::fs::MetadataExt::dev(&metadata);
        // Not built here: every file is probed.
        #[cfg(not(unix))]
        let device = (metadata.len(), path);
        if seen.insert(device) {
            places.push(path.clone());
        }
    }
    Ok(places)
}

// The path is said beside it.
fn reason(error: &Error) -> String {
    match error {
        Error::EngineUnavailable { reason, .. } => reason.clone(),
        Error::Io {
            source,
            offset,
            nbytes,
            ..
        } => {
            format!("reading {nbytes} bytes at offset {offset}: {source}")
        }
        Error::Open { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

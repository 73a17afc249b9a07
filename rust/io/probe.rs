//! Which engine can read these files: decided by a read, not by an open.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::arena::Arena;
use crate::error::Error;
use crate::io::source::Source;
use crate::io::throttle::Throttle;
use crate::io::transfer::ReadFile as _;
use crate::io::{
    Buffer, EngineChoice, IoEngine, IoOptions, ReadRequest, blocking, buffered, direct,
};

/// What a probe of one engine on one file found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// The engine's name.
    pub engine: &'static str,
    /// Whether it read the file.
    pub ok: bool,
    /// Why it did not.
    pub reason: Option<String>,
    /// Alignment that it would ask for; 0 if it cannot be used.
    pub alignment: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Uring,
    Direct,
    Buffered,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Uring, Self::Direct, Self::Buffered];

    fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Direct => direct::NAME,
            Self::Buffered => buffered::NAME,
        }
    }

    fn open(self, paths: &[PathBuf], options: &IoOptions) -> Result<Box<dyn IoEngine>, Error> {
        Ok(match self {
            #[cfg(target_os = "linux")]
            Self::Uring => Box::new(crate::io::uring::Uring::open(paths, options)?),
            #[cfg(not(target_os = "linux"))]
            Self::Uring => {
                return Err(Error::EngineUnavailable {
                    engine: self.name(),
                    path: paths.first().cloned().unwrap_or_default(),
                    reason: "only Linux has io_uring".to_owned(),
                });
            }
            Self::Direct => Box::new(direct::open(paths, options)?),
            Self::Buffered => Box::new(buffered::open(paths, options)?),
        })
    }

    // Read the first block of a file the way the engine would; the alignment it needs.
    fn probe(self, path: &Path) -> Result<usize, Error> {
        match self {
            Self::Uring => {
                let options = IoOptions {
                    queue_depth: 1,
                    ..IoOptions::default()
                };
                read_one(self.open(&[path.to_owned()], &options)?, path)
            }
            Self::Direct => read_block(&direct::source(path, self.name())?),
            Self::Buffered => read_block(&buffered::source(path)?),
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
    Kind::ALL
        .into_iter()
        .map(|kind| match kind.probe(path) {
            Ok(alignment) => ProbeReport {
                engine: kind.name(),
                ok: true,
                reason: None,
                alignment,
            },
            Err(error) => ProbeReport {
                engine: kind.name(),
                ok: false,
                reason: Some(reason(&error)),
                alignment: 0,
            },
        })
        .collect()
}

/// Open `paths` with the engine chosen: one that has read a block on every file system of theirs.
///
/// # Errors
/// `Open` when a file is not there, `EngineUnavailable` when the engine asked for, or all of them,
/// cannot read the files.
pub fn open(
    paths: &[PathBuf],
    choice: EngineChoice,
    options: IoOptions,
) -> Result<Box<dyn IoEngine>, Error> {
    options.check()?;
    let places = one_per_file_system(paths)?;
    let kinds: &[Kind] = match choice {
        EngineChoice::Auto => &Kind::ALL,
        EngineChoice::Uring => &[Kind::Uring],
        EngineChoice::Direct => &[Kind::Direct],
        EngineChoice::Buffered => &[Kind::Buffered],
    };
    let mut refusals = Vec::new();
    for &kind in kinds {
        match try_open(kind, paths, &places, &options) {
            Ok(engine) if options.throttle_gbps.is_some() || options.latency_us > 0 => {
                let throttle = Throttle::new(engine, options.throttle_gbps, options.latency_us);
                return Ok(Box::new(throttle));
            }
            Ok(engine) => return Ok(engine),
            // No engine opens what cannot be opened.
            Err((_, error @ Error::Open { .. })) => return Err(error),
            Err((path, error)) => refusals.push((kind, path, error)),
        }
    }
    let (kind, path, _) = refusals.last().expect("every choice tries an engine");
    let reason = match refusals.as_slice() {
        [(_, _, error)] => reason(error),
        many => {
            let reasons: Vec<_> = many
                .iter()
                .map(|(kind, _, error)| format!("{}: {}", kind.name(), reason(error)))
                .collect();
            reasons.join("; ")
        }
    };
    let engine = if choice == EngineChoice::Auto {
        "auto"
    } else {
        kind.name()
    };
    Err(Error::EngineUnavailable {
        engine,
        path: path.clone(),
        reason,
    })
}

fn try_open(
    kind: Kind,
    paths: &[PathBuf],
    places: &[PathBuf],
    options: &IoOptions,
) -> Result<Box<dyn IoEngine>, (PathBuf, Error)> {
    for path in places {
        kind.probe(path).map_err(|error| (path.clone(), error))?;
    }
    let first = places.first().cloned().unwrap_or_default();
    kind.open(paths, options).map_err(|error| (first, error))
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

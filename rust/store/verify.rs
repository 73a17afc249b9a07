//! Whether every byte of a store is the one that was written.

use std::path::{Path, PathBuf};
use std::thread::{Builder, scope};

use crate::checkpoint::header::Header;
use crate::error::{Error, StoreError};
use crate::io::block::{Block, BlockFiles};
use crate::store::checksum::{CHUNK_NBYTES, chunks};
use crate::store::manifest::Manifest;
use crate::store::progress::Progress;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

// Tensors that a message names.
const SHOWN: usize = 1;

/// Read every byte of the store in `directory` and hold it against its checksum.
///
/// # Errors
/// `CorruptChunk` with the first that is not what was written, or whatever keeps it from being read.
pub fn verify(
    directory: &Path,
    manifest: &Manifest,
    threads: usize,
    progress: &Progress,
) -> Result<(), Error> {
    let paths = manifest.paths(directory)?;
    let work = Work {
        files: BlockFiles::open(&paths)?,
        paths,
        manifest,
        progress,
        next: AtomicU64::new(0),
        error: Mutex::new(None),
    };
    scope(|scope| {
        let mut helpers = Vec::new();
        for number in 1..threads {
            let name = format!("airllm-verify-{number}");
            // Fewer threads do as well.
            helpers.extend(Builder::new().name(name).spawn_scoped(scope, || work.run()));
        }
        work.run();
        for helper in helpers {
            if helper.join().is_err() {
                work.fail(Error::WorkerPanicked, u64::MAX);
            }
        }
    });
    let error = work.error.into_inner().map_err(|_| Error::WorkerPanicked)?;
    error.map_or(Ok(()), |(_, error)| Err(error))
}

struct Work<'a> {
    files: BlockFiles,
    paths: Vec<PathBuf>,
    manifest: &'a Manifest,
    progress: &'a Progress,
    // Chunks of all files, counted.
    next: AtomicU64,
    error: Mutex<Option<(u64, Error)>>,
}

impl Work<'_> {
    fn run(&self) {
        let mut block = match Block::new(CHUNK_NBYTES as usize) {
            Ok(block) => block,
            Err(error) => return self.fail(error, u64::MAX),
        };
        loop {
            // Relaxed: each number is had once, and guards no memory.
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some((file, chunk)) = self.place(number) else {
                return;
            };
            if !self.lock().is_some_and(|error| error.is_none()) {
                return;
            }
            let checked = self.progress.check();
            if let Err(error) = checked.and_then(|()| self.check(file, chunk, &mut block)) {
                return self.fail(error, number);
            }
        }
    }

    fn place(&self, mut number: u64) -> Option<(usize, u64)> {
        for (index, file) in self.manifest.files.iter().enumerate() {
            let count = chunks(file.nbytes);
            if number < count {
                return Some((index, number));
            }
            number -= count;
        }
        None
    }

    fn check(&self, file: usize, chunk: u64, block: &mut Block) -> Result<(), Error> {
        let record = &self.manifest.files[file];
        let offset = chunk * CHUNK_NBYTES;
        let nbytes = CHUNK_NBYTES.min(record.nbytes - offset);
        let bytes = self.files.read(file, offset, nbytes as usize, block)?;
        let found = crc32c::crc32c(bytes);
        // As many as there are chunks, which the manifest's parser has checked.
        let expected = record.crc32c[chunk as usize];
        if found == expected {
            self.progress.add_bytes(nbytes);
            return Ok(());
        }
        let path = self.paths[file].clone();
        let tensors = tensors(&path, offset, offset + nbytes);
        Err(Error::Store(StoreError::CorruptChunk {
            path,
            chunk,
            offset,
            nbytes,
            expected,
            found,
            tensors,
        }))
    }

    fn lock(&self) -> Option<MutexGuard<'_, Option<(u64, Error)>>> {
        self.error.lock().ok()
    }

    // The first chunk's error is told, whichever thread was faster.
    fn fail(&self, error: Error, number: u64) {
        if let Some(mut held) = self.lock()
            && held.as_ref().is_none_or(|(first, _)| number < *first)
        {
            *held = Some((number, error));
        }
    }
}

// What has bytes in a range of a file, in words.
fn tensors(path: &Path, begin: u64, end: u64) -> String {
    let Ok(header) = Header::read(path) else {
        return "a file whose header cannot be read".to_owned();
    };
    let overlaps = |offset: u64, nbytes: u64| offset < end && offset + nbytes > begin;
    let found: Vec<_> = header
        .tensors
        .iter()
        .filter(|tensor| overlaps(tensor.extent.offset, tensor.extent.nbytes))
        .map(|tensor| tensor.name.as_str())
        .collect();
    match found.as_slice() {
        [] => "the header".to_owned(),
        names if names.len() > SHOWN => {
            let more = names.len() - SHOWN;
            format!("{} and {more} more", names[..SHOWN].join(", "))
        }
        names => names.join(", "),
    }
}

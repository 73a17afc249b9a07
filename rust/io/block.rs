//! Pieces of files read one by one on the calling thread, past the page cache where that is possible.

use std::path::{Path, PathBuf};

use crate::arena::Arena;
use crate::error::Error;
use crate::io::source::Source;
use crate::io::transfer::ReadFile as _;
use crate::io::{Buffer, ReadRequest, blocking, buffered, direct};

// No device asks for more.
const MAX_ALIGNMENT: usize = 1 << 16;

/// Memory for one piece at a time.
#[derive(Debug)]
pub struct Block {
    arena: Arena,
}

impl Block {
    /// Room for pieces of up to `nbytes`.
    ///
    /// # Errors
    /// `ArenaTooLarge` if there is no such amount of address space.
    pub fn new(nbytes: usize) -> Result<Self, Error> {
        // A read is widened at both ends.
        let nbytes = nbytes.saturating_add(2 * MAX_ALIGNMENT);
        let arena = Arena::new(nbytes)?;
        Ok(Self { arena })
    }
}

/// Files that are read by pieces, from any thread.
#[derive(Debug)]
pub struct BlockFiles {
    sources: Vec<Source>,
}

impl BlockFiles {
    /// Open files, each as its file system allows; one that is in the page cache is read there.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn open(paths: &[PathBuf]) -> Result<Self, Error> {
        let sources = paths.iter().map(|path| open(path));
        Ok(Self {
            sources: sources.collect::<Result<_, _>>()?,
        })
    }

    /// Read `nbytes` at `offset` of a file into `block`, and return them.
    ///
    /// # Errors
    /// When the file cannot be read, or ends before.
    ///
    /// # Panics
    /// If there is no such file, or the piece is larger than the block: mistakes of the caller.
    pub fn read<'b>(
        &self,
        file: usize,
        offset: u64,
        nbytes: usize,
        block: &'b mut Block,
    ) -> Result<&'b [u8], Error> {
        let source = &self.sources[file];
        let alignment = source.alignment as u64;
        let begin = offset / alignment * alignment;
        let skipped = (offset - begin) as usize;
        let needed = skipped + nbytes;
        let room = needed.next_multiple_of(source.alignment);
        assert!(
            room <= block.arena.nbytes(),
            "a piece larger than its block"
        );
        let request = ReadRequest {
            token: 0,
            file: 0,
            offset: begin,
            buffer: Buffer {
                ptr: block.arena.as_ptr(),
                nbytes: room,
            },
            needed,
        };
        // SAFETY: the block is borrowed mutably, so nobody else reads or writes it, and `room` bytes
        // are in it, as just checked.
        unsafe { blocking::read(source, request)? };
        let start = block.arena.as_ptr().wrapping_add(skipped);
        // SAFETY: `needed` bytes from the arena's start were just read; the borrow of the block keeps
        // others away as long as the slice lives.
        Ok(unsafe { std::slice::from_raw_parts(start, nbytes) })
    }
}

// Past the page cache, unless the file system does not know how, which its first read tells.
fn open(path: &Path) -> Result<Source, Error> {
    let is_refusal = |error: &Error| match error {
        Error::EngineUnavailable { .. } => true,
        Error::Io { source, .. } => direct::is_refusal(source),
        _ => false,
    };
    match direct::source(path, direct::NAME).and_then(tried) {
        Ok(mut source) if source.alignment <= MAX_ALIGNMENT => {
            source.look();
            Ok(source)
        }
        Ok(_) => buffered::source(path),
        Err(error) if is_refusal(&error) => buffered::source(path),
        Err(error) => Err(error),
    }
}

fn tried(source: Source) -> Result<Source, Error> {
    let nbytes = source
        .nbytes()
        .map_err(|error| Error::open(error, source.path()))?;
    let room = source.alignment;
    let arena = Arena::new(room)?;
    let request = ReadRequest {
        token: 0,
        file: 0,
        offset: 0,
        buffer: Buffer {
            ptr: arena.as_ptr(),
            nbytes: room,
        },
        needed: usize::try_from(nbytes).unwrap_or(usize::MAX).min(room),
    };
    // SAFETY: memory of this function's own, of the size that is said.
    unsafe { blocking::read(&source, request)? };
    Ok(source)
}

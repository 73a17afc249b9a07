//! Single rows of a table on disk: embeddings of the tokens at hand.

use std::path::Path;
use std::thread::{Builder, scope};
use std::vec;

use crate::arena::Arena;
use crate::error::Error;
use crate::io::source::Source;
use crate::io::transfer::ReadFile as _;
use crate::io::{Buffer, ReadRequest, blocking, buffered, direct};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};

// Reading this much in vain costs less than another request.
const GAP_NBYTES: u64 = 64 << 10;
// Longest read, unless one row is longer.
const PIECE_NBYTES: u64 = 4 << 20;
// All scratch of one call.
const SCRATCH_NBYTES: usize = 16 << 20;
const MAX_THREADS: usize = 8;

/// Read rows of a table of `row_nbytes` each that starts at `offset` of a file into `out`, one
/// after the other; returns the bytes read. Every row is read once, past the page cache where that
/// is possible, and neighbours together: most of a table is read in one pass.
///
/// # Errors
/// When a row does not exist, `out` has not the size of the rows, or the file cannot be read.
pub fn gather_rows(
    path: &Path,
    offset: u64,
    row_nbytes: usize,
    rows: &[u64],
    out: &mut [u8],
) -> Result<u64, Error> {
    if rows.len().checked_mul(row_nbytes) != Some(out.len()) {
        return Err(Error::OutputSize {
            rows: rows.len(),
            row_nbytes,
            found: out.len(),
        });
    }
    if out.is_empty() {
        return Ok(0);
    }
    let table = Table { offset, row_nbytes };
    let direct = direct::source(path, direct::NAME);
    match direct.and_then(|source| table.gather(&source, rows, out)) {
        Err(error) if is_refusal(&error) => table.gather(&buffered::source(path)?, rows, out),
        result => result,
    }
}

// Whether a file system does not know direct reads.
fn is_refusal(error: &Error) -> bool {
    match error {
        Error::EngineUnavailable { .. } => true,
        Error::Io { source, .. } => direct::is_refusal(source),
        _ => false,
    }
}

struct Table {
    offset: u64,
    row_nbytes: usize,
}

struct Wanted<'o> {
    // From the start of the file.
    offset: u64,
    out: &'o mut [u8],
}

// Rows that are read at once.
struct Piece<'o> {
    begin: u64,
    end: u64,
    wanted: Vec<Wanted<'o>>,
}

impl Table {
    fn gather(&self, source: &Source, rows: &[u64], out: &mut [u8]) -> Result<u64, Error> {
        let pieces = self.pieces(source, rows, out)?;
        let alignment = source.alignment as u64;
        let room = |piece: &Piece<'_>| aligned(piece, alignment).1;
        let scratch_nbytes = pieces.iter().map(room).max().unwrap_or(0);
        let threads = (SCRATCH_NBYTES / scratch_nbytes.max(1))
            .clamp(1, MAX_THREADS)
            .min(pieces.len());
        let work = Work {
            source,
            pieces: Mutex::new(pieces.into_iter()),
            is_failed: AtomicBool::new(false),
            scratch_nbytes,
        };
        scope(|scope| {
            let mut helpers = Vec::new();
            for number in 1..threads {
                let name = format!("airllm-rows-{number}");
                // Fewer threads do as well.
                helpers.extend(Builder::new().name(name).spawn_scoped(scope, || work.run()));
            }
            let own = work.run();
            let others = helpers
                .into_iter()
                .map(|helper| helper.join().unwrap_or(Err(Error::WorkerPanicked)));
            [own].into_iter().chain(others.collect::<Vec<_>>()).sum()
        })
    }

    // The rows in the order of the file, in pieces.
    fn pieces<'o>(
        &self,
        source: &Source,
        rows: &[u64],
        out: &'o mut [u8],
    ) -> Result<Vec<Piece<'o>>, Error> {
        let row_nbytes = self.row_nbytes as u64;
        let path = source.path();
        let file_nbytes = source.nbytes().map_err(|error| Error::open(error, path))?;
        let count = file_nbytes.saturating_sub(self.offset) / row_nbytes;
        if let Some(&row) = rows.iter().find(|&&row| row >= count) {
            return Err(Error::NoSuchRow {
                path: path.to_owned(),
                row,
                rows: count,
            });
        }
        // Rows that exist lie within the file: nothing below overflows.
        let mut wanted: Vec<_> = rows
            .iter()
            .zip(out.chunks_exact_mut(self.row_nbytes))
            .map(|(&row, out)| Wanted {
                offset: self.offset + row * row_nbytes,
                out,
            })
            .collect();
        wanted.sort_unstable_by_key(|wanted| wanted.offset);
        let unique = wanted
            .chunk_by(|one, next| one.offset == next.offset)
            .count() as u64;
        let first = wanted.first().map_or(0, |wanted| wanted.offset);
        let last = wanted.last().map_or(0, |wanted| wanted.offset);
        let is_dense = unique * row_nbytes >= (last + row_nbytes - first) / 2;
        let gap = if is_dense { PIECE_NBYTES } else { GAP_NBYTES };
        let mut pieces: Vec<Piece<'o>> = Vec::new();
        for wanted in wanted {
            let (begin, end) = (wanted.offset, wanted.offset + row_nbytes);
            match pieces.last_mut() {
                Some(piece) if begin <= piece.end + gap && end <= piece.begin + PIECE_NBYTES => {
                    piece.end = end;
                    piece.wanted.push(wanted);
                }
                _ => pieces.push(Piece {
                    begin,
                    end,
                    wanted: vec![wanted],
                }),
            }
        }
        Ok(pieces)
    }
}

// Where the read of a piece begins, and its length.
fn aligned(piece: &Piece<'_>, alignment: u64) -> (u64, usize) {
    let begin = piece.begin / alignment * alignment;
    (
        begin,
        (piece.end - begin).next_multiple_of(alignment) as usize,
    )
}

struct Work<'s, 'o> {
    source: &'s Source,
    pieces: Mutex<vec::IntoIter<Piece<'o>>>,
    is_failed: AtomicBool,
    scratch_nbytes: usize,
}

impl<'o> Work<'_, 'o> {
    fn lock(&self) -> MutexGuard<'_, vec::IntoIter<Piece<'o>>> {
        self.pieces
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    // Read pieces until there are none, or one cannot be read; the bytes read.
    fn run(&self) -> Result<u64, Error> {
        let scratch = Arena::new(self.scratch_nbytes)?;
        let mut nbytes = 0;
        // Relaxed: a hint that spares work; the error itself goes through `join`.
        while !self.is_failed.load(Ordering::Relaxed) {
            let Some(piece) = self.lock().next() else {
                break;
            };
            let result = self.read(piece, &scratch);
            if result.is_err() {
                self.is_failed.store(true, Ordering::Relaxed);
            }
            nbytes += result?;
        }
        Ok(nbytes)
    }

    fn read(&self, piece: Piece<'o>, scratch: &Arena) -> Result<u64, Error> {
        let (begin, room) = aligned(&piece, self.source.alignment as u64);
        let needed = (piece.end - begin) as usize;
        let buffer = Buffer {
            ptr: scratch.as_ptr(),
            nbytes: room,
        };
        let request = ReadRequest {
            token: 0,
            file: 0,
            offset: begin,
            buffer,
            needed,
        };
        // SAFETY: the scratch is this thread's alone and has room for the largest piece.
        let nbytes = unsafe { blocking::read(self.source, request)? };
        // SAFETY: as above, and the read has ended.
        let bytes = unsafe { std::slice::from_raw_parts(scratch.as_ptr(), needed) };
        for Wanted { offset, out } in piece.wanted {
            let start = (offset - begin) as usize;
            out.copy_from_slice(&bytes[start..start + out.len()]);
        }
        Ok(nbytes as u64)
    }
}

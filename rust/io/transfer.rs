//! How far a request has come, and what to read next: the rules that every engine keeps.

use std::io;
use std::path::Path;

use crate::error::Error;
use crate::io::ReadRequest;

// A read that ends without news so often is given up.
const MAX_FRUITLESS: u32 = 1000;

/// A request on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    request: ReadRequest,
    // Bytes that are there to stay; a multiple of the alignment.
    done: usize,
    // Bytes that have been there, the unaligned rest of a short read included.
    reached: usize,
    fruitless: u32,
}

/// What is to be done next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Read on.
    Read,
    /// So many bytes are there, enough.
    Done(usize),
    /// It cannot be read.
    Failed(Error),
}

impl Transfer {
    pub(crate) fn new(request: ReadRequest) -> Self {
        Self {
            request,
            done: 0,
            reached: 0,
            fruitless: 0,
        }
    }

    pub(crate) fn request(&self) -> &ReadRequest {
        &self.request
    }

    /// Where the next read begins.
    pub(crate) fn offset(&self) -> u64 {
        self.request.offset + self.done as u64
    }

    /// Where its bytes go.
    pub(crate) fn ptr(&self) -> *mut u8 {
        self.request.buffer.ptr.wrapping_add(self.done)
    }

    /// How many bytes it asks for; the kernel takes no more than 2 GiB at once.
    pub(crate) fn nbytes(&self) -> usize {
        (self.request.buffer.nbytes - self.done).min(1 << 30)
    }

    /// Take in how the last read ended. The file is asked for its length when that brought
    /// nothing new.
    pub(crate) fn advance(
        &mut self,
        result: io::Result<usize>,
        alignment: usize,
        file: &dyn ReadFile,
    ) -> Step {
        let asked = self.nbytes();
        match result {
            Ok(nbytes) if nbytes > asked => Step::Failed(Error::EngineFailed {
                reason: format!(
                    "{}: a read of {asked} bytes at offset {} ended with {nbytes}",
                    file.path().display(),
                    self.offset(),
                ),
            }),
            Ok(nbytes) => self.advance_by(nbytes, alignment, file),
            Err(error) if is_retryable(&error) && self.fruitless < MAX_FRUITLESS => {
                self.fruitless += 1;
                Step::Read
            }
            Err(error) => Step::Failed(self.failure(error, file)),
        }
    }

    fn advance_by(&mut self, nbytes: usize, alignment: usize, file: &dyn ReadFile) -> Step {
        let reached = self.done + nbytes;
        if reached >= self.request.needed {
            return Step::Done(reached);
        }
        let is_news = reached > self.reached;
        self.reached = self.reached.max(reached);
        // Direct reads go on at whole blocks only: the rest of a short one is read again.
        self.done = reached / alignment * alignment;
        if nbytes > 0 && is_news {
            self.fruitless = 0;
            return Step::Read;
        }
        let end_of_needed = self.request.offset + self.request.needed as u64;
        match file.nbytes() {
            // The end of the file, or a file system that stops where there is more.
            Ok(file_nbytes) if file_nbytes < end_of_needed || nbytes == 0 => {
                Step::Failed(Error::UnexpectedEof {
                    path: file.path().to_owned(),
                    offset: self.request.offset,
                    expected: self.request.needed as u64,
                    found: self.reached as u64,
                })
            }
            Ok(_) if self.fruitless < MAX_FRUITLESS => {
                self.fruitless += 1;
                Step::Read
            }
            Ok(_) => {
                let message = "the read does not get on";
                Step::Failed(self.failure(io::Error::other(message), file))
            }
            Err(error) => Step::Failed(self.failure(error, file)),
        }
    }

    fn failure(&self, error: io::Error, file: &dyn ReadFile) -> Error {
        Error::io(
            error,
            file.path(),
            self.offset(),
            self.nbytes(),
            file.engine(),
        )
    }
}

/// What a transfer has to know of the file.
pub(crate) trait ReadFile {
    fn path(&self) -> &Path;
    fn engine(&self) -> &'static str;
    fn nbytes(&self) -> io::Result<u64>;
}

fn is_retryable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
    )
}

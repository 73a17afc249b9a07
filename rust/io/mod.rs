//! Engines that read byte ranges of files into memory, and the probe that chooses one.

pub mod identity;

use std::time::Duration;

use crate::error::Error;

/// Where the bytes of a request go. The memory must stay valid, and unread and unwritten by anyone
/// else, until the request's completion has been handed out or the engine has been dropped.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    /// Start, aligned to the engine's alignment.
    pub ptr: *mut u8,
    /// Room in bytes, a multiple of the engine's alignment.
    pub nbytes: usize,
}

// SAFETY: a plain address; the contract above says who may touch the memory.
unsafe impl Send for Buffer {}

/// One read of `buffer.nbytes` bytes at `offset`, of which at least `needed` must arrive.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    /// Given back with the completion.
    pub token: u64,
    /// Index of the file in the list the engine was opened with.
    pub file: u32,
    /// A multiple of the engine's alignment.
    pub offset: u64,
    /// Where the bytes go.
    pub buffer: Buffer,
    /// Bytes from the start of the buffer that must arrive; the file may end after them.
    pub needed: usize,
}

/// The end of a request: at least `needed` bytes arrived, or why not.
#[derive(Debug)]
pub struct Completion {
    /// The request's token.
    pub token: u64,
    /// Bytes read.
    pub result: Result<usize, Error>,
}

/// Ends a `wait` of the engine it came from, from any thread, without blocking.
pub trait Waker: Send + Sync {
    /// Make the current or the next `wait` return.
    fn wake(&self);
}

/// Reads requests in any order. Interrupted, short and retryable reads are continued inside; what
/// comes out is whole or an error with errno, path and offset.
pub trait IoEngine: Send {
    /// `"uring"`, `"direct"`, `"buffered"`, `"fake"`.
    fn name(&self) -> &'static str;
    /// Alignment of offsets, lengths and addresses in bytes; a power of two, at least 1.
    fn alignment(&self) -> usize;
    /// Start a read; never blocks for the device.
    ///
    /// # Errors
    /// When the engine itself cannot go on; a failed read is a completion.
    fn submit(&mut self, request: ReadRequest) -> Result<(), Error>;
    /// Wait until something completes, the waker is used or `timeout` is over; append what completed.
    ///
    /// # Errors
    /// When the engine itself cannot go on.
    fn wait(&mut self, done: &mut Vec<Completion>, timeout: Option<Duration>) -> Result<(), Error>;
    /// Requests submitted and not yet handed out.
    fn in_flight(&self) -> usize;
    /// A handle that ends `wait`.
    fn waker(&self) -> std::sync::Arc<dyn Waker>;
}

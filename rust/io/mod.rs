//! Engines that read byte ranges of files into memory, and the probe that chooses one.

pub mod bench;
pub mod block;
mod blocking;
mod buffered;
mod direct;
pub mod fake;
pub mod gather;
pub mod identity;
mod mmap;
pub mod page_cache;
mod pool;
pub mod probe;
mod source;
mod throttle;
mod transfer;
#[cfg(target_os = "linux")]
mod uring;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

pub use crate::io::probe::{Opened, choose, open, probe};

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
///
/// An engine belongs to the thread that first submits to it or waits on it, and is best dropped
/// there. Dropping it waits until every read in flight has ended: the memory is then its owner's.
pub trait IoEngine: Send {
    /// `"uring"`, `"direct"`, `"buffered"`, `"mmap"`, `"fake"`.
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
    fn waker(&self) -> Arc<dyn Waker>;
    /// Say that requests will read into `memory` again and again, so that the kernel need not look
    /// it up each time; for engines that can make use of it, and as long as the kernel agrees. A
    /// later call replaces the earlier. The pages are taken at once and kept: parts of the memory
    /// must not be given back while the engine lives. To be called by the thread that uses the
    /// engine, with nothing in flight.
    fn register(&mut self, memory: Buffer) {
        let _ = memory;
    }
    /// What it makes use of at the moment: `"registered files"`, `"registered buffers"`,
    /// `"page cache"` when files were found there.
    fn features(&self) -> Vec<&'static str> {
        Vec::new()
    }
    /// Bytes read so far that came from the page cache, by an engine that reads past it.
    fn cached_bytes(&self) -> u64 {
        0
    }
}

// The feature of reading from the page cache what is there.
const PAGE_CACHE: &str = "page cache";

/// Which engine is to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// The first of uring, direct and buffered that passes its probe.
    #[default]
    Auto,
    /// io_uring, past the page cache.
    Uring,
    /// Threads that read past the page cache.
    Direct,
    /// Threads that read through the page cache and clear it behind them.
    Buffered,
    /// Threads that copy from a mapping: a baseline. A file cut off meanwhile kills the process.
    Mmap,
}

impl FromStr for EngineChoice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "auto" => Ok(Self::Auto),
            "uring" => Ok(Self::Uring),
            "direct" => Ok(Self::Direct),
            "buffered" => Ok(Self::Buffered),
            "mmap" => Ok(Self::Mmap),
            _ => Err(Error::UnknownEngine {
                name: name.to_owned(),
            }),
        }
    }
}

/// How an engine reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IoOptions {
    /// Requests in flight that the engine is made for; more are taken and queued. Default 16, from
    /// 1 to 4096.
    pub queue_depth: usize,
    /// Pretend to a device of so many 10^9 bytes a second. Default none; more than 0.
    pub throttle_gbps: Option<f64>,
    /// Pretend that every read takes so long at least. Default and minimum 0.
    pub latency_us: u64,
    /// Whether engines that read past the page cache take from it a file that is there already.
    /// Default true.
    pub page_cache: bool,
    /// Whether memory given to [`IoEngine::register`] is registered. Default true: the same speed
    /// for less processor time, 2.4 instead of 3.7 ms/GB in huge pages and 5.4 instead of 45 in
    /// small ones (`bench_io`, reads of 8 MiB, 8 in flight, cold).
    pub registered_buffers: bool,
    /// Whether uring registers its files. Default false: at reads of 8 MiB, 128 KiB and 4 KiB it
    /// brought neither speed nor processor time (`bench_io`, nine interleaved pairs each).
    pub registered_files: bool,
}

impl Default for IoOptions {
    fn default() -> Self {
        Self {
            queue_depth: 16,
            throttle_gbps: None,
            latency_us: 0,
            page_cache: true,
            registered_buffers: true,
            registered_files: false,
        }
    }
}

impl IoOptions {
    fn check(&self) -> Result<(), Error> {
        if !(1..=4096).contains(&self.queue_depth) {
            return Err(Error::IoOption {
                option: "queue_depth",
                bounds: "from 1 to 4096",
                value: self.queue_depth.to_string(),
            });
        }
        match self.throttle_gbps {
            Some(gbps) if !(gbps.is_finite() && gbps > 0.0) => Err(Error::IoOption {
                option: "throttle_gbps",
                bounds: "more than 0",
                value: gbps.to_string(),
            }),
            _ => Ok(()),
        }
    }
}

// Refuse what would make the kernel or an engine write where it must not.
fn check_request(request: &ReadRequest, alignment: usize, files: usize) -> Result<(), Error> {
    let Buffer { ptr, nbytes } = request.buffer;
    let is_good = (request.file as usize) < files
        && request.offset.is_multiple_of(alignment as u64)
        && nbytes.is_multiple_of(alignment)
        && ptr.addr().is_multiple_of(alignment)
        && request.needed <= nbytes
        && request
            .offset
            .checked_add(nbytes as u64)
            .is_some_and(|end| end <= i64::MAX as u64);
    if is_good {
        return Ok(());
    }
    Err(Error::BadRequest {
        file: request.file,
        offset: request.offset,
        nbytes,
        needed: request.needed,
        alignment,
        files,
    })
}

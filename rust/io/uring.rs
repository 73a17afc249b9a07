//! The `uring` engine: reads past the page cache through io_uring, one entry per request.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use rustix::event::{EventfdFlags, eventfd};

use crate::error::Error;
use crate::io::source::Source;
use crate::io::transfer::{Step, Transfer};
use crate::io::{
    Buffer, Completion, IoEngine, IoOptions, PAGE_CACHE, ReadRequest, Waker, check_request, direct,
};

/// The engine's name.
pub(crate) const NAME: &str = "uring";

// Of the entry that waits for the eventfd; requests have their index in `transfers`.
const WAKE_TOKEN: u64 = u64::MAX;
// The kernel registers no larger buffer.
const MAX_REGISTERED: usize = 1 << 30;

/// The engine.
pub(crate) struct Uring {
    ring: IoUring,
    sources: Vec<Source>,
    has_registered_files: bool,
    wants_registered_buffers: bool,
    // Each its start and end.
    registered_buffers: Vec<(usize, usize)>,
    alignment: usize,
    // Reads in flight, by the token of their entries.
    transfers: Vec<Option<Transfer>>,
    unused: Vec<usize>,
    // Tokens of reads that the page cache may have.
    hot: VecDeque<usize>,
    // Entries that the kernel does not have yet.
    waiting: VecDeque<squeue::Entry>,
    // Reads that it has.
    reading: usize,
    most_reading: usize,
    bell: Arc<Bell>,
    is_bell_armed: bool,
    // The kernel lets one thread submit: the one that begins.
    owner: Option<ThreadId>,
    process: u32,
}

struct Bell {
    event: OwnedFd,
}

impl Waker for Bell {
    fn wake(&self) {
        // Refused only when it has been rung 2^64 times unheard.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }
}

impl Uring {
    pub(crate) fn open(
        paths: &[PathBuf],
        has_residue: bool,
        options: &IoOptions,
    ) -> Result<Self, Error> {
        let sources = direct::sources(paths, NAME, has_residue, options)?;
        let path = paths.first().map_or(Path::new(""), PathBuf::as_path);
        let unavailable = |what: &str, error: io::Error| Error::EngineUnavailable {
            engine: NAME,
            path: path.to_owned(),
            reason: reason(what, &error),
        };
        let entries = options.queue_depth.next_power_of_two() as u32;
        let ring = build(entries).map_err(|error| unavailable("io_uring_setup", error))?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| unavailable("eventfd", errno.into()))?;
        let files: Vec<_> = sources
            .iter()
            .map(|source| source.file.as_raw_fd())
            .collect();
        // Refused where there are more than descriptors may be: the reads are the same without.
        let has_registered_files = options.registered_files
            && !files.is_empty()
            && ring.submitter().register_files(&files).is_ok();
        Ok(Self {
            has_registered_files,
            wants_registered_buffers: options.registered_buffers,
            registered_buffers: Vec::new(),
            hot: VecDeque::new(),
            reading: 0,
            most_reading: ring.params().cq_entries() as usize - 1,
            ring,
            alignment: sources
                .iter()
                .map(|source| source.alignment)
                .max()
                .unwrap_or(1),
            sources,
            transfers: Vec::new(),
            unused: Vec::new(),
            waiting: VecDeque::new(),
            bell: Arc::new(Bell { event }),
            is_bell_armed: false,
            owner: None,
            process: std::process::id(),
        })
    }

    // The ring is made disabled so that the thread that uses it may be another than that which
    // opened it; from then on it is that one's.
    fn own(&mut self) -> Result<(), Error> {
        let here = thread::current().id();
        match self.owner {
            Some(owner) if owner == here => Ok(()),
            Some(_) => Err(Error::EngineFailed {
                reason: "uring is used by two threads".to_owned(),
            }),
            None => {
                self.ring
                    .submitter()
                    .register_enable_rings()
                    .map_err(|error| failed(&error))?;
                self.owner = Some(here);
                Ok(())
            }
        }
    }

    fn push_read(&mut self, token: usize) {
        let transfer = self.transfers[token].as_ref().expect("its token is in use");
        let file = transfer.request().file;
        let (fd, flags) = if self.has_registered_files {
            (Fd(file as i32), squeue::Flags::FIXED_FILE)
        } else {
            let fd = self.sources[file as usize].file.as_raw_fd();
            (Fd(fd), squeue::Flags::empty())
        };
        // At most 1 GiB, says the transfer.
        let (ptr, nbytes, offset) = (transfer.ptr(), transfer.nbytes(), transfer.offset());
        let entry = match self.registered_buffer(ptr.addr(), nbytes) {
            Some(index) => opcode::ReadFixed::new(fd, ptr, nbytes as u32, index)
                .offset(offset)
                .build(),
            None => opcode::Read::new(fd, ptr, nbytes as u32)
                .offset(offset)
                .build(),
        };
        self.waiting
            .push_back(entry.flags(flags).user_data(token as u64));
    }

    // The registered buffer that a read lies in.
    fn registered_buffer(&self, start: usize, nbytes: usize) -> Option<u16> {
        let is_around = |&(begin, end): &(usize, usize)| begin <= start && start + nbytes <= end;
        let index = self.registered_buffers.iter().position(is_around)?;
        u16::try_from(index).ok()
    }

    // Take a read from the page cache, or else give it to the kernel.
    fn read_hot(&mut self, token: usize, done: &mut Vec<Completion>) {
        let transfer = self.transfers[token].as_ref().expect("its token is in use");
        let request = transfer.request();
        // SAFETY: the memory of a read is promised until its completion; the kernel has none of it.
        let found = unsafe { self.sources[request.file as usize].read_hot(request) };
        match found {
            Some(nbytes) => self.complete(token, Ok(nbytes), done),
            None => self.push_read(token),
        }
    }

    fn complete(&mut self, token: usize, result: Result<usize, Error>, done: &mut Vec<Completion>) {
        if let Some(transfer) = self.transfers[token].take() {
            let token = transfer.request().token;
            done.push(Completion { token, result });
        }
        self.unused.push(token);
    }

    fn arm_bell(&mut self) {
        if !self.is_bell_armed {
            let fd = Fd(self.bell.event.as_raw_fd());
            let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
            self.waiting.push_front(entry.user_data(WAKE_TOKEN));
            self.is_bell_armed = true;
        }
    }

    // Give the kernel what waits; then wait for `want` completions, at most until `timeout`.
    fn enter(&mut self, want: usize, timeout: Option<Duration>) -> Result<(), Error> {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.waiting.front() {
            // Never more than the completion queue holds, less one for the bell, which waits first.
            let is_read = entry.get_user_data() != WAKE_TOKEN;
            if queue.is_full() || (is_read && self.reading >= self.most_reading) {
                break;
            }
            // SAFETY: the memory of a read is promised until its completion; the files and the
            // eventfd are closed after the ring.
            let pushed = unsafe { queue.push(entry) };
            pushed.expect("the queue is not full");
            self.reading += usize::from(is_read);
            self.waiting.pop_front();
        }
        drop(queue);
        let timespec = timeout.map(Timespec::from);
        let mut args = SubmitArgs::new();
        if let Some(timespec) = &timespec {
            args = args.timespec(timespec);
        }
        match self.ring.submitter().submit_with_args(want, &args) {
            Ok(_) => Ok(()),
            // A signal; no completion in time; completions to be taken first.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(failed(&error)),
        }
    }

    // Take what the kernel has completed; whether the bell rang.
    fn reap(&mut self, done: &mut Vec<Completion>) -> bool {
        let mut is_woken = false;
        let ended: Vec<_> = self
            .ring
            .completion()
            .map(|entry| (entry.user_data(), entry.result()))
            .collect();
        for (token, result) in ended {
            if token == WAKE_TOKEN {
                self.is_bell_armed = false;
                is_woken = true;
                let _ = rustix::io::read(&self.bell.event, &mut [0_u8; 8]);
                continue;
            }
            self.reading -= 1;
            let token = token as usize;
            let Some(transfer) = self.transfers.get_mut(token).and_then(Option::as_mut) else {
                continue;
            };
            let source = &self.sources[transfer.request().file as usize];
            let result = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
            let result = match transfer.advance(result, source.alignment, source) {
                Step::Read => {
                    self.push_read(token);
                    continue;
                }
                Step::Done(nbytes) => Ok(nbytes),
                Step::Failed(error) => Err(error),
            };
            let request = transfer.request();
            source.leave(request.offset, request.buffer.nbytes);
            self.complete(token, result, done);
        }
        is_woken
    }

    // Forget reads that the kernel does not have.
    fn forget_waiting(&mut self) {
        for token in std::mem::take(&mut self.hot) {
            self.transfers[token] = None;
            self.unused.push(token);
        }
        for entry in std::mem::take(&mut self.waiting) {
            if entry.get_user_data() != WAKE_TOKEN {
                let token = entry.get_user_data() as usize;
                self.transfers[token] = None;
                self.unused.push(token);
            }
        }
    }

    // Wait for what the kernel still writes to.
    fn drain(&mut self) {
        // In a forked child the reads are the parent's.
        if self.process != std::process::id() {
            return;
        }
        let is_ours = self.owner == Some(thread::current().id());
        let mut done = Vec::new();
        loop {
            self.reap(&mut done);
            // Short reads are not continued for nobody.
            self.forget_waiting();
            if self.in_flight() == 0 {
                return;
            }
            if !is_ours || self.enter(1, None).is_err() {
                // The kernel completes without being asked, only less promptly.
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

impl IoEngine for Uring {
    fn name(&self) -> &'static str {
        NAME
    }

    fn alignment(&self) -> usize {
        self.alignment
    }

    fn submit(&mut self, request: ReadRequest) -> Result<(), Error> {
        check_request(&request, self.alignment, self.sources.len())?;
        self.own()?;
        let token = self.unused.pop().unwrap_or_else(|| {
            self.transfers.push(None);
            self.transfers.len() - 1
        });
        self.transfers[token] = Some(Transfer::new(request));
        if self.sources[request.file as usize].is_hot() {
            // Copied by `wait`: many submits in a row would keep the first bytes back.
            self.hot.push_back(token);
            return Ok(());
        }
        self.push_read(token);
        self.enter(0, None)
    }

    fn wait(&mut self, done: &mut Vec<Completion>, timeout: Option<Duration>) -> Result<(), Error> {
        self.own()?;
        self.arm_bell();
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let before = done.len();
        let mut has_looked = false;
        loop {
            let is_woken = self.reap(done);
            while !is_woken
                && done.len() == before
                && let Some(token) = self.hot.pop_front()
            {
                self.read_hot(token, done);
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let is_late = has_looked && left == Some(Duration::ZERO);
            if is_woken || is_late || done.len() > before {
                // The rests of short reads do not wait for the next call.
                return if self.waiting.is_empty() {
                    Ok(())
                } else {
                    self.enter(0, None)
                };
            }
            self.enter(1, left)?;
            has_looked = true;
        }
    }

    fn in_flight(&self) -> usize {
        self.transfers.len() - self.unused.len()
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::clone(&self.bell) as _
    }

    fn register(&mut self, memory: Buffer) {
        if !self.wants_registered_buffers || self.own().is_err() {
            return;
        }
        if !std::mem::take(&mut self.registered_buffers).is_empty() {
            let _ = self.ring.submitter().unregister_buffers();
        }
        let begin = memory.ptr.addr();
        let end = begin + memory.nbytes;
        let parts: Vec<_> = (begin..end)
            .step_by(MAX_REGISTERED)
            .map(|at| (at, end.min(at + MAX_REGISTERED)))
            .collect();
        let vectors: Vec<_> = parts
            .iter()
            .map(|&(at, end)| libc::iovec {
                iov_base: memory.ptr.wrapping_add(at - begin).cast(),
                iov_len: end - at,
            })
            .collect();
        // SAFETY: the caller promises the memory to the engine while it lives; the kernel holds its
        // pages by itself.
        let registered = unsafe { self.ring.submitter().register_buffers(&vectors) };
        if registered.is_ok() {
            self.registered_buffers = parts;
        }
    }

    fn features(&self) -> Vec<&'static str> {
        [
            ("registered files", self.has_registered_files),
            ("registered buffers", !self.registered_buffers.is_empty()),
            (PAGE_CACHE, self.sources.iter().any(Source::is_hot)),
        ]
        .into_iter()
        .filter_map(|(name, is_used)| is_used.then_some(name))
        .collect()
    }

    fn cached_bytes(&self) -> u64 {
        self.sources.iter().map(Source::cached_bytes).sum()
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.drain();
        // The kernel takes a closed ring apart when it has time; files and pages go back now.
        if self.process == std::process::id() {
            let submitter = self.ring.submitter();
            let _ = submitter.unregister_files();
            let _ = submitter.unregister_buffers();
        }
    }
}

// One thread submits, and completes whenever it enters the kernel, where the kernel knows that (6.0).
// Not DEFER_TASKRUN: completions would come only when that thread asks for them, and an engine that
// is dropped elsewhere could not wait for its reads.
fn build(entries: u32) -> io::Result<IoUring> {
    let mut best = IoUring::builder();
    best.setup_r_disabled();
    best.setup_single_issuer();
    best.setup_coop_taskrun();
    best.setup_taskrun_flag();
    best.build(entries).or_else(|error| {
        if error.raw_os_error() == Some(libc::EINVAL) {
            IoUring::builder().setup_r_disabled().build(entries)
        } else {
            Err(error)
        }
    })
}

fn failed(error: &io::Error) -> Error {
    Error::EngineFailed {
        reason: reason("io_uring_enter", error),
    }
}

fn reason(what: &str, error: &io::Error) -> String {
    let why = match error.raw_os_error() {
        Some(libc::ENOSYS) => "; this kernel has no io_uring",
        Some(libc::ENOMEM) => "; `ulimit -l` is small, or used up",
        Some(libc::EPERM | libc::EACCES) => {
            "; a container's seccomp profile or kernel.io_uring_disabled forbids it"
        }
        _ => "",
    };
    format!("{what}: {error}{why}")
}

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
use crate::io::{Completion, IoEngine, IoOptions, ReadRequest, Waker, check_request, direct};

/// The engine's name.
pub(crate) const NAME: &str = "uring";

// Of the entry that waits for the eventfd; requests have their index in `transfers`.
const WAKE_TOKEN: u64 = u64::MAX;

/// The engine.
pub(crate) struct Uring {
    ring: IoUring,
    sources: Vec<Source>,
    alignment: usize,
    // Reads in flight, by the token of their entries.
    transfers: Vec<Option<Transfer>>,
    unused: Vec<usize>,
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
    pub(crate) fn open(paths: &[PathBuf], options: &IoOptions) -> Result<Self, Error> {
        let sources: Vec<Source> = paths
            .iter()
            .map(|path| direct::source(path, NAME))
            .collect::<Result<_, _>>()?;
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
        Ok(Self {
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
        let source = &self.sources[transfer.request().file as usize];
        let fd = Fd(source.file.as_raw_fd());
        // At most 1 GiB, says the transfer.
        let read = opcode::Read::new(fd, transfer.ptr(), transfer.nbytes() as u32);
        let entry = read
            .offset(transfer.offset())
            .build()
            .user_data(token as u64);
        self.waiting.push_back(entry);
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
            done.push(Completion {
                token: transfer.request().token,
                result,
            });
            self.transfers[token] = None;
            self.unused.push(token);
        }
        is_woken
    }

    // Forget reads that the kernel does not have.
    fn forget_waiting(&mut self) {
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
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.drain();
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
        Some(libc::EPERM | libc::EACCES) => {
            "; a container's seccomp profile or kernel.io_uring_disabled forbids it"
        }
        _ => "",
    };
    format!("{what}: {error}{why}")
}

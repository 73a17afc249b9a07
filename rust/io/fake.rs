//! An engine over files in memory that misbehaves as it is told to, the same way for the same seed.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::io::transfer::{ReadFile, Step, Transfer};
use crate::io::{Completion, IoEngine, ReadRequest, Waker, check_request};
use crate::sync::{Condvar, Mutex, MutexGuard};

const NAME: &str = "fake";

// Lengths at which readers go wrong.
const SHORT_READS: [usize; 5] = [1, 511, 512, 4095, 4096];

/// What a read of the fake kernel does instead of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Is interrupted.
    Interrupted,
    /// Asks to be tried again.
    Again,
    /// Reads no more than so many bytes.
    Short(usize),
    /// Fails with this errno.
    Fails(i32),
    /// Claims more bytes than were asked for.
    Oversized,
    /// Does not end before [`FakeControl::release`].
    Stalls,
    /// Panics.
    Panics,
}

/// How a fake engine misbehaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Decides everything that is left to chance. Default 0.
    pub seed: u64,
    /// The engine's alignment. Default 4096, at least 1.
    pub alignment: usize,
    /// Chance in percent that a read is interrupted or asks to be tried again. Default 0, below 100.
    pub retry_percent: u8,
    /// Chance in percent that a read is short. Default 0, below 100.
    pub short_percent: u8,
    /// Whether requests end in any order. Default false.
    pub is_shuffled: bool,
    /// What single reads do, counted from 0 over all requests. Default none.
    pub at: Vec<(u64, Fault)>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            seed: 0,
            alignment: 4096,
            retry_percent: 0,
            short_percent: 0,
            is_shuffled: false,
            at: Vec::new(),
        }
    }
}

/// The engine.
pub struct FakeEngine {
    faults: Faults,
    random: Random,
    files: usize,
    pending: VecDeque<Transfer>,
    stalled: Vec<Transfer>,
    control: FakeControl,
}

/// The test's side of the engine.
#[derive(Clone)]
pub struct FakeControl {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    files: Vec<Vec<u8>>,
    reads: u64,
    is_woken: bool,
    is_released: bool,
}

impl FakeEngine {
    /// An engine over `files`.
    #[must_use]
    pub fn new(files: Vec<Vec<u8>>, faults: Faults) -> Self {
        Self {
            random: Random(faults.seed),
            faults,
            files: files.len(),
            pending: VecDeque::new(),
            stalled: Vec::new(),
            control: FakeControl {
                shared: Arc::new(Shared {
                    state: Mutex::new(State {
                        files,
                        reads: 0,
                        is_woken: false,
                        is_released: false,
                    }),
                    changed: Condvar::new(),
                }),
            },
        }
    }

    /// A handle that stays good when the engine has moved into a thread.
    #[must_use]
    pub fn control(&self) -> FakeControl {
        self.control.clone()
    }

    fn fault(&mut self, read: u64) -> Option<Fault> {
        if let Some(&(_, fault)) = self.faults.at.iter().find(|&&(at, _)| at == read) {
            return Some(fault);
        }
        if self.random.below(100) < u64::from(self.faults.retry_percent) {
            let is_again = self.random.below(2) == 0;
            return Some(if is_again {
                Fault::Again
            } else {
                Fault::Interrupted
            });
        }
        if self.random.below(100) < u64::from(self.faults.short_percent) {
            let length = SHORT_READS[self.random.below(SHORT_READS.len() as u64) as usize];
            return Some(Fault::Short(length));
        }
        None
    }

    // One read of the fake kernel for one of the pending transfers.
    fn step(&mut self, done: &mut Vec<Completion>) {
        let picked = if self.faults.is_shuffled {
            self.random.below(self.pending.len() as u64) as usize
        } else {
            0
        };
        let Some(mut transfer) = self.pending.remove(picked) else {
            return;
        };
        let control = self.control.clone();
        let mut state = control.lock();
        let read = state.reads;
        state.reads += 1;
        let errno = |errno| Err(io::Error::from_raw_os_error(errno));
        let result = match self.fault(read) {
            Some(Fault::Interrupted) => Err(io::ErrorKind::Interrupted.into()),
            Some(Fault::Again) => Err(io::ErrorKind::WouldBlock.into()),
            Some(Fault::Fails(number)) => errno(number),
            Some(Fault::Oversized) => Ok(transfer.nbytes() + 1),
            Some(Fault::Stalls) => {
                self.stalled.push(transfer);
                return;
            }
            Some(Fault::Panics) => {
                panic!("read {read} of the fake engine panics, as it was told to")
            }
            Some(Fault::Short(most)) => Ok(state.read(&transfer, most)),
            None => Ok(state.read(&transfer, usize::MAX)),
        };
        let index = transfer.request().file;
        let nbytes = state.files[index as usize].len() as u64;
        drop(state);
        let file = FakeFile {
            path: PathBuf::from(format!("fake-{index}")),
            nbytes,
        };
        let result = match transfer.advance(result, self.faults.alignment, &file) {
            Step::Read => return self.pending.push_front(transfer),
            Step::Done(nbytes) => Ok(nbytes),
            Step::Failed(error) => Err(error),
        };
        done.push(Completion {
            token: transfer.request().token,
            result,
        });
    }
}

impl IoEngine for FakeEngine {
    fn name(&self) -> &'static str {
        NAME
    }

    fn alignment(&self) -> usize {
        self.faults.alignment
    }

    fn submit(&mut self, request: ReadRequest) -> Result<(), Error> {
        check_request(&request, self.faults.alignment, self.files)?;
        self.pending.push_back(Transfer::new(request));
        Ok(())
    }

    fn wait(&mut self, done: &mut Vec<Completion>, timeout: Option<Duration>) -> Result<(), Error> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let before = done.len();
        loop {
            let control = self.control.clone();
            let mut state = control.lock();
            if std::mem::take(&mut state.is_released) {
                self.pending.extend(self.stalled.drain(..));
            }
            let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if std::mem::take(&mut state.is_woken) || done.len() > before {
                return Ok(());
            }
            if self.pending.is_empty() {
                if is_late {
                    return Ok(());
                }
                // Whoever changes something says so.
                let changed = &control.shared.changed;
                let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
                match left {
                    Some(left) => drop(changed.wait_timeout(state, left)),
                    None => drop(changed.wait(state)),
                }
                continue;
            }
            drop(state);
            for _ in 0..=self.random.below(self.pending.len() as u64) {
                if !self.pending.is_empty() {
                    self.step(done);
                }
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.pending.len() + self.stalled.len()
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::new(self.control())
    }
}

impl FakeControl {
    /// Let reads end that have stalled.
    pub fn release(&self) {
        self.lock().is_released = true;
        self.shared.changed.notify_all();
    }

    /// Cut a file off, as somebody else might while it is open.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn truncate(&self, file: u32, nbytes: usize) {
        self.lock().files[file as usize].truncate(nbytes);
    }

    /// Reads that the fake kernel has been asked for.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.lock().reads
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Waker for FakeControl {
    fn wake(&self) {
        self.lock().is_woken = true;
        self.shared.changed.notify_all();
    }
}

impl State {
    fn read(&self, transfer: &Transfer, most: usize) -> usize {
        let file = &self.files[transfer.request().file as usize];
        let start = usize::try_from(transfer.offset())
            .unwrap_or(usize::MAX)
            .min(file.len());
        let nbytes = (file.len() - start).min(transfer.nbytes()).min(most);
        // SAFETY: the transfer's memory has room for `nbytes`, and is the engine's until the
        // request completes.
        unsafe {
            transfer
                .ptr()
                .copy_from_nonoverlapping(file[start..].as_ptr(), nbytes)
        };
        nbytes
    }
}

struct FakeFile {
    path: PathBuf,
    nbytes: u64,
}

impl ReadFile for FakeFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn engine(&self) -> &'static str {
        NAME
    }

    fn nbytes(&self) -> io::Result<u64> {
        Ok(self.nbytes)
    }
}

// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % limit.max(1)
    }
}

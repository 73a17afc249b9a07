//! An engine that the test drives by hand: it completes reads when it is told to, and misbehaves.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use airllm_rs::error::Error;
use airllm_rs::extent::{Extent, Part};
use airllm_rs::io::{Completion, IoEngine, ReadRequest, Waker};
use airllm_rs::readahead::{Opener, Options, Readahead, Source, Unit};

/// Long enough for any machine; only a failing test waits for so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Fails,
    Lies,
    Panics,
}

#[derive(Default)]
struct Inner {
    pending: Vec<ReadRequest>,
    /// (file, offset, nbytes) of every read submitted.
    submitted: Vec<(u32, u64, usize)>,
    most_in_flight: usize,
    permits: usize,
    stalled_files: Vec<u32>,
    newest_first: bool,
    faults: HashMap<usize, Fault>,
    is_woken: bool,
    /// The thread waits, and will until the test does something.
    is_waiting: bool,
    opened: usize,
    dropped: usize,
}

impl Inner {
    // Which of the pending reads ends next.
    fn next(&self) -> Option<usize> {
        let may_end =
            |request: &ReadRequest| self.permits > 0 && !self.stalled_files.contains(&request.file);
        if self.newest_first {
            self.pending.iter().rposition(may_end)
        } else {
            self.pending.iter().position(may_end)
        }
    }
}

/// The test's side of the engine.
#[derive(Clone, Default)]
pub(crate) struct Hand {
    files: Arc<Vec<Vec<u8>>>,
    devices: Arc<Vec<u32>>,
    inner: Arc<(Mutex<Inner>, Condvar)>,
    is_changed: Arc<AtomicBool>,
}

struct Handled {
    hand: Hand,
}

impl Hand {
    /// An engine over `files` that completes whatever is submitted.
    pub(crate) fn open(files: Vec<Vec<u8>>) -> Self {
        let hand = Self {
            files: Arc::new(files),
            ..Self::default()
        };
        hand.allow(usize::MAX);
        hand
    }

    /// An engine over `files` that completes nothing yet.
    pub(crate) fn shut(files: Vec<Vec<u8>>) -> Self {
        Self {
            files: Arc::new(files),
            ..Self::default()
        }
    }

    /// The device of each file.
    pub(crate) fn on_devices(mut self, devices: &[u32]) -> Self {
        self.devices = Arc::new(devices.to_vec());
        self
    }

    /// From now on reads of these files do not end.
    pub(crate) fn stall(&self, files: &[u32]) {
        self.lock().stalled_files = files.to_vec();
        self.inner.1.notify_all();
    }

    /// Complete that many reads more.
    pub(crate) fn allow(&self, reads: usize) {
        let mut inner = self.lock();
        inner.permits = inner.permits.saturating_add(reads);
        self.inner.1.notify_all();
    }

    /// Let the `number`-th read, from 0, end so.
    pub(crate) fn spoil(&self, number: usize, fault: Fault) {
        self.lock().faults.insert(number, fault);
    }

    /// Let the read after `ahead` more end so.
    pub(crate) fn spoil_later(&self, ahead: usize, fault: Fault) {
        let mut inner = self.lock();
        let number = inner.submitted.len() + ahead;
        inner.faults.insert(number, fault);
    }

    pub(crate) fn complete_newest_first(&self) {
        self.lock().newest_first = true;
    }

    /// From now on the files are not what they were.
    pub(crate) fn change_files(&self) {
        self.is_changed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn submitted(&self) -> Vec<(u32, u64, usize)> {
        self.lock().submitted.clone()
    }

    pub(crate) fn most_in_flight(&self) -> usize {
        self.lock().most_in_flight
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.lock().pending.len()
    }

    pub(crate) fn in_flight_of(&self, file: u32) -> usize {
        let inner = self.lock();
        let reads = inner.pending.iter();
        reads.filter(|request| request.file == file).count()
    }

    /// Wait until exactly that many reads are in flight and the thread waits for them.
    pub(crate) fn wait_for_in_flight(&self, reads: usize) {
        drop(self.wait_for(|inner| inner.is_waiting && inner.pending.len() == reads));
    }

    /// Wait until nothing is in flight and the thread sleeps.
    pub(crate) fn wait_for_idle(&self) {
        self.wait_for_in_flight(0);
    }

    pub(crate) fn opened(&self) -> usize {
        self.lock().opened
    }

    /// Wait until that many reads have been submitted in all; what they were.
    pub(crate) fn wait_for_submitted(&self, reads: usize) -> Vec<(u32, u64, usize)> {
        self.wait_for(|inner| inner.submitted.len() >= reads)
            .submitted
            .clone()
    }

    /// Wait until engines have been dropped so many times.
    pub(crate) fn wait_for_dropped(&self, times: usize) {
        drop(self.wait_for(|inner| inner.dropped >= times));
    }

    pub(crate) fn opener(&self) -> Box<Opener> {
        let hand = self.clone();
        Box::new(move || {
            hand.lock().opened += 1;
            let is_changed = Arc::clone(&hand.is_changed);
            let identity = move || {
                if is_changed.load(Ordering::SeqCst) {
                    return Err(Error::CheckpointChanged {
                        path: PathBuf::from("a.safetensors"),
                    });
                }
                Ok(())
            };
            Ok(Source {
                engine: Box::new(Handled { hand: hand.clone() }),
                identity: Box::new(identity),
                devices: hand.devices.to_vec(),
            })
        })
    }

    /// Bytes of a file.
    pub(crate) fn expected(&self, extent: Extent) -> &[u8] {
        let start = extent.offset as usize;
        &self.files[extent.file as usize][start..start + extent.nbytes as usize]
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.0.lock().unwrap()
    }

    fn wait_for(&self, condition: impl Fn(&Inner) -> bool) -> MutexGuard<'_, Inner> {
        let waited = self
            .inner
            .1
            .wait_timeout_while(self.lock(), PATIENCE, |inner| !condition(inner));
        let (inner, timeout) = waited.unwrap();
        assert!(!timeout.timed_out(), "submitted {:?}", inner.submitted);
        inner
    }

    fn complete(&self, request: &ReadRequest, fault: Option<Fault>) -> Completion {
        let file = &self.files[request.file as usize];
        let start = (request.offset as usize).min(file.len());
        let available = (file.len() - start).min(request.buffer.nbytes);
        let nbytes = match fault {
            None => available,
            Some(Fault::Lies) => request.needed - 1,
            Some(Fault::Fails) => {
                let error = Error::Io {
                    source: std::io::Error::from_raw_os_error(5),
                    path: PathBuf::from("a.safetensors"),
                    offset: request.offset,
                    nbytes: request.buffer.nbytes as u64,
                    engine: "hand",
                };
                return Completion {
                    token: request.token,
                    result: Err(error),
                };
            }
            Some(Fault::Panics) => panic!("an engine that panics"),
        };
        // SAFETY: the buffer is valid until its completion is handed out, says the trait.
        unsafe { std::ptr::copy(file[start..].as_ptr(), request.buffer.ptr, nbytes) };
        Completion {
            token: request.token,
            result: Ok(nbytes),
        }
    }
}

impl Waker for Hand {
    fn wake(&self) {
        let mut inner = self.lock();
        inner.is_woken = true;
        inner.is_waiting = false;
        drop(inner);
        self.inner.1.notify_all();
    }
}

impl IoEngine for Handled {
    fn name(&self) -> &'static str {
        "hand"
    }

    fn alignment(&self) -> usize {
        512
    }

    fn submit(&mut self, request: ReadRequest) -> Result<(), Error> {
        assert_eq!(request.offset % 512, 0);
        assert_eq!(request.buffer.ptr as usize % 512, 0);
        assert_eq!(request.buffer.nbytes % 512, 0);
        assert!((1..=request.buffer.nbytes).contains(&request.needed));
        let mut inner = self.hand.lock();
        inner
            .submitted
            .push((request.file, request.offset, request.buffer.nbytes));
        inner.pending.push(request);
        inner.most_in_flight = inner.most_in_flight.max(inner.pending.len());
        self.hand.inner.1.notify_all();
        Ok(())
    }

    fn wait(&mut self, done: &mut Vec<Completion>, _: Option<Duration>) -> Result<(), Error> {
        let inner = self.hand.lock();
        let is_idle = |inner: &mut Inner| {
            inner.is_waiting = !inner.is_woken && inner.next().is_none();
            if inner.is_waiting {
                self.hand.inner.1.notify_all();
            }
            inner.is_waiting
        };
        let mut inner = self.hand.inner.1.wait_while(inner, is_idle).unwrap();
        inner.is_woken = false;
        while let Some(at) = inner.next() {
            inner.permits -= usize::from(inner.permits != usize::MAX);
            let request = inner.pending.remove(at);
            let read = (request.file, request.offset, request.buffer.nbytes);
            let number = inner.submitted.iter().rposition(|&other| other == read);
            let fault = number.and_then(|number| inner.faults.remove(&number));
            if matches!(fault, Some(Fault::Panics)) {
                drop(inner);
                panic!("an engine that panics");
            }
            done.push(self.hand.complete(&request, fault));
        }
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.hand.lock().pending.len()
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::new(self.hand.clone())
    }
}

impl Drop for Handled {
    fn drop(&mut self) {
        let mut inner = self.hand.lock();
        inner.pending.clear();
        inner.dropped += 1;
        self.hand.inner.1.notify_all();
    }
}

/// Bytes that repeat nowhere near.
pub(crate) fn noise(nbytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..nbytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// A part of one-byte items.
pub(crate) fn part(file: u32, offset: u64, nbytes: u64) -> Part {
    Part {
        extent: Extent {
            file,
            offset,
            nbytes,
        },
        item_size: 1,
    }
}

/// `count` units of `nbytes` each, one after the other in file 0.
pub(crate) fn row(count: u64, nbytes: u64) -> Vec<Unit> {
    (0..count)
        .map(|index| Unit {
            name: format!("layers.{index}"),
            parts: vec![part(0, index * nbytes, nbytes)],
        })
        .collect()
}

/// A readahead whose ring holds `units_in_ring` of `units`, all of 4096 bytes.
pub(crate) fn small(hand: &Hand, count: u64, residents: &[u32], units_in_ring: usize) -> Readahead {
    let options = Options {
        ring_bytes: units_in_ring * 4096,
        request_bytes: 4096,
        queue_depth: 4,
        ..Options::default()
    };
    Readahead::new(row(count, 4096), residents, options, hand.opener()).unwrap()
}

/// One file for `count` units of 4096 bytes.
pub(crate) fn file(count: usize) -> Vec<Vec<u8>> {
    vec![noise(count * 4096, 1)]
}

/// The units that reads of 4096 bytes were for.
pub(crate) fn units_of(submitted: &[(u32, u64, usize)]) -> Vec<u64> {
    submitted
        .iter()
        .map(|&(_, offset, _)| offset / 4096)
        .collect()
}

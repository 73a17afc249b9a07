//! Counters of one readahead, readable at any time from any thread.

use std::fs::File;
use std::time::{Duration, Instant};

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Counters, as they were when asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes that arrived, over-read included.
    pub bytes_read: u64,
    /// Reads that were submitted.
    pub requests: u64,
    /// Time with at least one read in flight.
    pub busy_ns: u64,
    /// Time the consumer waited.
    pub stall_ns: u64,
    /// Streamed units that were taken.
    pub units: u64,
    /// Highest anonymous memory of the process seen when a unit was complete, in bytes.
    pub peak_anon_bytes: u64,
    /// Bytes of the residents that are in place.
    pub resident_bytes_loaded: u64,
}

/// The counters themselves. All accesses are Relaxed: each is a sum of its own, none guards data.
#[derive(Debug)]
pub(crate) struct Counters {
    epoch: Instant,
    statm: Option<File>,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) stall_ns: AtomicU64,
    pub(crate) units: AtomicU64,
    pub(crate) resident_bytes: AtomicU64,
    busy_ns: AtomicU64,
    // Nanoseconds since the epoch, 0 for never.
    busy_since: AtomicU64,
    progress_at: AtomicU64,
    oldest_file: AtomicU32,
    peak_anon_bytes: AtomicU64,
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            statm: File::open("/proc/self/statm").ok(),
            bytes_read: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            stall_ns: AtomicU64::new(0),
            units: AtomicU64::new(0),
            resident_bytes: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            busy_since: AtomicU64::new(0),
            progress_at: AtomicU64::new(0),
            oldest_file: AtomicU32::new(0),
            peak_anon_bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn add_time(counter: &AtomicU64, time: Duration) {
        Self::add(counter, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// A resident was given up.
    pub(crate) fn forget_resident(&self, nbytes: usize) {
        self.resident_bytes
            .fetch_sub(nbytes as u64, Ordering::Relaxed);
    }

    /// I/O thread: reads are in flight, the oldest of them of file `oldest`, or none are.
    pub(crate) fn note_flight(&self, oldest: Option<u32>) {
        let now = self.now();
        let since = self.busy_since.load(Ordering::Relaxed);
        if let Some(file) = oldest {
            self.oldest_file.store(file, Ordering::Relaxed);
            if since == 0 {
                self.progress_at.store(now, Ordering::Relaxed);
                self.busy_since.store(now, Ordering::Relaxed);
            }
        } else if since != 0 {
            self.busy_since.store(0, Ordering::Relaxed);
            Self::add(&self.busy_ns, now.saturating_sub(since));
        }
    }

    /// I/O thread: a read ended.
    pub(crate) fn note_progress(&self) {
        self.progress_at.store(self.now(), Ordering::Relaxed);
    }

    /// The file of the oldest read in flight and for how long no read has ended, if any is.
    pub(crate) fn silence(&self) -> Option<(u32, Duration)> {
        if self.busy_since.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let since = self.progress_at.load(Ordering::Relaxed);
        let silent = Duration::from_nanos(self.now().saturating_sub(since));
        Some((self.oldest_file.load(Ordering::Relaxed), silent))
    }

    /// Look at the memory of the process.
    pub(crate) fn sample_memory(&self) {
        if let Some(bytes) = self.statm.as_ref().and_then(anonymous_bytes) {
            self.peak_anon_bytes.fetch_max(bytes, Ordering::Relaxed);
        }
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let since = self.busy_since.load(Ordering::Relaxed);
        let open = if since == 0 {
            0
        } else {
            self.now().saturating_sub(since)
        };
        Stats {
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            busy_ns: self.busy_ns.load(Ordering::Relaxed) + open,
            stall_ns: self.stall_ns.load(Ordering::Relaxed),
            units: self.units.load(Ordering::Relaxed),
            peak_anon_bytes: self.peak_anon_bytes.load(Ordering::Relaxed),
            resident_bytes_loaded: self.resident_bytes.load(Ordering::Relaxed),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos())
            .unwrap_or(u64::MAX)
            .max(1)
    }
}

#[cfg(target_os = "linux")]
fn anonymous_bytes(statm: &File) -> Option<u64> {
    use std::os::unix::fs::FileExt;

    let mut text = [0; 128];
    let length = statm.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..length)?).ok()?;
    // Pages: size, resident, shared, …
    let mut pages = text
        .split_ascii_whitespace()
        .skip(1)
        .map_while(|word| word.parse().ok());
    let (resident, shared): (u64, u64) = (pages.next()?, pages.next()?);
    Some(resident.saturating_sub(shared) * rustix::param::page_size() as u64)
}

#[cfg(not(target_os = "linux"))]
fn anonymous_bytes(_: &File) -> Option<u64> {
    None
}

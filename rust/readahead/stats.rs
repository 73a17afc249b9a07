//! Counters of one readahead, readable at any time from any thread.

use std::fs::File;
use std::time::Duration;

use crate::readahead::clock;
use crate::readahead::tuner::Tuner;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// Counters, as they were when asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Bytes that arrived, over-read included.
    pub bytes_read: u64,
    /// Bytes of those that came from the page cache, by an engine that reads past it.
    pub cached_bytes: u64,
    /// What the engine makes use of: `"registered buffers"` and others.
    pub features: Vec<&'static str>,
    /// Reads that were submitted.
    pub requests: u64,
    /// Time with at least one read in flight.
    pub busy_ns: u64,
    /// Time with none in flight although the schedule had more: there was no room, because of the
    /// consumer.
    pub ring_full_ns: u64,
    /// Time the consumer waited.
    pub stall_ns: u64,
    /// Units that were taken, residents included.
    pub takes: u64,
    /// Takes that had to wait.
    pub waits: u64,
    /// Streamed units that were taken.
    pub units: u64,
    /// Highest anonymous memory of the process seen when a unit was complete, in bytes.
    pub peak_anon_bytes: u64,
    /// Bytes of the residents that are in place.
    pub resident_bytes_loaded: u64,
    /// Events of the trace that were lost because it was full.
    pub trace_dropped: u64,
    /// One entry per device, in the order in which the files name them first.
    pub devices: Vec<DeviceStats>,
}

/// How one device is read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeviceStats {
    /// Bytes that arrived from it.
    pub bytes_read: u64,
    /// The longest read, in bytes: the best found so far.
    pub request_bytes: usize,
    /// Reads in flight: the best found so far.
    pub queue_depth: usize,
    /// Whether both are the result of measurements.
    pub is_tuned: bool,
    /// Its rate while its queue was full, in 10^9 bytes a second; 0 before it was measured.
    pub gbps: f64,
}

impl Stats {
    /// The device that most bytes came from; the first if none did.
    #[must_use]
    pub fn main_device(&self) -> DeviceStats {
        let better = |best: DeviceStats, device: &DeviceStats| {
            if device.bytes_read > best.bytes_read {
                *device
            } else {
                best
            }
        };
        let first = self.devices.first().copied().unwrap_or_default();
        self.devices.iter().fold(first, better)
    }
}

/// The counters themselves. All accesses are Relaxed: each is a sum of its own, none guards data.
#[derive(Debug)]
pub(crate) struct Counters {
    statm: Option<File>,
    devices: Box<[Device]>,
    pub(crate) requests: AtomicU64,
    pub(crate) stall_ns: AtomicU64,
    pub(crate) takes: AtomicU64,
    pub(crate) waits: AtomicU64,
    pub(crate) units: AtomicU64,
    pub(crate) resident_bytes: AtomicU64,
    cached_bytes: AtomicU64,
    features: Mutex<Vec<&'static str>>,
    busy: Stopwatch,
    ring_full: Stopwatch,
    peak_anon_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Device {
    bytes_read: AtomicU64,
    request_bytes: AtomicUsize,
    queue_depth: AtomicUsize,
    is_tuned: AtomicBool,
    gbps_bits: AtomicU64,
    // When a read ended last, or the first of those in flight was submitted; 0 if none is.
    progress_ns: AtomicU64,
    oldest_file: AtomicU32,
}

/// Time in one condition, switched by one thread and readable by all.
#[derive(Debug, Default)]
struct Stopwatch {
    total_ns: AtomicU64,
    // 0 while it stands still.
    since_ns: AtomicU64,
}

impl Stopwatch {
    fn set(&self, runs: bool, now: u64) {
        let since = self.since_ns.load(Ordering::Relaxed);
        if runs && since == 0 {
            self.since_ns.store(now, Ordering::Relaxed);
        } else if !runs && since != 0 {
            self.since_ns.store(0, Ordering::Relaxed);
            Counters::add(&self.total_ns, now.saturating_sub(since));
        }
    }

    fn read(&self, now: u64) -> u64 {
        let since = self.since_ns.load(Ordering::Relaxed);
        let open = if since == 0 {
            0
        } else {
            now.saturating_sub(since)
        };
        self.total_ns.load(Ordering::Relaxed) + open
    }
}

impl Counters {
    pub(crate) fn new(devices: usize) -> Self {
        Self {
            statm: File::open("/proc/self/statm").ok(),
            devices: (0..devices).map(|_| Device::default()).collect(),
            requests: AtomicU64::new(0),
            stall_ns: AtomicU64::new(0),
            takes: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            units: AtomicU64::new(0),
            resident_bytes: AtomicU64::new(0),
            cached_bytes: AtomicU64::new(0),
            features: Mutex::new(Vec::new()),
            busy: Stopwatch::default(),
            ring_full: Stopwatch::default(),
            peak_anon_bytes: AtomicU64::new(0),
        }
    }

    /// I/O thread: what the engine makes use of.
    pub(crate) fn note_features(&self, features: Vec<&'static str>) {
        *self.features() = features;
    }

    fn features(&self) -> MutexGuard<'_, Vec<&'static str>> {
        self.features
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Bytes that came from the page cache.
    pub(crate) fn cached_bytes(&self) -> u64 {
        self.cached_bytes.load(Ordering::Relaxed)
    }

    /// I/O thread: so many bytes came from the page cache by now.
    pub(crate) fn note_cached_bytes(&self, nbytes: u64) {
        self.cached_bytes.store(nbytes, Ordering::Relaxed);
    }

    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn add_time(counter: &AtomicU64, time: Duration) {
        Self::add(counter, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Count one more, where only one thread at a time does: no locked instruction.
    pub(crate) fn count_alone(counter: &AtomicU64) {
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// A resident was given up.
    pub(crate) fn forget_resident(&self, nbytes: usize) {
        self.resident_bytes
            .fetch_sub(nbytes as u64, Ordering::Relaxed);
    }

    /// I/O thread: reads of a device are in flight, the oldest of them of file `oldest`, or none.
    pub(crate) fn note_flight(&self, device: usize, oldest: Option<u32>, now: u64) {
        let Some(device) = self.devices.get(device) else {
            return;
        };
        match oldest {
            Some(file) => {
                device.oldest_file.store(file, Ordering::Relaxed);
                if device.progress_ns.load(Ordering::Relaxed) == 0 {
                    device.progress_ns.store(now, Ordering::Relaxed);
                }
            }
            None => device.progress_ns.store(0, Ordering::Relaxed),
        }
    }

    /// I/O thread: whether any read is in flight, and whether none is for want of room.
    pub(crate) fn note_busy(&self, is_busy: bool, is_ring_full: bool, now: u64) {
        self.busy.set(is_busy, now);
        self.ring_full.set(is_ring_full, now);
    }

    /// I/O thread: a read of a device ended.
    pub(crate) fn note_arrival(&self, device: usize, nbytes: u64, now: u64) {
        if let Some(device) = self.devices.get(device) {
            device.progress_ns.store(now, Ordering::Relaxed);
            Self::add(&device.bytes_read, nbytes);
        }
    }

    /// I/O thread: what the tuner of a device says.
    pub(crate) fn note_tuner(&self, device: usize, tuner: &Tuner) {
        if let Some(device) = self.devices.get(device) {
            let kept = tuner.kept();
            let store = |to: &AtomicUsize, value| to.store(value, Ordering::Relaxed);
            store(&device.request_bytes, kept.request_bytes);
            store(&device.queue_depth, kept.queue_depth);
            device.is_tuned.store(tuner.is_tuned(), Ordering::Relaxed);
            let bits = tuner.gbps().to_bits();
            device.gbps_bits.store(bits, Ordering::Relaxed);
        }
    }

    /// The device that has been silent for longest with reads in flight: the file of the oldest of
    /// them, and for how long.
    pub(crate) fn silence(&self) -> Option<(u32, Duration)> {
        let now = clock::now_ns();
        let silent = |device: &Device| {
            let since = device.progress_ns.load(Ordering::Relaxed);
            let file = device.oldest_file.load(Ordering::Relaxed);
            (since != 0).then(|| (file, Duration::from_nanos(now.saturating_sub(since))))
        };
        let silences = self.devices.iter().filter_map(silent);
        silences.max_by_key(|&(_, lasted)| lasted)
    }

    /// Look at the memory of the process.
    pub(crate) fn sample_memory(&self) {
        if let Some(bytes) = self.statm.as_ref().and_then(anonymous_bytes) {
            self.peak_anon_bytes.fetch_max(bytes, Ordering::Relaxed);
        }
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let now = clock::now_ns();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let devices: Vec<DeviceStats> = self.devices.iter().map(Device::snapshot).collect();
        Stats {
            bytes_read: devices.iter().map(|device| device.bytes_read).sum(),
            cached_bytes: read(&self.cached_bytes),
            features: self.features().clone(),
            requests: read(&self.requests),
            busy_ns: self.busy.read(now),
            ring_full_ns: self.ring_full.read(now),
            stall_ns: read(&self.stall_ns),
            takes: read(&self.takes),
            waits: read(&self.waits),
            units: read(&self.units),
            peak_anon_bytes: read(&self.peak_anon_bytes),
            resident_bytes_loaded: read(&self.resident_bytes),
            trace_dropped: 0,
            devices,
        }
    }
}

impl Device {
    fn snapshot(&self) -> DeviceStats {
        DeviceStats {
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            request_bytes: self.request_bytes.load(Ordering::Relaxed),
            queue_depth: self.queue_depth.load(Ordering::Relaxed),
            is_tuned: self.is_tuned.load(Ordering::Relaxed),
            gbps: f64::from_bits(self.gbps_bits.load(Ordering::Relaxed)),
        }
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

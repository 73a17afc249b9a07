//! How to read ahead, what and from where.

use crate::error::Error;
use crate::extent::Part;
use crate::io::IoEngine;
use crate::readahead::ring::GRAIN;
use crate::readahead::tuner::{QUEUE_DEPTHS, Setting, Tuner};

/// How to read ahead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Memory for streamed units. Default 192 MiB; at least the largest unit that is scheduled, 0
    /// if none ever is.
    pub ring_bytes: usize,
    /// Longest read. Default 8 MiB; at least the engine's alignment, to which it is rounded.
    pub request_bytes: usize,
    /// Reads in flight from each device. Default 8, at least 1.
    pub queue_depth: usize,
    /// Look for a better request size and queue depth while reading, starting from those given.
    /// Default true.
    pub tune: bool,
    /// What the devices gave with these settings, in 10^9 bytes a second: they are kept, and
    /// looked for again once the rate is off by more than a third. Default none; more than 0.
    pub expected_gbps: Option<f64>,
    /// Record requests, waits and leases. Default false.
    pub trace: bool,
    /// Lock the memory, as far as the system allows: weights are then never swapped out. Default
    /// false.
    pub mlock: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ring_bytes: 192 << 20,
            request_bytes: 8 << 20,
            queue_depth: 8,
            tune: true,
            expected_gbps: None,
            trace: false,
            mlock: false,
        }
    }
}

impl Options {
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.expected_gbps {
            Some(gbps) if !(gbps.is_finite() && gbps > 0.0) => Err(Error::IoOption {
                option: "expected_gbps",
                bounds: "more than 0",
                value: gbps.to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// The ring in whole grains.
    pub(crate) fn ring_grains(&self) -> usize {
        self.ring_bytes - self.ring_bytes % GRAIN
    }

    /// Reads in flight from one device that an engine should be made for.
    #[must_use]
    pub fn most_in_flight(&self) -> usize {
        let [.., deepest] = QUEUE_DEPTHS;
        if self.tune || self.expected_gbps.is_some() {
            self.queue_depth.max(deepest)
        } else {
            self.queue_depth.max(1)
        }
    }

    /// What is known about a device before it was read from.
    pub(crate) fn tuner(&self) -> Tuner {
        let start = Setting {
            request_bytes: self.request_bytes,
            queue_depth: self.queue_depth,
        };
        // The other half of the ring is what the consumer holds and what lies ready for it.
        let most = match self.ring_grains() {
            0 => usize::MAX,
            ring => ring / 2,
        };
        match self.expected_gbps {
            None if self.tune => Tuner::new(start, most),
            expected => Tuner::fixed(start, most, expected),
        }
    }
}

/// A unit as it lies in the files.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    /// What messages call it.
    pub name: String,
    /// Its parts, in the order in which `offsets` tells where they are.
    pub parts: Vec<Part>,
}

/// Reports what changed in the opened files since they were opened.
pub type Identity = dyn Fn() -> Result<(), Error> + Send + Sync;

/// An engine with the opened files, and whether they are still what they were.
pub struct Source {
    /// Reads the files.
    pub engine: Box<dyn IoEngine>,
    /// Fails with `CheckpointChanged` once a file is not what it was when it was opened.
    pub identity: Box<Identity>,
    /// The device of each file: any numbers, equal where files share a device. Files past the end
    /// share the first one's. Of the first source of a readahead only.
    pub devices: Vec<u32>,
}

/// Opens the files, at first and again when the thread is needed after it had ended.
pub type Opener = dyn Fn() -> Result<Source, Error> + Send + Sync;

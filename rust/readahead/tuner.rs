//! Which request size and queue depth a device likes best, found from the rates of its reads.
//!
//! A walk over a small grid. The kept setting and one neighbour are measured in turn; a neighbour
//! that is clearly faster twice is kept instead. When no neighbour is, the tuner has settled, and
//! watches the rate. It knows neither clock nor device.

use std::collections::VecDeque;

const MIB: usize = 1 << 20;
/// Request sizes that are tried, in bytes.
pub const REQUEST_BYTES: [usize; 5] = [MIB, 2 * MIB, 4 * MIB, 8 * MIB, 16 * MIB];
/// Queue depths that are tried.
pub const QUEUE_DEPTHS: [usize; 4] = [4, 8, 16, 32];

// A disk is noisy: less than this is no gain, and it has to show twice.
const GAIN: f64 = 1.05;
const WINS: u8 = 2;
// A setting under which the queue is never full twice cannot be measured.
const MOST_VOIDS: u8 = 2;
// Off by more than a third for so many epochs: another device, or the same one under other load.
const DRIFT: f64 = 1.0 / 3.0;
const MOST_STRANGE: u8 = 8;
// Rates that make the median that is reported.
const RECENT: usize = 9;

/// How to read from a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The longest read, in bytes.
    pub request_bytes: usize,
    /// Reads in flight.
    pub queue_depth: usize,
}

impl Setting {
    /// Bytes in flight when the queue is full.
    #[must_use]
    pub fn bytes_in_flight(&self) -> usize {
        self.request_bytes.saturating_mul(self.queue_depth)
    }
}

/// A stretch of reading under one setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Bytes that arrived.
    pub nbytes: u64,
    /// Time it took, in nanoseconds.
    pub busy_ns: u64,
    /// Whether the queue was full, so that the device set the pace, not ring or schedule.
    pub was_full: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Settled,
    // The kept setting is measured, next its rival.
    Kept { rival: Setting, wins: u8 },
    // The rival is measured, which has to beat `rate`.
    Rival { rival: Setting, wins: u8, rate: f64 },
}

/// What is known about one device.
#[derive(Clone, Debug)]
pub struct Tuner {
    most_in_flight: usize,
    kept: Setting,
    phase: Phase,
    beaten: Vec<Setting>,
    voids: u8,
    // Of the kept setting, newest last, in bytes per nanosecond.
    recent: VecDeque<f64>,
    expected: Option<f64>,
    strange: u8,
    tunes: bool,
}

impl Tuner {
    /// Look for something better than `start`, with at most `most_in_flight` bytes in flight: where
    /// `start` itself has more, it begins with smaller requests.
    #[must_use]
    pub fn new(mut start: Setting, most_in_flight: usize) -> Self {
        while start.bytes_in_flight() > most_in_flight
            && let Some(smaller) = next_below(&REQUEST_BYTES, start.request_bytes)
        {
            start.request_bytes = smaller;
        }
        let mut tuner = Self::fixed(start, most_in_flight, None);
        tuner.tunes = true;
        tuner.challenge();
        tuner
    }

    /// Keep `setting`; look for a better one only when the rate is far from what is `expected`, in
    /// 10^9 bytes a second.
    #[must_use]
    pub fn fixed(setting: Setting, most_in_flight: usize, expected: Option<f64>) -> Self {
        Self {
            most_in_flight,
            kept: setting,
            phase: Phase::Settled,
            beaten: Vec::new(),
            voids: 0,
            recent: VecDeque::with_capacity(RECENT),
            expected,
            strange: 0,
            tunes: expected.is_some(),
        }
    }

    /// The setting to read with until the next epoch has ended.
    #[must_use]
    pub fn setting(&self) -> Setting {
        match self.phase {
            Phase::Settled | Phase::Kept { .. } => self.kept,
            Phase::Rival { rival, .. } => rival,
        }
    }

    /// The best setting so far.
    #[must_use]
    pub fn kept(&self) -> Setting {
        self.kept
    }

    /// Whether the kept setting is the result of measurements, here or as it was given.
    #[must_use]
    pub fn is_tuned(&self) -> bool {
        matches!(self.phase, Phase::Settled) && self.expected.is_some()
    }

    /// The rate of the kept setting in 10^9 bytes a second: the median of its latest epochs, else
    /// what was expected, else 0.
    #[must_use]
    pub fn gbps(&self) -> f64 {
        self.median().or(self.expected).unwrap_or(0.0)
    }

    /// An epoch under [`setting`](Self::setting) has ended.
    pub fn note(&mut self, epoch: Epoch) {
        if !epoch.was_full || epoch.busy_ns == 0 {
            self.note_void();
            return;
        }
        let rate = epoch.nbytes as f64 / epoch.busy_ns as f64;
        match self.phase {
            Phase::Settled => {
                self.remember(rate);
                self.watch(rate);
            }
            Phase::Kept { rival, wins } => {
                self.remember(rate);
                self.phase = Phase::Rival { rival, wins, rate };
            }
            Phase::Rival {
                rival,
                rate: to_beat,
                ..
            } if rate <= to_beat * GAIN => {
                self.beaten.push(rival);
                self.challenge();
            }
            Phase::Rival { rival, wins, .. } if wins + 1 < WINS => {
                let wins = wins + 1;
                self.phase = Phase::Kept { rival, wins };
            }
            Phase::Rival { rival, .. } => {
                self.beaten.push(self.kept);
                self.kept = rival;
                self.recent.clear();
                self.remember(rate);
                self.challenge();
            }
        }
    }

    fn note_void(&mut self) {
        let Phase::Rival { rival, .. } = self.phase else {
            return;
        };
        self.voids += 1;
        if self.voids < MOST_VOIDS {
            // Back to what is known to be good until the device sets the pace again.
            self.phase = Phase::Kept { rival, wins: 0 };
        } else {
            self.beaten.push(rival);
            self.challenge();
        }
    }

    fn remember(&mut self, rate: f64) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(rate);
    }

    fn watch(&mut self, rate: f64) {
        let Some(expected) = self.expected else {
            if self.tunes {
                self.expected = Some(rate);
            }
            return;
        };
        if (rate / expected - 1.0).abs() <= DRIFT {
            self.strange = 0;
            return;
        }
        self.strange += 1;
        if self.strange == MOST_STRANGE {
            self.beaten.clear();
            self.challenge();
        }
    }

    // The next neighbour of the kept setting, or none is left.
    fn challenge(&mut self) {
        self.voids = 0;
        self.strange = 0;
        let rival = self
            .neighbours()
            .into_iter()
            .flatten()
            .find(|rival| self.is_possible(rival));
        self.phase = match rival {
            Some(rival) => Phase::Kept { rival, wins: 0 },
            None => {
                // With nothing to compare, the rate to watch is still to come.
                self.expected = self.median();
                Phase::Settled
            }
        };
    }

    fn is_possible(&self, rival: &Setting) -> bool {
        rival.bytes_in_flight() <= self.most_in_flight && !self.beaten.contains(rival)
    }

    fn neighbours(&self) -> [Option<Setting>; 4] {
        let Setting {
            request_bytes,
            queue_depth,
        } = self.kept;
        let request = |request_bytes| Setting {
            request_bytes,
            queue_depth,
        };
        let depth = |queue_depth| Setting {
            request_bytes,
            queue_depth,
        };
        [
            next_above(&QUEUE_DEPTHS, queue_depth).map(depth),
            next_below(&REQUEST_BYTES, request_bytes).map(request),
            next_above(&REQUEST_BYTES, request_bytes).map(request),
            next_below(&QUEUE_DEPTHS, queue_depth).map(depth),
        ]
    }

    fn median(&self) -> Option<f64> {
        let mut rates: Vec<f64> = self.recent.iter().copied().collect();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied()
    }
}

fn next_above(ladder: &[usize], value: usize) -> Option<usize> {
    ladder.iter().copied().find(|&step| step > value)
}

fn next_below(ladder: &[usize], value: usize) -> Option<usize> {
    ladder.iter().copied().rev().find(|&step| step < value)
}

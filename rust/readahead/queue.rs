//! The reads of one device: what waits for its turn, what is in flight, and how fast it flows.

use std::collections::VecDeque;

use crate::readahead::state::Target;
use crate::readahead::tuner::{Epoch, Setting, Tuner};

// Less than this is too short to be timed.
const EPOCH_BYTES: u64 = 128 << 20;
const EPOCH_NS: u64 = 25_000_000;

/// Bytes that a unit wants from one place of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    pub(crate) target: Target,
    pub(crate) unit: u32,
    pub(crate) file: u32,
    pub(crate) offset: u64,
    /// Where they go, from the start of the arena.
    pub(crate) place: usize,
    pub(crate) nbytes: usize,
    /// Of those, how many must arrive.
    pub(crate) needed: usize,
}

impl Stretch {
    // Take up to `nbytes` from its front.
    fn cut(&mut self, nbytes: usize) -> Self {
        let nbytes = nbytes.min(self.nbytes);
        let piece = Self {
            nbytes,
            needed: self.needed.min(nbytes),
            ..*self
        };
        self.offset += nbytes as u64;
        self.place += nbytes;
        self.nbytes -= nbytes;
        self.needed -= piece.needed;
        piece
    }
}

/// A read in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    pub(crate) token: u64,
    pub(crate) piece: Stretch,
    /// 0 where nobody wants to know.
    pub(crate) begin_ns: u64,
}

/// The reads of one device. Requests are cut when they are submitted: a queue takes no more memory
/// for small ones, and a new request size counts at once.
#[derive(Debug)]
pub(crate) struct Queue {
    alignment: usize,
    tuner: Tuner,
    setting: Setting,
    // What was demanded goes first.
    demanded: VecDeque<Stretch>,
    planned: VecDeque<Stretch>,
    in_flight: VecDeque<Flight>,
    gauge: Gauge,
}

// Times the flow between looks.
#[derive(Debug, Default)]
struct Gauge {
    // Requests before this one were made under another setting.
    first_token: u64,
    was_full: bool,
    looked_ns: u64,
    // Since then.
    arrived: u64,
    full_bytes: u64,
    full_ns: u64,
    other_bytes: u64,
    other_ns: u64,
}

impl Queue {
    pub(crate) fn new(tuner: Tuner, alignment: usize) -> Self {
        let mut queue = Self {
            alignment,
            setting: tuner.setting(),
            tuner,
            demanded: VecDeque::new(),
            planned: VecDeque::new(),
            in_flight: VecDeque::new(),
            gauge: Gauge::default(),
        };
        queue.apply();
        queue
    }

    pub(crate) fn tuner(&self) -> &Tuner {
        &self.tuner
    }

    pub(crate) fn push(&mut self, stretch: Stretch, demanded: bool) {
        if demanded {
            self.demanded.push_back(stretch);
        } else {
            self.planned.push_back(stretch);
        }
    }

    /// Whether what waits is too little to fill the queue; of what was demanded only, or of all.
    pub(crate) fn is_hungry(&self, demanded_only: bool) -> bool {
        let planned = self.planned.iter().filter(|_| !demanded_only);
        let mut room = self
            .setting
            .queue_depth
            .saturating_sub(self.in_flight.len());
        for stretch in self.demanded.iter().chain(planned) {
            if room == 0 {
                break;
            }
            room = room.saturating_sub(stretch.nbytes.div_ceil(self.setting.request_bytes));
        }
        room > 0
    }

    /// The next piece to submit, if the queue has room; it counts as in flight under `token`.
    pub(crate) fn launch(&mut self, token: u64, begin_ns: u64) -> Option<Stretch> {
        if self.in_flight.len() >= self.setting.queue_depth {
            return None;
        }
        let waiting = if self.demanded.is_empty() {
            &mut self.planned
        } else {
            &mut self.demanded
        };
        let stretch = waiting.front_mut()?;
        let piece = stretch.cut(self.setting.request_bytes);
        if stretch.nbytes == 0 {
            waiting.pop_front();
        }
        self.in_flight.push_back(Flight {
            token,
            piece,
            begin_ns,
        });
        Some(piece)
    }

    /// The read with this token has ended.
    pub(crate) fn land(&mut self, token: u64) -> Option<Flight> {
        let at = self
            .in_flight
            .iter()
            .position(|flight| flight.token == token)?;
        self.in_flight.remove(at)
    }

    /// Bytes arrived.
    pub(crate) fn note_arrival(&mut self, nbytes: u64) {
        self.gauge.arrived += nbytes;
    }

    /// Forget what waits for targets that are not `wanted`; call `gone` with each and its bytes.
    pub(crate) fn retain(
        &mut self,
        wanted: impl Fn(Target) -> bool,
        mut gone: impl FnMut(Target, usize),
    ) {
        for waiting in [&mut self.demanded, &mut self.planned] {
            waiting.retain(|stretch| {
                let stays = wanted(stretch.target);
                if !stays {
                    gone(stretch.target, stretch.nbytes);
                }
                stays
            });
        }
    }

    /// The file of the oldest read in flight.
    pub(crate) fn oldest_file(&self) -> Option<u32> {
        self.in_flight.front().map(|flight| flight.piece.file)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !self.demanded.is_empty() || !self.planned.is_empty()
    }

    /// Look at the flow before waiting for the device; true if an epoch has ended, after which the
    /// setting may be another one. `next_token` is that of the next request.
    pub(crate) fn measure(&mut self, now_ns: u64, next_token: u64) -> bool {
        let is_full = self.in_flight.len() >= self.setting.queue_depth;
        let is_clean = self
            .in_flight
            .front()
            .is_none_or(|flight| flight.token >= self.gauge.first_token);
        let nbytes = std::mem::take(&mut self.gauge.arrived);
        let elapsed = now_ns.saturating_sub(self.gauge.looked_ns);
        self.gauge.looked_ns = now_ns;
        if !is_clean {
            self.gauge.was_full = false;
            return false;
        }
        let was_full = std::mem::replace(&mut self.gauge.was_full, is_full);
        let gauge = &mut self.gauge;
        if was_full {
            gauge.full_bytes += nbytes;
            gauge.full_ns += elapsed;
        } else if nbytes > 0 {
            gauge.other_bytes += nbytes;
            gauge.other_ns += elapsed;
        }
        // The queue is to turn over at least twice.
        let enough = EPOCH_BYTES.max(2 * self.setting.bytes_in_flight() as u64);
        let epoch = if gauge.full_bytes >= enough && gauge.full_ns >= EPOCH_NS {
            Epoch {
                nbytes: gauge.full_bytes,
                busy_ns: gauge.full_ns,
                was_full: gauge.other_ns <= gauge.full_ns / 4,
            }
        } else if gauge.other_bytes >= enough {
            Epoch {
                nbytes: gauge.other_bytes,
                busy_ns: gauge.other_ns,
                was_full: false,
            }
        } else {
            return false;
        };
        self.tuner.note(epoch);
        let before = self.setting;
        self.apply();
        self.gauge = Gauge {
            // Only a new setting makes those in flight strangers.
            first_token: if self.setting == before {
                self.gauge.first_token
            } else {
                next_token
            },
            was_full: self.setting == before && is_full,
            looked_ns: now_ns,
            ..Gauge::default()
        };
        true
    }

    /// End: the tuner lives on.
    pub(crate) fn into_tuner(self) -> Tuner {
        self.tuner
    }

    fn apply(&mut self) {
        let Setting {
            request_bytes,
            queue_depth,
        } = self.tuner.setting();
        let whole = request_bytes - request_bytes % self.alignment;
        self.setting = Setting {
            request_bytes: whole.max(self.alignment),
            queue_depth: queue_depth.max(1),
        };
    }
}

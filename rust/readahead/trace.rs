//! What happened when: requests, waits and leases, the newest of each kept in bounded memory.

use std::collections::VecDeque;

use crate::readahead::clock;
use crate::sync::{Mutex, MutexGuard};

// Events of each side, 48 bytes each: 6 MiB, which no page takes before it is written.
const CAPACITY: usize = 1 << 17;

/// What an event was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A read, from its submission to its completion.
    Request {
        /// The file, as an index into the opened files.
        file: u32,
        /// Where it began in the file.
        offset: u64,
    },
    /// The consumer waited for the unit.
    Wait,
    /// The unit was leased. Residents only when they were waited for.
    Lease,
}

/// One event. Times are nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The unit it happened for.
    pub unit: u32,
    /// Bytes of the request, or of the unit.
    pub nbytes: usize,
    /// When it began.
    pub begin_ns: u64,
    /// When it ended.
    pub end_ns: u64,
}

/// Where events are written to. The two sides have a lock each: neither waits for the other.
#[derive(Debug)]
pub(crate) struct Trace {
    requests: Mutex<Log>,
    uses: Mutex<Log>,
}

#[derive(Debug)]
struct Log {
    events: VecDeque<Event>,
    capacity: usize,
    dropped: u64,
}

impl Trace {
    pub(crate) fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    fn with_capacity(capacity: usize) -> Self {
        let log = || {
            Mutex::new(Log {
                events: VecDeque::with_capacity(capacity),
                capacity,
                dropped: 0,
            })
        };
        Self {
            requests: log(),
            uses: log(),
        }
    }

    /// I/O thread: a read has ended just now.
    pub(crate) fn note_request(
        &self,
        unit: u32,
        file: u32,
        offset: u64,
        nbytes: usize,
        begin_ns: u64,
    ) {
        lock(&self.requests).push(Event {
            kind: EventKind::Request { file, offset },
            unit,
            nbytes,
            begin_ns,
            end_ns: clock::now_ns(),
        });
    }

    /// A wait or a lease has ended just now.
    pub(crate) fn note_use(&self, kind: EventKind, unit: u32, nbytes: usize, begin_ns: u64) {
        lock(&self.uses).push(Event {
            kind,
            unit,
            nbytes,
            begin_ns,
            end_ns: clock::now_ns(),
        });
    }

    /// Take all events out, by their beginnings.
    pub(crate) fn drain(&self) -> Vec<Event> {
        let mut events: Vec<Event> = lock(&self.requests).events.drain(..).collect();
        events.extend(lock(&self.uses).events.drain(..));
        events.sort_by_key(|event| event.begin_ns);
        events
    }

    /// Events that newer ones took the place of.
    pub(crate) fn dropped(&self) -> u64 {
        lock(&self.requests).dropped + lock(&self.uses).dropped
    }
}

impl Log {
    fn push(&mut self, event: Event) {
        if self.events.len() == self.capacity {
            self.events.pop_front();
            self.dropped += 1;
        }
        self.events.push_back(event);
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{EventKind, Trace};

    #[test]
    fn the_newest_events_are_kept_and_the_others_counted() {
        let trace = Trace::with_capacity(3);
        for unit in 0..5 {
            trace.note_use(EventKind::Lease, unit, 1, u64::from(unit));
            trace.note_request(unit, 0, 0, 1, 10 + u64::from(unit));
        }
        let units: Vec<u32> = trace.drain().iter().map(|event| event.unit).collect();
        assert_eq!(units, [2, 3, 4, 2, 3, 4]);
        assert_eq!(trace.dropped(), 4);
        assert_eq!(trace.drain(), []);
    }
}

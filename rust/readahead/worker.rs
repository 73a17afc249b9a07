//! The I/O thread: it alone submits reads, and fills slots and residents.

use std::collections::{HashMap, VecDeque};

use crate::error::Error;
use crate::io::{Buffer, Completion, IoEngine, ReadRequest};
use crate::readahead::Options;
use crate::readahead::shared::Shared;
use crate::readahead::state::{Halt, Start, Target, Thread};
use crate::readahead::stats::Counters;
use crate::sync::Arc;

/// Reports what changed in the opened files since they were opened.
pub(crate) type Identity = dyn Fn() -> Result<(), Error> + Send + Sync;

// A part of a unit, as large as one request may be.
#[derive(Clone, Copy, Debug)]
struct Piece {
    target: Target,
    file: u32,
    offset: u64,
    place: usize,
    nbytes: usize,
    needed: usize,
}

#[derive(Debug)]
struct Fill {
    unit: u32,
    place: usize,
    pieces_left: usize,
    error: Option<Error>,
}

/// Fills what the state asks for, until it is told to stop or nothing is left to read.
pub(crate) struct Producer {
    // Dropped before `shared`: with it end the reads into the arena.
    engine: Box<dyn IoEngine>,
    identity: Arc<Box<Identity>>,
    request_bytes: usize,
    queue_depth: usize,
    // Not submitted yet; mostly of one unit.
    pieces: VecDeque<Piece>,
    // By token; the first is the oldest.
    in_flight: VecDeque<(u64, Piece)>,
    next_token: u64,
    fills: HashMap<Target, Fill>,
    done: Vec<Completion>,
    shared: Arc<Shared>,
}

impl Producer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        engine: Box<dyn IoEngine>,
        identity: Arc<Box<Identity>>,
        options: &Options,
    ) -> Self {
        let alignment = engine.alignment();
        let request_bytes = options.request_bytes - options.request_bytes % alignment;
        Self {
            identity,
            request_bytes: request_bytes.max(alignment),
            queue_depth: options.queue_depth.max(1),
            pieces: VecDeque::new(),
            in_flight: VecDeque::new(),
            next_token: 0,
            fills: HashMap::new(),
            done: Vec::new(),
            engine,
            shared,
        }
    }

    /// The body of the thread.
    pub(crate) fn run(mut self) {
        if let Err(error) = self.serve() {
            self.shared.stop(Halt::Engine(error.to_string()));
            self.shared.lock().thread = Thread::Ending;
        }
    }

    fn serve(&mut self) -> Result<(), Error> {
        while self.plan() {
            while self.in_flight.len() < self.queue_depth {
                let Some(piece) = self.pieces.pop_front() else {
                    break;
                };
                self.submit(piece)?;
            }
            self.shared
                .counters
                .note_flight(self.in_flight.front().map(|(_, piece)| piece.file));
            self.engine.wait(&mut self.done, None)?;
            self.collect();
        }
        Ok(())
    }

    // Queue as many pieces as may be submitted; false when the thread has nothing left to do.
    fn plan(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        shared.bell.disarm();
        let mut is_armed = false;
        let mut wrapped = false;
        let mut state = shared.lock();
        loop {
            if matches!(state.halt, Some(Halt::Closed)) {
                self.pieces.clear();
            } else if self.in_flight.len() + self.pieces.len() < self.queue_depth {
                let (start, ended_cycle) = state.next_start(&shared.catalogue);
                wrapped |= ended_cycle;
                if let Some(start) = start {
                    // A unit without bytes is there at once.
                    if self.begin(start) == 0 {
                        drop(state);
                        self.finish(start.target);
                        state = shared.lock();
                    }
                    continue;
                }
                if !is_armed && state.schedule.peek().is_some() {
                    // Look once more after arming, or a release in between would go unheard.
                    is_armed = true;
                    shared.bell.arm();
                    continue;
                }
            }
            break;
        }
        if state.verdict.is_some() {
            shared.changed.notify_all();
        }
        let is_idle = self.in_flight.is_empty() && self.pieces.is_empty();
        let is_over = matches!(state.halt, Some(Halt::Closed)) || shared.catalogue.is_all_loaded();
        if is_idle && is_over {
            state.thread = Thread::Ending;
            return false;
        }
        drop(state);
        if wrapped && let Err(error) = (self.identity)() {
            shared.stop(Halt::of_changed_files(&error));
        }
        true
    }

    // Cut the reads of a unit into pieces; how many.
    fn begin(&mut self, start: Start) -> usize {
        let unit = &self.shared.catalogue.units()[start.unit as usize];
        let base = match start.target {
            Target::Slot(_) => self.shared.ring_start + start.place,
            Target::Resident(_) => start.place,
        };
        let before = self.pieces.len();
        for read in unit.layout.reads() {
            let nbytes = usize::try_from(read.extent.nbytes).expect("a read fits its slot");
            let mut done = 0;
            while done < nbytes {
                let piece_bytes = self.request_bytes.min(nbytes - done);
                self.pieces.push_back(Piece {
                    target: start.target,
                    file: read.extent.file,
                    offset: read.extent.offset + done as u64,
                    place: base + read.slot_offset + done,
                    nbytes: piece_bytes,
                    needed: read.needed.saturating_sub(done).min(piece_bytes),
                });
                done += piece_bytes;
            }
        }
        let pieces_left = self.pieces.len() - before;
        let fill = Fill {
            unit: start.unit,
            place: base,
            pieces_left,
            error: None,
        };
        self.fills.insert(start.target, fill);
        pieces_left
    }

    fn submit(&mut self, piece: Piece) -> Result<(), Error> {
        let token = self.next_token;
        self.next_token += 1;
        self.in_flight.push_back((token, piece));
        Counters::add(&self.shared.counters.requests, 1);
        self.engine.submit(ReadRequest {
            token,
            file: piece.file,
            offset: piece.offset,
            buffer: Buffer {
                ptr: self.shared.arena.as_ptr().wrapping_add(piece.place),
                nbytes: piece.nbytes,
            },
            needed: piece.needed,
        })
    }

    fn collect(&mut self) {
        let mut done = std::mem::take(&mut self.done);
        if !done.is_empty() {
            self.shared.counters.note_progress();
        }
        for Completion { token, result } in done.drain(..) {
            let found = self.in_flight.iter().position(|&(other, _)| other == token);
            let Some((_, piece)) = found.and_then(|at| self.in_flight.remove(at)) else {
                continue;
            };
            self.complete(piece, result);
        }
        self.done = done;
    }

    fn complete(&mut self, piece: Piece, result: Result<usize, Error>) {
        let error = match result {
            Ok(nbytes) => {
                Counters::add(&self.shared.counters.bytes_read, nbytes as u64);
                (nbytes < piece.needed).then_some(Error::ShortCompletion {
                    offset: piece.offset,
                    needed: piece.needed,
                    nbytes,
                })
            }
            Err(error) => Some(error),
        };
        let Some(fill) = self.fills.get_mut(&piece.target) else {
            return;
        };
        fill.pieces_left -= 1;
        if let Some(error) = error
            && fill.error.is_none()
        {
            fill.error = Some(error);
            let queued = self.pieces.len();
            self.pieces.retain(|other| other.target != piece.target);
            fill.pieces_left -= queued - self.pieces.len();
        }
        if fill.pieces_left == 0 {
            self.finish(piece.target);
        }
    }

    // All reads of a unit have ended: move parts into place, publish.
    fn finish(&mut self, target: Target) {
        let Some(fill) = self.fills.remove(&target) else {
            return;
        };
        let shared = &self.shared;
        let layout = &shared.catalogue.units()[fill.unit as usize].layout;
        if fill.error.is_none() {
            // SAFETY: the place has room for the layout, and until the word changes below only
            // this thread touches it: every read into it has ended.
            unsafe { layout.settle(shared.arena.as_ptr().wrapping_add(fill.place)) };
        }
        shared.counters.sample_memory();
        let is_loaded = fill.error.is_none();
        let mut state = shared.lock();
        match target {
            Target::Slot(sequence) => {
                state.window.finish(sequence, fill.error);
            }
            Target::Resident(index) => {
                if !state.finish_resident(index, fill.error, &shared.catalogue) {
                    shared.discard(fill.place, layout.nbytes());
                } else if is_loaded {
                    Counters::add(&shared.counters.resident_bytes, layout.nbytes() as u64);
                }
            }
        }
        if state.wanted.is_some() {
            shared.changed.notify_all();
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.shared.counters.note_flight(None);
        self.shared.set_waker(None);
    }
}

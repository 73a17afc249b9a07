//! The I/O thread: it alone submits reads, and fills slots and residents.

use std::collections::HashMap;

use crate::error::Error;
use crate::io::{Buffer, Completion, IoEngine, ReadRequest};
use crate::readahead::clock;
use crate::readahead::options::{Identity, Options};
use crate::readahead::queue::{Queue, Stretch};
use crate::readahead::resident::ResidentState;
use crate::readahead::shared::Shared;
use crate::readahead::slot::SlotState;
use crate::readahead::state::{Appetite, Halt, Start, Target, Thread};
use crate::readahead::stats::Counters;
use crate::sync::Arc;

#[derive(Debug)]
struct Fill {
    unit: u32,
    place: usize,
    // Waiting or in flight.
    bytes_left: usize,
    error: Option<Error>,
}

/// Fills what the state asks for, until it is told to stop or nothing is left to read.
pub(crate) struct Producer {
    // Dropped before `shared`: with it end the reads into the arena.
    engine: Box<dyn IoEngine>,
    identity: Arc<Box<Identity>>,
    // One per device.
    queues: Vec<Queue>,
    next_token: u64,
    fills: HashMap<Target, Fill>,
    done: Vec<Completion>,
    // A cycle has ended: are the files still what they were?
    is_check_due: bool,
    // The schedule has more than there is room for.
    is_held_up: bool,
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
        let mut tuners = std::mem::take(&mut shared.lock().tuners);
        tuners.resize_with(shared.catalogue.device_count(), || options.tuner());
        for (device, tuner) in tuners.iter().enumerate() {
            shared.counters.note_tuner(device, tuner);
        }
        Self {
            identity,
            queues: tuners
                .into_iter()
                .map(|tuner| Queue::new(tuner, alignment))
                .collect(),
            next_token: 0,
            fills: HashMap::new(),
            done: Vec::new(),
            is_check_due: false,
            is_held_up: false,
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
        let tuners = self.queues.drain(..).map(Queue::into_tuner).collect();
        self.shared.lock().tuners = tuners;
    }

    fn serve(&mut self) -> Result<(), Error> {
        let ring = self.ring_memory();
        if ring.nbytes > 0 {
            self.engine.register(ring);
        }
        self.shared.counters.note_features(self.engine.features());
        let cached_before = self.shared.counters.cached_bytes();
        while self.plan() {
            self.submit()?;
            // Not before: meanwhile the device has something to do.
            self.check_files();
            self.note_flight();
            self.engine.wait(&mut self.done, None)?;
            self.collect();
            let cached = cached_before + self.engine.cached_bytes();
            self.shared.counters.note_cached_bytes(cached);
        }
        Ok(())
    }

    // All memory that streamed units are read into, again and again.
    fn ring_memory(&self) -> Buffer {
        let (arena, start) = (&self.shared.arena, self.shared.ring_start);
        Buffer {
            ptr: arena.as_ptr().wrapping_add(start),
            nbytes: arena.nbytes().saturating_sub(start),
        }
    }

    // Start as many units as the queues have room for; false when nothing is left to do.
    fn plan(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        shared.bell.disarm();
        let mut is_armed = false;
        self.drop_unwanted();
        let mut state = shared.lock();
        loop {
            if matches!(state.halt, Some(Halt::Closed)) {
                for queue in &mut self.queues {
                    queue.retain(|_| false, |_, _| {});
                }
                break;
            }
            let appetite = self.appetite();
            let (start, has_wrapped) = state.next_start(&shared.catalogue, appetite);
            self.is_check_due |= has_wrapped;
            if let Some(start) = start {
                // A unit without bytes is there at once.
                if self.begin(start) == 0 {
                    drop(state);
                    self.finish(start.target);
                    state = shared.lock();
                }
                continue;
            }
            let may_wait_for_room = !appetite.demanded.is_empty();
            if !is_armed && may_wait_for_room && state.schedule.peek().is_some() {
                // Look once more after arming, or a release in between would go unheard.
                is_armed = true;
                shared.bell.arm();
                continue;
            }
            break;
        }
        if state.verdict.is_some() {
            shared.changed.notify_all();
        }
        self.is_held_up = state.halt.is_none() && state.schedule.peek().is_some();
        let is_idle = self
            .queues
            .iter()
            .all(|queue| queue.is_idle() && !queue.has_waiting());
        let is_closed = matches!(state.halt, Some(Halt::Closed));
        if is_idle && (is_closed || shared.catalogue.is_all_loaded()) {
            state.thread = Thread::Ending;
            return false;
        }
        true
    }

    fn appetite(&self) -> Appetite {
        let mut appetite = Appetite::default();
        for (device, queue) in self.queues.iter().enumerate() {
            if queue.is_hungry(false) {
                appetite.planned.insert(device);
            }
            if queue.is_hungry(true) {
                appetite.demanded.insert(device);
            }
        }
        appetite
    }

    // Forget reads that wait for what nobody wants since the schedule was replaced.
    fn drop_unwanted(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        if !std::mem::take(&mut state.is_stale) {
            return;
        }
        // Under the lock: residents that are given up may be kept after all.
        let is_wanted = |target| match target {
            Target::Slot(sequence) => shared.slots.state(sequence) == SlotState::Filling,
            Target::Resident(index) => {
                let resident = shared.catalogue.residents().get(index as usize);
                resident.is_some_and(|resident| resident.state() == ResidentState::Loading)
            }
        };
        let mut ended = Vec::new();
        for queue in &mut self.queues {
            queue.retain(is_wanted, |target, nbytes| {
                if let Some(fill) = self.fills.get_mut(&target) {
                    fill.bytes_left -= nbytes;
                    if fill.bytes_left == 0 {
                        ended.push(target);
                    }
                }
            });
        }
        drop(state);
        for target in ended {
            self.finish(target);
        }
    }

    // Queue the reads of a unit; how many bytes.
    fn begin(&mut self, start: Start) -> usize {
        let catalogue = &self.shared.catalogue;
        let unit = &catalogue.units()[start.unit as usize];
        let base = match start.target {
            Target::Slot(_) => self.shared.ring_start + start.place,
            Target::Resident(_) => start.place,
        };
        let mut bytes_left = 0;
        for read in unit.layout.reads() {
            let nbytes = usize::try_from(read.extent.nbytes).expect("a read fits its slot");
            bytes_left += nbytes;
            let stretch = Stretch {
                target: start.target,
                unit: start.unit,
                file: read.extent.file,
                offset: read.extent.offset,
                place: base + read.slot_offset,
                nbytes,
                needed: read.needed,
            };
            self.queues[catalogue.device(read.extent.file)].push(stretch, start.demanded);
        }
        let fill = Fill {
            unit: start.unit,
            place: base,
            bytes_left,
            error: None,
        };
        self.fills.insert(start.target, fill);
        bytes_left
    }

    // Fill every queue.
    fn submit(&mut self) -> Result<(), Error> {
        for queue in &mut self.queues {
            while let Some(piece) = queue.launch(self.next_token, self.shared.trace_ns()) {
                let token = self.next_token;
                self.next_token += 1;
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
                })?;
            }
        }
        Ok(())
    }

    fn check_files(&mut self) {
        if std::mem::take(&mut self.is_check_due)
            && let Err(error) = (self.identity)()
        {
            self.shared.stop(Halt::of_changed_files(&error));
        }
    }

    // Tell the counters and the tuners, just before waiting.
    fn note_flight(&mut self) {
        let now = clock::now_ns();
        let counters = &self.shared.counters;
        let mut is_busy = false;
        for (device, queue) in self.queues.iter_mut().enumerate() {
            is_busy |= !queue.is_idle();
            counters.note_flight(device, queue.oldest_file(), now);
            if queue.measure(now, self.next_token) {
                counters.note_tuner(device, queue.tuner());
            }
        }
        counters.note_busy(is_busy, !is_busy && self.is_held_up, now);
    }

    fn collect(&mut self) {
        let mut done = std::mem::take(&mut self.done);
        let now = if done.is_empty() { 0 } else { clock::now_ns() };
        for Completion { token, result } in done.drain(..) {
            let landed = self
                .queues
                .iter_mut()
                .enumerate()
                .find_map(|(device, queue)| Some((device, queue.land(token)?)));
            let Some((device, flight)) = landed else {
                continue;
            };
            let piece = flight.piece;
            if let Some(trace) = &self.shared.trace {
                let Stretch {
                    unit, file, offset, ..
                } = piece;
                trace.note_request(unit, file, offset, piece.nbytes, flight.begin_ns);
            }
            let arrived = *result.as_ref().unwrap_or(&0) as u64;
            self.queues[device].note_arrival(arrived);
            self.shared.counters.note_arrival(device, arrived, now);
            self.complete(piece, result);
        }
        self.done = done;
    }

    fn complete(&mut self, piece: Stretch, result: Result<usize, Error>) {
        let error = match result {
            Ok(nbytes) => (nbytes < piece.needed).then_some(Error::ShortCompletion {
                offset: piece.offset,
                needed: piece.needed,
                nbytes,
            }),
            Err(error) => Some(error),
        };
        let Some(fill) = self.fills.get_mut(&piece.target) else {
            return;
        };
        fill.bytes_left -= piece.nbytes;
        if let Some(error) = error
            && fill.error.is_none()
        {
            fill.error = Some(error);
            for queue in &mut self.queues {
                queue.retain(
                    |target| target != piece.target,
                    |_, nbytes| fill.bytes_left -= nbytes,
                );
            }
        }
        if fill.bytes_left == 0 {
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
        for device in 0..self.shared.catalogue.device_count() {
            self.shared.counters.note_flight(device, None, 0);
        }
        self.shared
            .counters
            .note_busy(false, false, clock::now_ns());
        self.shared.set_waker(None);
    }
}

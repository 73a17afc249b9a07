//! What the I/O thread and the consumer's slow path agree on under one lock.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;

use crate::error::Error;
use crate::readahead::catalogue::{Catalogue, DeviceSet};
use crate::readahead::resident::{Resident, ResidentState};
use crate::readahead::ring::Ring;
use crate::readahead::schedule::{Next, Schedule};
use crate::readahead::slot::SlotState;
use crate::readahead::tuner::Tuner;
use crate::readahead::window::{Victims, Window};

/// Where the bytes of a unit go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// The slot with this sequence number.
    Slot(u64),
    /// The resident with this index.
    Resident(u32),
}

/// A unit to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) target: Target,
    pub(crate) unit: u32,
    /// Start in the ring or, of a resident, in the arena.
    pub(crate) place: usize,
    /// Before what was planned.
    pub(crate) demanded: bool,
}

/// The devices whose queues have room.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Appetite {
    /// Counting all that waits.
    pub(crate) planned: DeviceSet,
    /// Counting only what was demanded.
    pub(crate) demanded: DeviceSet,
}

/// Why nothing can be taken any more.
#[derive(Clone, Debug)]
pub(crate) enum Halt {
    Closed,
    Panicked,
    Changed(PathBuf),
    Engine(String),
}

impl Halt {
    /// For what the identity of the files said.
    pub(crate) fn of_changed_files(error: &Error) -> Self {
        match error {
            Error::CheckpointChanged { path } => Self::Changed(path.clone()),
            other => Self::Engine(other.to_string()),
        }
    }

    pub(crate) fn error(&self) -> Error {
        match self {
            Self::Closed => Error::Closed,
            Self::Panicked => Error::WorkerPanicked,
            Self::Changed(path) => Error::CheckpointChanged { path: path.clone() },
            Self::Engine(reason) => Error::EngineFailed {
                reason: reason.clone(),
            },
        }
    }
}

/// The I/O thread, as the others know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thread {
    Running,
    /// Takes no more work; its engine is still open.
    Ending,
    Absent,
}

/// What a consumer finds when it looks for a unit.
#[derive(Debug)]
pub(crate) enum Sight {
    /// Ready, in the slot with this sequence number.
    Slot(u64),
    /// Loaded, the resident with this index.
    Resident(u32),
    /// On its way.
    Coming,
    /// The I/O thread has yet to start it.
    Pending,
    Failed(Error),
    /// Nobody asked for it.
    Unknown,
}

// From a resident without leases to its absence.
const EVICTIONS: [(ResidentState, ResidentState); 4] = [
    (ResidentState::Loaded, ResidentState::Evicted),
    (ResidentState::Unloaded, ResidentState::Evicted),
    (ResidentState::Failed, ResidentState::Evicted),
    (ResidentState::Loading, ResidentState::Leaving),
];

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) schedule: Schedule,
    pub(crate) window: Window,
    /// What the consumer waits for.
    pub(crate) wanted: Option<u32>,
    /// Why the wait for it is in vain.
    pub(crate) verdict: Option<Error>,
    pub(crate) halt: Option<Halt>,
    pub(crate) thread: Thread,
    /// Something that was started may not be wanted any more.
    pub(crate) is_stale: bool,
    /// What the last thread knew about the devices.
    pub(crate) tuners: Vec<Tuner>,
    // The failed unit whose error was taken last: whoever asks again at once is served again.
    retry: Option<u32>,
    unloaded: VecDeque<u32>,
    failures: HashMap<u32, Error>,
}

impl State {
    pub(crate) fn new(window: Window, residents: usize) -> Self {
        Self {
            schedule: Schedule::default(),
            window,
            wanted: None,
            verdict: None,
            halt: None,
            thread: Thread::Absent,
            is_stale: false,
            tuners: Vec::new(),
            retry: None,
            unloaded: (0..).take(residents).collect(),
            failures: HashMap::new(),
        }
    }

    /// The next unit to read, and whether finding it ended a cycle of the schedule. In order of
    /// use; while the ring is full, the residents that are left.
    ///
    /// Units of a device whose queue is full are started only on the way to one of a device whose
    /// queue is not: places in the ring are given in the order of use.
    pub(crate) fn next_start(
        &mut self,
        catalogue: &Catalogue,
        appetite: Appetite,
    ) -> (Option<Start>, bool) {
        self.window.reclaim();
        if self.halt.is_some() || appetite.demanded.is_empty() {
            return (None, false);
        }
        let wanted = self.wanted.and_then(|unit| catalogue.resident(unit));
        if let Some((index, _)) = wanted
            && let Some(start) = load(catalogue, index, true)
        {
            return (Some(start), false);
        }
        let mut wrapped = false;
        // One lap: a cycle of nothing but residents has no end.
        for _ in 0..=self.schedule.order().len() + self.schedule.out_of_turn() {
            let Some(next) = self.schedule.peek() else {
                break;
            };
            let hungry = if next.demanded {
                appetite.demanded
            } else {
                appetite.planned
            };
            if hungry.is_empty() {
                break;
            }
            let Some((index, _)) = catalogue.resident(next.unit) else {
                let devices = catalogue.devices(next.unit);
                let is_due = devices.is_empty() || devices.meets(hungry);
                if !is_due && !self.leads_to(hungry, catalogue) {
                    break;
                }
                match self.open(next, catalogue) {
                    Some(start) => {
                        wrapped |= self.schedule.advance();
                        return (Some(start), wrapped);
                    }
                    None => break,
                }
            };
            wrapped |= self.schedule.advance();
            if let Some(start) = load(catalogue, index, next.demanded) {
                return (Some(start), wrapped);
            }
        }
        (self.next_unloaded(catalogue, appetite.planned), wrapped)
    }

    // Whether a unit on one of those devices finds room behind those before it.
    fn leads_to(&self, devices: DeviceSet, catalogue: &Catalogue) -> bool {
        let (mut room, mut slots) = self.window.spare();
        for unit in self.schedule.upcoming() {
            if catalogue.resident(unit).is_some() {
                continue;
            }
            let needed = Ring::footprint(catalogue.nbytes(unit));
            if needed > room || slots == 0 {
                return false;
            }
            if catalogue.devices(unit).meets(devices) {
                return true;
            }
            room -= needed;
            slots -= 1;
        }
        false
    }

    fn next_unloaded(&mut self, catalogue: &Catalogue, hungry: DeviceSet) -> Option<Start> {
        if hungry.is_empty() {
            return None;
        }
        let mut at = 0;
        while let Some(&index) = self.unloaded.get(at) {
            let resident = catalogue.residents().get(index as usize)?;
            let devices = catalogue.devices(resident.unit());
            if !devices.is_empty() && !devices.meets(hungry) {
                at += 1;
                continue;
            }
            self.unloaded.remove(at);
            if let Some(start) = load(catalogue, index, false) {
                return Some(start);
            }
        }
        None
    }

    /// Look for a unit; an error found is taken away with it.
    pub(crate) fn look(&mut self, unit: u32, catalogue: &Catalogue) -> Sight {
        if let Some((index, resident)) = catalogue.resident(unit) {
            return match resident.state() {
                ResidentState::Unloaded => Sight::Pending,
                ResidentState::Loaded => Sight::Resident(index),
                ResidentState::Failed => {
                    // The next one who asks makes it be read again.
                    resident.pass(ResidentState::Failed, ResidentState::Unloaded);
                    match self.failures.remove(&index) {
                        Some(error) => Sight::Failed(error),
                        None => Sight::Pending,
                    }
                }
                _ => Sight::Coming,
            };
        }
        match self.window.find(unit) {
            Some((sequence, SlotState::Ready)) => Sight::Slot(sequence),
            Some((sequence, SlotState::Failed)) => {
                self.retry = Some(unit);
                match self.window.take_error(sequence) {
                    Some(error) => Sight::Failed(error),
                    None => Sight::Coming,
                }
            }
            Some(_) => Sight::Coming,
            None if self.retry == Some(unit) => {
                self.retry = None;
                self.schedule.demand([unit]);
                Sight::Pending
            }
            None if self.schedule.contains(unit) => Sight::Pending,
            None => Sight::Unknown,
        }
    }

    /// Publish how the reads of a resident ended; false if it was given up meanwhile.
    pub(crate) fn finish_resident(
        &mut self,
        index: u32,
        error: Option<Error>,
        catalogue: &Catalogue,
    ) -> bool {
        let Some(resident) = catalogue.residents().get(index as usize) else {
            return false;
        };
        let end = if let Some(error) = error {
            self.failures.insert(index, error);
            ResidentState::Failed
        } else {
            ResidentState::Loaded
        };
        if resident.pass(ResidentState::Loading, end) {
            return true;
        }
        self.failures.remove(&index);
        resident.pass(ResidentState::Leaving, ResidentState::Evicted);
        false
    }

    /// Replace the schedule; what of it is in memory or in flight is not read again.
    pub(crate) fn replace_schedule(&mut self, units: &[u32], cyclic: bool, catalogue: &Catalogue) {
        let is_streamed = |unit: &&u32| catalogue.resident(**unit).is_none();
        let streamed: Vec<u32> = units.iter().filter(is_streamed).copied().collect();
        let matched = self.window.keep(&streamed, cyclic);
        self.is_stale = true;
        self.retry = None;
        let start = if matched == 0 {
            0
        } else {
            let laps = (matched - 1) / streamed.len();
            let last = (matched - 1) % streamed.len();
            let turns = units
                .iter()
                .enumerate()
                .filter(|(_, unit)| is_streamed(unit));
            let at = turns.map(|(at, _)| at).nth(last).unwrap_or(0);
            laps * units.len() + at + 1
        };
        self.schedule.replace(units.to_vec(), cyclic, start);
    }

    /// Give up residents; those whose pages may go at once. All or none.
    pub(crate) fn evict<'c>(
        &mut self,
        units: &[u32],
        catalogue: &'c Catalogue,
    ) -> Result<Vec<(&'c Resident, ResidentState)>, Error> {
        let mut passed = Vec::new();
        let mut held = Vec::new();
        for &unit in units {
            let Some((_, resident)) = catalogue.resident(unit) else {
                continue;
            };
            match EVICTIONS
                .iter()
                .find(|&&(from, to)| resident.pass(from, to))
            {
                Some(&step) => passed.push((resident, step)),
                None => held.push(unit),
            }
        }
        if !held.is_empty() {
            for (resident, (from, to)) in passed {
                resident.pass(to, from);
            }
            return Err(Error::LeaseHeld {
                units: catalogue.names(held),
            });
        }
        self.is_stale = true;
        Ok(passed
            .into_iter()
            .map(|(resident, (from, _))| (resident, from))
            .collect())
    }

    /// Stop handing out, for the first reason given; that it was closed outweighs the others.
    pub(crate) fn stop(&mut self, reason: Halt) {
        if self.halt.is_none() || matches!(reason, Halt::Closed) {
            self.halt = Some(reason);
        }
    }

    fn open(&mut self, next: Next, catalogue: &Catalogue) -> Option<Start> {
        let nbytes = catalogue.nbytes(next.unit);
        let mut opened = self.window.open(next.unit, nbytes, next.demanded);
        if opened.is_none() && next.demanded {
            for unit in self.window.make_room(nbytes, Victims::NewestPlanned) {
                self.schedule.give_back(unit);
            }
            opened = self.window.open(next.unit, nbytes, true);
        }
        if let Some((sequence, place)) = opened {
            return Some(Start {
                target: Target::Slot(sequence),
                unit: next.unit,
                place,
                demanded: next.demanded,
            });
        }
        let wanted = self.wanted?;
        let is_stuck = self.window.filling() == 0
            && self.window.find(wanted).is_none()
            && catalogue.resident(wanted).is_none()
            && self.schedule.promote(wanted);
        is_stuck
            .then(|| self.open_for_waiting(wanted, catalogue))
            .flatten()
    }

    // Nothing is in flight and the consumer waits for a unit that has no room yet.
    fn open_for_waiting(&mut self, unit: u32, catalogue: &Catalogue) -> Option<Start> {
        let nbytes = catalogue.nbytes(unit);
        let mut opened = self.window.open(unit, nbytes, true);
        if opened.is_none() {
            self.window.make_room(nbytes, Victims::Oldest);
            opened = self.window.open(unit, nbytes, true);
        }
        if opened.is_none() {
            self.verdict = Some(Error::LeaseHeld {
                units: catalogue.names(self.window.leased()),
            });
        }
        let (sequence, place) = opened?;
        Some(Start {
            target: Target::Slot(sequence),
            unit,
            place,
            demanded: true,
        })
    }
}

fn load(catalogue: &Catalogue, index: u32, demanded: bool) -> Option<Start> {
    let resident = catalogue.residents().get(index as usize)?;
    resident
        .pass(ResidentState::Unloaded, ResidentState::Loading)
        .then(|| Start {
            target: Target::Resident(index),
            unit: resident.unit(),
            place: resident.place(),
            demanded,
        })
}

//! The order in which units are wanted: what was demanded, what was pushed back, then the plan.

use std::collections::{BTreeSet, VecDeque};

/// The next unit to start, as [`Schedule::peek`] shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// The unit.
    pub unit: u32,
    /// Asked for out of turn: nothing is thrown out for a later demand that was itself demanded.
    pub demanded: bool,
}

/// A queue of units. Pure: it knows neither memory nor time.
#[derive(Debug, Default)]
pub struct Schedule {
    demanded: VecDeque<u32>,
    returned: VecDeque<u32>,
    order: Vec<u32>,
    // Counts over all cycles; `order[position % len]` is next.
    position: u64,
    cyclic: bool,
    // Positions that were promoted and are passed over when their turn comes.
    early: BTreeSet<u64>,
}

impl Schedule {
    /// Want `order` from its `start`-th entry on, for ever if `cyclic`; forget everything else.
    pub fn replace(&mut self, order: Vec<u32>, cyclic: bool, start: usize) {
        *self = Self {
            order,
            cyclic,
            position: start as u64,
            ..Self::default()
        };
    }

    /// Want `units` before everything but earlier demands.
    pub fn demand(&mut self, units: impl IntoIterator<Item = u32>) {
        self.demanded.extend(units);
    }

    /// Want a unit again whose slot was thrown out, before the rest of the plan. Several are given
    /// back newest first.
    pub fn give_back(&mut self, unit: u32) {
        self.returned.push_front(unit);
    }

    /// The units of the plan, in order, whatever of it is done.
    #[must_use]
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// How many entries come before the plan.
    #[must_use]
    pub fn out_of_turn(&self) -> usize {
        self.demanded.len() + self.returned.len()
    }

    /// What to start next.
    pub fn peek(&mut self) -> Option<Next> {
        if let Some(&unit) = self.demanded.front() {
            return Some(Next {
                unit,
                demanded: true,
            });
        }
        let unit = self.returned.front().copied().or_else(|| {
            while self.early.remove(&self.position) {
                self.position += 1;
            }
            self.at(self.position)
        })?;
        Some(Next {
            unit,
            demanded: false,
        })
    }

    /// The units of the next lap, what was demanded or pushed back before them; the first is what
    /// [`peek`](Self::peek) shows.
    pub fn upcoming(&self) -> impl Iterator<Item = u32> {
        let lap = self.position..self.position + self.order.len() as u64;
        let planned = lap
            .filter(|position| !self.early.contains(position))
            .map_while(|position| self.at(position));
        let urgent = self.demanded.iter().chain(&self.returned).copied();
        urgent.chain(planned)
    }

    /// Take what [`peek`](Self::peek) showed off the queue; true if that ended a cycle.
    pub fn advance(&mut self) -> bool {
        if self.demanded.pop_front().is_some() || self.returned.pop_front().is_some() {
            return false;
        }
        self.position += 1;
        self.cyclic && self.position.is_multiple_of(self.order.len().max(1) as u64)
    }

    /// Whether the unit will come up.
    #[must_use]
    pub fn contains(&self, unit: u32) -> bool {
        self.demanded.contains(&unit)
            || self.returned.contains(&unit)
            || self.find_planned(unit).is_some()
    }

    /// Move the next turn of `unit` to the very front; false if it has none.
    pub fn promote(&mut self, unit: u32) -> bool {
        if let Some(at) = self.demanded.iter().position(|&other| other == unit) {
            self.demanded.remove(at);
        } else if let Some(at) = self.returned.iter().position(|&other| other == unit) {
            self.returned.remove(at);
        } else if let Some(position) = self.find_planned(unit) {
            self.early.insert(position);
        } else {
            return false;
        }
        self.demanded.push_front(unit);
        true
    }

    fn at(&self, position: u64) -> Option<u32> {
        let len = self.order.len() as u64;
        if len == 0 || (!self.cyclic && position >= len) {
            return None;
        }
        let index = usize::try_from(position % len).expect("smaller than a length");
        self.order.get(index).copied()
    }

    fn find_planned(&self, unit: u32) -> Option<u64> {
        if !self.order.contains(&unit) {
            return None;
        }
        // Each promoted turn may be the only one of its lap.
        let laps = self.early.len() as u64 + 2;
        let end = self.position + laps * self.order.len() as u64;
        (self.position..end)
            .find(|position| self.at(*position) == Some(unit) && !self.early.contains(position))
    }
}

/// Which of the `untaken` units, oldest first, serve as the head of a new order: a flag for each,
/// and how many entries of the order they stand for.
#[must_use]
pub fn matching_head(untaken: &[u32], order: &[u32], cyclic: bool) -> (Vec<bool>, usize) {
    let mut matched = 0;
    let kept = untaken
        .iter()
        .map(|unit| {
            let at = if cyclic {
                matched % order.len().max(1)
            } else {
                matched
            };
            let keeps = order.get(at) == Some(unit);
            matched += usize::from(keeps);
            keeps
        })
        .collect();
    (kept, matched)
}

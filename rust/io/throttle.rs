//! An engine made slower: the rate and latency of another device, for measurements.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::io::{Buffer, Completion, IoEngine, ReadRequest, Waker};

// A longer read than anybody waits for, which still can be added to the time.
const SLOWEST: Duration = Duration::from_secs(1 << 20);

/// Holds the completions of another engine back until a device of that rate would have ended them.
pub(crate) struct Throttle {
    inner: Box<dyn IoEngine>,
    // Seconds per byte.
    pace: f64,
    latency: Duration,
    // When the pretended device will have read everything submitted so far.
    busy_until: Instant,
    due: HashMap<u64, Instant>,
    held: Vec<(Instant, Completion)>,
    arrived: Vec<Completion>,
}

impl Throttle {
    pub(crate) fn new(inner: Box<dyn IoEngine>, gbps: Option<f64>, latency_us: u64) -> Self {
        Self {
            inner,
            pace: gbps.map_or(0.0, |gbps| 1e-9 / gbps),
            latency: Duration::from_micros(latency_us),
            busy_until: Instant::now(),
            due: HashMap::new(),
            held: Vec::new(),
            arrived: Vec::new(),
        }
    }

    fn release(&mut self, done: &mut Vec<Completion>) -> bool {
        let now = Instant::now();
        let before = done.len();
        let mut index = 0;
        while index < self.held.len() {
            if self.held[index].0 <= now {
                done.push(self.held.remove(index).1);
            } else {
                index += 1;
            }
        }
        done.len() > before
    }
}

impl IoEngine for Throttle {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn alignment(&self) -> usize {
        self.inner.alignment()
    }

    fn submit(&mut self, request: ReadRequest) -> Result<(), Error> {
        self.inner.submit(request)?;
        let now = Instant::now();
        let reading = Duration::try_from_secs_f64(request.buffer.nbytes as f64 * self.pace);
        self.busy_until = self.busy_until.max(now) + reading.unwrap_or(SLOWEST).min(SLOWEST);
        self.due
            .insert(request.token, self.busy_until.max(now + self.latency));
        Ok(())
    }

    fn wait(&mut self, done: &mut Vec<Completion>, timeout: Option<Duration>) -> Result<(), Error> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if self.release(done) {
                return Ok(());
            }
            let next_due = self.held.iter().map(|&(due, _)| due).min();
            let until = [deadline, next_due].into_iter().flatten().min();
            let limit = until.map(|until| until.saturating_duration_since(Instant::now()));
            self.inner.wait(&mut self.arrived, limit)?;
            let is_woken = self.arrived.is_empty() && until.is_none_or(|at| Instant::now() < at);
            for completion in self.arrived.drain(..) {
                let due = self
                    .due
                    .remove(&completion.token)
                    .unwrap_or_else(Instant::now);
                self.held.push((due, completion));
            }
            if is_woken || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.release(done);
                return Ok(());
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.held.len()
    }

    fn waker(&self) -> Arc<dyn Waker> {
        self.inner.waker()
    }

    fn register(&mut self, memory: Buffer) {
        self.inner.register(memory);
    }

    fn features(&self) -> Vec<&'static str> {
        self.inner.features()
    }

    fn cached_bytes(&self) -> u64 {
        self.inner.cached_bytes()
    }
}

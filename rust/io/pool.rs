//! Threads that each read one request at a time: the body of `direct`, `buffered` and `mmap`.
//!
//! A device has threads of its own, so that one that does not answer keeps no other waiting.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::error::Error;
use crate::io::source::Source;
use crate::io::{Completion, IoEngine, PAGE_CACHE, ReadRequest, Waker, blocking, check_request};
use crate::sync::atomic::{AtomicBool, Ordering};

// More threads for one device gain nothing at reads of megabytes.
const THREADS_PER_DEVICE: usize = 8;
// Of all devices together; past so many devices they share.
const MAX_THREADS: usize = 32;

enum Event {
    Done(Completion),
    Panicked,
    Woken,
}

/// The engine.
pub(crate) struct Pool {
    name: &'static str,
    alignment: usize,
    sources: Arc<Vec<Source>>,
    // The lane of each source.
    lanes_of: Vec<usize>,
    in_flight: usize,
    lanes: Vec<Lane>,
    events: Receiver<Event>,
    waker: Arc<PoolWaker>,
}

// The threads of a device.
struct Lane {
    requests: Option<Sender<ReadRequest>>,
    // Of requests that no thread has begun: emptied on drop.
    queued: Receiver<ReadRequest>,
    threads: Vec<JoinHandle<()>>,
}

struct PoolWaker {
    // One event at a time, however often somebody wakes.
    is_set: AtomicBool,
    events: Sender<Event>,
}

impl Waker for PoolWaker {
    fn wake(&self) {
        // Pairs with the swap in `wait`: what was written before a wake is seen after the wait.
        if !self.is_set.swap(true, Ordering::AcqRel) {
            // Fails only when the engine is gone.
            let _ = self.events.send(Event::Woken);
        }
    }
}

impl Pool {
    pub(crate) fn new(
        name: &'static str,
        sources: Vec<Source>,
        queue_depth: usize,
    ) -> Result<Self, Error> {
        let (ended, events) = unbounded();
        let alignment = sources
            .iter()
            .map(|source| source.alignment)
            .max()
            .unwrap_or(1);
        let waker = PoolWaker {
            is_set: AtomicBool::new(false),
            events: ended.clone(),
        };
        let lanes_of = lanes_of(sources.iter().map(Source::device));
        let sources = Arc::new(sources);
        let reader = Arc::clone(&sources);
        let read: Arc<Read> = Arc::new(move |request: ReadRequest| {
            // SAFETY: whoever submitted promised the memory until the completion, which comes after.
            unsafe { blocking::read(&reader[request.file as usize], request) }
        });
        let devices = lanes_of.iter().max().map_or(1, |&last| last + 1);
        let lanes = (0..devices)
            .map(|lane| Lane::new(lane, threads_of_each(devices, queue_depth), &read, &ended))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            name,
            alignment,
            sources,
            lanes_of,
            in_flight: 0,
            lanes,
            events,
            waker: Arc::new(waker),
        })
    }

    fn take(&mut self, event: Event, done: &mut Vec<Completion>) -> Result<(), Error> {
        match event {
            Event::Done(completion) => {
                self.in_flight -= 1;
                done.push(completion);
            }
            Event::Panicked => return Err(Error::WorkerPanicked),
            Event::Woken => {
                // Pairs with the swap in `wake`.
                self.waker.is_set.swap(false, Ordering::AcqRel);
            }
        }
        Ok(())
    }
}

type Read = dyn Fn(ReadRequest) -> Result<usize, Error> + Send + Sync;

// Number devices from 0 in the order in which the sources name them; those past the last lane share.
fn lanes_of(devices: impl Iterator<Item = u64>) -> Vec<usize> {
    let mut known = Vec::new();
    devices
        .map(|device| {
            let found = known.iter().position(|&other| other == device);
            found.unwrap_or_else(|| {
                known.push(device);
                known.len() - 1
            }) % MAX_THREADS
        })
        .collect()
}

// The depth is that of all devices together.
fn threads_of_each(devices: usize, queue_depth: usize) -> usize {
    let most = THREADS_PER_DEVICE.min(MAX_THREADS / devices);
    queue_depth.div_ceil(devices).clamp(1, most)
}

impl Lane {
    fn new(
        lane: usize,
        threads: usize,
        read: &Arc<Read>,
        ended: &Sender<Event>,
    ) -> Result<Self, Error> {
        let (requests, queued) = unbounded();
        let mut made = Self {
            requests: Some(requests),
            queued,
            threads: Vec::new(),
        };
        for number in 0..threads {
            let (read, queued, ended) = (Arc::clone(read), made.queued.clone(), ended.clone());
            let thread = Builder::new()
                .name(format!("airllm-read-{lane}-{number}"))
                .spawn(move || serve(&*read, &queued, &ended))
                .map_err(|error| Error::EngineFailed {
                    reason: format!("no thread: {error}"),
                })?;
            made.threads.push(thread);
        }
        Ok(made)
    }

    fn submit(&self, request: ReadRequest) -> Result<(), Error> {
        let requests = self.requests.as_ref().expect("taken on drop only");
        requests.send(request).map_err(|_| Error::WorkerPanicked)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // The threads end with the channel; what none of them has begun is forgotten.
        self.requests = None;
        while self.queued.try_recv().is_ok() {}
        for thread in self.threads.drain(..) {
            // They catch their own panics.
            let _ = thread.join();
        }
    }
}

fn serve(read: &Read, queued: &Receiver<ReadRequest>, ended: &Sender<Event>) {
    while let Ok(request) = queued.recv() {
        let read = AssertUnwindSafe(|| read(request));
        let event = match catch_unwind(read) {
            Ok(result) => Event::Done(Completion {
                token: request.token,
                result,
            }),
            Err(_) => Event::Panicked,
        };
        if ended.send(event).is_err() {
            return;
        }
    }
}

impl IoEngine for Pool {
    fn name(&self) -> &'static str {
        self.name
    }

    fn alignment(&self) -> usize {
        self.alignment
    }

    fn submit(&mut self, request: ReadRequest) -> Result<(), Error> {
        check_request(&request, self.alignment, self.sources.len())?;
        self.lanes[self.lanes_of[request.file as usize]].submit(request)?;
        self.in_flight += 1;
        Ok(())
    }

    fn wait(&mut self, done: &mut Vec<Completion>, timeout: Option<Duration>) -> Result<(), Error> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let event = match deadline {
            Some(deadline) => self.events.recv_deadline(deadline).ok(),
            None => self.events.recv().ok(),
        };
        if let Some(event) = event {
            self.take(event, done)?;
        }
        while let Ok(event) = self.events.try_recv() {
            self.take(event, done)?;
        }
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn waker(&self) -> Arc<dyn Waker> {
        Arc::clone(&self.waker) as _
    }

    fn features(&self) -> Vec<&'static str> {
        let is_hot = self.sources.iter().any(Source::is_hot);
        is_hot.then_some(PAGE_CACHE).into_iter().collect()
    }

    fn cached_bytes(&self) -> u64 {
        self.sources.iter().map(Source::cached_bytes).sum()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // What no thread has begun is forgotten everywhere before any of them is waited for.
        for lane in &mut self.lanes {
            lane.requests = None;
            while lane.queued.try_recv().is_ok() {}
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::{Arc, Mutex};

    use crossbeam_channel::unbounded;

    use crate::io::pool::{Event, Lane, MAX_THREADS, Read, lanes_of, threads_of_each};
    use crate::io::{Buffer, ReadRequest};

    fn request(token: u64, file: u32) -> ReadRequest {
        let buffer = Buffer {
            ptr: std::ptr::null_mut(),
            nbytes: 0,
        };
        ReadRequest {
            token,
            file,
            offset: 0,
            buffer,
            needed: 0,
        }
    }

    #[test]
    fn a_device_that_does_not_answer_keeps_no_other_waiting() {
        let lanes_of = lanes_of([7, 9].into_iter());
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock().unwrap();
        let stalls = Arc::clone(&gate);
        let read: Arc<Read> = Arc::new(move |request: ReadRequest| {
            if request.file == 0 {
                drop(stalls.lock());
            }
            Ok(0)
        });
        let (ended, events) = unbounded();
        let lanes: Vec<Lane> = (0..2)
            .map(|lane| Lane::new(lane, threads_of_each(2, 8), &read, &ended).unwrap())
            .collect();
        let submit = |token, file: u32| lanes[lanes_of[file as usize]].submit(request(token, file));
        // More than there are threads in all.
        (0..40).for_each(|token| submit(token, 0).unwrap());
        (40..60).for_each(|token| submit(token, 1).unwrap());
        let mut tokens: Vec<u64> = (0..20)
            .map(|_| match events.recv().unwrap() {
                Event::Done(completion) => completion.token,
                _ => panic!("nothing else happens"),
            })
            .collect();
        tokens.sort_unstable();
        assert_eq!(tokens, (40..60).collect::<Vec<_>>());
        drop(closed);
    }

    #[test]
    fn threads_are_bounded_however_many_devices_there_are() {
        assert_eq!(lanes_of([5, 5, 3, 5].into_iter()), [0, 0, 1, 0]);
        assert_eq!(threads_of_each(1, 4), 4);
        assert_eq!(threads_of_each(1, 64), 8);
        assert_eq!(threads_of_each(2, 64), 8);
        for count in [1, 3, 32, 100] {
            let devices = lanes_of(0..count).into_iter().max().unwrap() + 1;
            assert!(devices * threads_of_each(devices, 4096) <= MAX_THREADS);
        }
    }
}

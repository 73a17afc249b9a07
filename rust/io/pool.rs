//! Threads that each read one request at a time: the body of `direct`, `buffered` and `mmap`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::error::Error;
use crate::io::source::Source;
use crate::io::{Completion, IoEngine, PAGE_CACHE, ReadRequest, Waker, blocking, check_request};
use crate::sync::atomic::{AtomicBool, Ordering};

// More threads gain nothing at reads of megabytes.
const MAX_THREADS: usize = 8;

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
    in_flight: usize,
    requests: Option<Sender<ReadRequest>>,
    // Of requests that no thread has begun: emptied on drop.
    queued: Receiver<ReadRequest>,
    events: Receiver<Event>,
    waker: Arc<PoolWaker>,
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
        let (requests, queued) = unbounded();
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
        let sources = Arc::new(sources);
        let mut pool = Self {
            name,
            alignment,
            sources: Arc::clone(&sources),
            in_flight: 0,
            requests: Some(requests),
            queued,
            events,
            waker: Arc::new(waker),
            threads: Vec::new(),
        };
        for number in 0..queue_depth.min(MAX_THREADS) {
            let (sources, queued, ended) =
                (Arc::clone(&sources), pool.queued.clone(), ended.clone());
            let thread = Builder::new()
                .name(format!("airllm-read-{number}"))
                .spawn(move || serve(&sources, &queued, &ended))
                .map_err(|error| Error::EngineFailed {
                    reason: format!("no thread: {error}"),
                })?;
            pool.threads.push(thread);
        }
        Ok(pool)
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

fn serve(sources: &[Source], queued: &Receiver<ReadRequest>, ended: &Sender<Event>) {
    while let Ok(request) = queued.recv() {
        let read = AssertUnwindSafe(|| {
            // SAFETY: whoever submitted promised the memory until the completion, which comes after.
            unsafe { blocking::read(&sources[request.file as usize], request) }
        });
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
        let requests = self.requests.as_ref().expect("taken on drop only");
        requests.send(request).map_err(|_| Error::WorkerPanicked)?;
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
        // The threads end with the channel; what none of them has begun is forgotten.
        self.requests = None;
        while self.queued.try_recv().is_ok() {}
        for thread in self.threads.drain(..) {
            // They catch their own panics.
            let _ = thread.join();
        }
    }
}

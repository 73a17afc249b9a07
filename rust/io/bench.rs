//! One point of a measurement: an engine that reads as fast as it can, for nobody.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::arena::{Arena, Pages, Usage};
use crate::error::Error;
use crate::extent::Extent;
use crate::io::page_cache::{self, Sample};
use crate::io::{Buffer, Completion, EngineChoice, IoEngine, IoOptions, Opened, ReadRequest};
use crate::io::{choose, mmap};

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Blocks in the order of the files, beginning again after the last, until so many bytes are
    /// read.
    InOrder {
        /// Bytes of a block: a multiple of the engine's alignment.
        block_bytes: usize,
        /// Bytes in all; none for all files once.
        nbytes: Option<u64>,
    },
    /// These, one after the other.
    Replay(Vec<Extent>),
}

/// What is measured.
#[derive(Clone, Debug)]
pub struct Point {
    /// The files.
    pub paths: Vec<PathBuf>,
    /// The engine.
    pub choice: EngineChoice,
    /// Its options; the memory read into has room for `queue_depth` reads.
    pub options: IoOptions,
    /// Pages of that memory.
    pub pages: Pages,
    /// Whether the files are cleared from the page cache before; else they are taken as they are.
    pub is_cold: bool,
    /// What is read.
    pub work: Work,
}

/// How long reads took, from submitting one to getting it back. In nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Half were no slower.
    pub p50_ns: u64,
    /// 99 of 100 were no slower.
    pub p99_ns: u64,
    /// 999 of 1000 were no slower.
    pub p999_ns: u64,
    /// None was slower.
    pub max_ns: u64,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The engine that read.
    pub engine: &'static str,
    /// What it made use of at the end.
    pub features: Vec<&'static str>,
    /// Engines that would have been preferred, and why they could not be used.
    pub refusals: Vec<(&'static str, String)>,
    /// Bytes asked for; what is read beside them to be aligned does not count.
    pub bytes: u64,
    /// Bytes that came from the page cache, by an engine that reads past it.
    pub cached_bytes: u64,
    /// Reads.
    pub requests: u64,
    /// From the first read's start to the last one's end.
    pub wall: Duration,
    /// Processor time of the whole process meanwhile, the kernel's part included.
    pub cpu: Duration,
    /// Of the reads.
    pub latency: Latency,
    /// The memory read into.
    pub memory: Usage,
    /// Pages of the files in the page cache afterwards.
    pub left: Sample,
}

// A read, aligned.
#[derive(Clone, Copy, Debug)]
struct Piece {
    file: u32,
    offset: u64,
    nbytes: usize,
    needed: usize,
    // Of these, what was asked for.
    wanted: u64,
}

enum Order {
    Blocks {
        files: Vec<u64>,
        block_bytes: usize,
        left: u64,
        file: usize,
        offset: u64,
    },
    List(std::vec::IntoIter<Extent>),
}

/// A measurement under way; all its calls are one thread's.
pub struct Bench {
    // Dropped before the arena, which it may still write to.
    engine: Box<dyn IoEngine>,
    arena: Arena,
    paths: Vec<PathBuf>,
    refusals: Vec<(&'static str, String)>,
    order: Order,
    slot_bytes: usize,
    free: Vec<usize>,
    // By slot, which is the token: when it began, and what it is to bring.
    reading: Vec<Option<(Instant, u64)>>,
    done: Vec<Completion>,
    // Wall and processor time at the beginning.
    began: Option<(Instant, Duration)>,
    wall: Duration,
    cpu: Duration,
    bytes: u64,
    latencies: Vec<u64>,
}

impl Bench {
    /// Open the files, clear them from the page cache if they are to be cold, and have the memory
    /// ready.
    ///
    /// # Errors
    /// When no engine can be had, a file stays in the page cache, or the work makes no sense.
    pub fn new(point: Point) -> Result<Self, Error> {
        let Point { paths, options, .. } = point;
        if point.is_cold {
            paths.iter().try_for_each(|path| clear(path))?;
        }
        let Opened {
            mut engine,
            refusals,
        } = choose(&paths, point.choice, options)?;
        if point.is_cold {
            // The probe has read too.
            paths.iter().try_for_each(|path| make_cold(path))?;
        }
        let alignment = engine.alignment();
        let may_wrap = !(point.is_cold && engine.name() == mmap::NAME);
        let (order, slot_bytes) = order(point.work, &paths, alignment, may_wrap)?;
        let depth = options.queue_depth;
        let arena_bytes = slot_bytes
            .checked_mul(depth)
            .ok_or(Error::ArenaTooLarge { needed: u64::MAX })?;
        let arena = Arena::with_pages(arena_bytes, point.pages)?;
        // Touched before the clock runs: a ring is used for hours.
        // SAFETY: the arena is new, and nobody else's.
        unsafe { arena.as_ptr().write_bytes(1, arena.nbytes()) };
        engine.register(Buffer {
            ptr: arena.as_ptr(),
            nbytes: arena.nbytes(),
        });
        Ok(Self {
            engine,
            arena,
            paths,
            refusals,
            order,
            slot_bytes,
            free: (0..depth).collect(),
            reading: vec![None; depth],
            done: Vec::new(),
            began: None,
            wall: Duration::ZERO,
            cpu: Duration::ZERO,
            bytes: 0,
            latencies: Vec::new(),
        })
    }

    /// Read for so long; true when all is read. The clock runs between calls too.
    ///
    /// # Errors
    /// When a read fails.
    pub fn run_for(&mut self, time: Duration) -> Result<bool, Error> {
        let until = Instant::now() + time;
        let (began, cpu) = *self
            .began
            .get_or_insert_with(|| (Instant::now(), processor_time()));
        loop {
            self.submit()?;
            if self.free.len() == self.reading.len() {
                return Ok(true);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.engine.wait(&mut self.done, Some(left))?;
            let now = Instant::now();
            for Completion { token, result } in self.done.drain(..) {
                result?;
                let slot = token as usize;
                let Some((since, wanted)) = self.reading.get_mut(slot).and_then(Option::take)
                else {
                    continue;
                };
                self.free.push(slot);
                self.bytes += wanted;
                let latency = now.saturating_duration_since(since).as_nanos();
                self.latencies
                    .push(u64::try_from(latency).unwrap_or(u64::MAX));
            }
            self.wall = now.saturating_duration_since(began);
            self.cpu = processor_time().saturating_sub(cpu);
        }
    }

    fn submit(&mut self) -> Result<(), Error> {
        while let Some(&slot) = self.free.last() {
            let Some(piece) = self.order.next(self.engine.alignment())? else {
                break;
            };
            self.free.pop();
            self.reading[slot] = Some((Instant::now(), piece.wanted));
            let place = slot * self.slot_bytes;
            self.engine.submit(ReadRequest {
                token: slot as u64,
                file: piece.file,
                offset: piece.offset,
                buffer: Buffer {
                    ptr: self.arena.as_ptr().wrapping_add(place),
                    nbytes: piece.nbytes,
                },
                needed: piece.needed,
            })?;
        }
        Ok(())
    }

    /// What was measured until now.
    #[must_use]
    pub fn measured(&self) -> Measured {
        let mut left = Sample::default();
        for path in &self.paths {
            let found = look(path).unwrap_or_default();
            left.cached += found.cached;
            left.sampled += found.sampled;
        }
        Measured {
            engine: self.engine.name(),
            features: self.engine.features(),
            refusals: self.refusals.clone(),
            bytes: self.bytes,
            cached_bytes: self.engine.cached_bytes(),
            requests: self.latencies.len() as u64,
            wall: self.wall,
            cpu: self.cpu,
            latency: Latency::of(self.latencies.clone()),
            memory: self.arena.usage(),
            left,
        }
    }
}

impl Latency {
    fn of(mut latencies: Vec<u64>) -> Self {
        latencies.sort_unstable();
        // The nearest rank.
        let at = |thousandths: usize| {
            let rank = (latencies.len() * thousandths).div_ceil(1000);
            latencies
                .get(rank.saturating_sub(1))
                .copied()
                .unwrap_or_default()
        };
        Self {
            p50_ns: at(500),
            p99_ns: at(990),
            p999_ns: at(999),
            max_ns: at(1000),
        }
    }
}

impl Order {
    fn next(&mut self, alignment: usize) -> Result<Option<Piece>, Error> {
        let extent = match self {
            Self::List(extents) => extents.next(),
            Self::Blocks { left: 0, .. } => None,
            Self::Blocks {
                files,
                block_bytes,
                left,
                file,
                offset,
            } => {
                // Some file has bytes: checked when this was made.
                while *offset >= files[*file] {
                    *file = (*file + 1) % files.len();
                    *offset = 0;
                }
                let nbytes = (files[*file] - *offset).min(*block_bytes as u64).min(*left);
                let extent = Extent {
                    file: *file as u32,
                    offset: *offset,
                    nbytes,
                };
                *offset += nbytes;
                *left -= nbytes;
                Some(extent)
            }
        };
        extent.map(|extent| aligned(extent, alignment)).transpose()
    }
}

fn aligned(extent: Extent, alignment: usize) -> Result<Piece, Error> {
    let too_large = || Error::ExtentTooLarge {
        file: extent.file,
        offset: extent.offset,
        nbytes: extent.nbytes,
    };
    let lead = extent.offset % alignment as u64;
    let needed = extent
        .nbytes
        .checked_add(lead)
        .and_then(|needed| usize::try_from(needed).ok())
        .ok_or_else(too_large)?;
    Ok(Piece {
        file: extent.file,
        offset: extent.offset - lead,
        nbytes: needed
            .checked_next_multiple_of(alignment)
            .ok_or_else(too_large)?,
        needed,
        wanted: extent.nbytes,
    })
}

// The order of the reads, and the room that each needs.
fn order(
    work: Work,
    paths: &[PathBuf],
    alignment: usize,
    may_wrap: bool,
) -> Result<(Order, usize), Error> {
    let refuse = |option, bounds, value: String| {
        Err(Error::IoOption {
            option,
            bounds,
            value,
        })
    };
    match work {
        Work::Replay(extents) => {
            let mut room = alignment;
            for &extent in &extents {
                room = room.max(aligned(extent, alignment)?.nbytes);
            }
            // Slots stay aligned whatever the extents are.
            let room = room.next_multiple_of(4096);
            Ok((Order::List(extents.into_iter()), room))
        }
        Work::InOrder {
            block_bytes,
            nbytes,
        } => {
            let length = |path: &PathBuf| path.metadata().map(|found| found.len());
            let files = paths
                .iter()
                .map(|path| length(path).map_err(|error| Error::open(error, path)))
                .collect::<Result<Vec<_>, _>>()?;
            let all = files.iter().sum();
            if all == 0 {
                return refuse("paths", "files with bytes in them", format!("{paths:?}"));
            }
            if block_bytes == 0 || !block_bytes.is_multiple_of(alignment) {
                let bounds = "a multiple of the engine's alignment, and more than 0";
                return refuse("block_bytes", bounds, block_bytes.to_string());
            }
            let left = nbytes.unwrap_or(all);
            if left > all && !may_wrap {
                let bounds = "at most the files' length with mmap, which caches what it reads";
                return refuse("total_bytes", bounds, left.to_string());
            }
            let order = Order::Blocks {
                files,
                block_bytes,
                left,
                file: 0,
                offset: 0,
            };
            Ok((order, block_bytes))
        }
    }
}

fn clear(path: &Path) -> Result<(), Error> {
    let open = |error| Error::open(error, path);
    let file = File::open(path).map_err(open)?;
    // Pages that are not on the disk yet cannot be cleared.
    let _ = file.sync_data();
    page_cache::clear(&file, 0, file.metadata().map_err(open)?.len());
    Ok(())
}

fn look(path: &Path) -> Result<Sample, Error> {
    let open = |error| Error::open(error, path);
    let file = page_cache::open(path).map_err(open)?;
    let nbytes = file.metadata().map_err(open)?.len();
    Ok(page_cache::sample(&file, nbytes, u64::MAX))
}

fn make_cold(path: &Path) -> Result<(), Error> {
    let is_empty = path.metadata().is_ok_and(|found| found.len() == 0);
    let mut found = Sample::default();
    // Pages that the kernel is moving about stay the first time.
    for _ in 0..3 {
        clear(path)?;
        found = look(path)?;
        if found.cached == 0 && (found.sampled > 0 || is_empty) {
            return Ok(());
        }
    }
    let Sample { cached, sampled } = found;
    Err(Error::NotCold {
        path: path.to_owned(),
        cached,
        sampled,
    })
}

// Of all threads, those of the kernel that read for them included.
fn processor_time() -> Duration {
    #[cfg(unix)]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::try_from(time).unwrap_or_default()
    }
    // Not built here.
    #[cfg(not(unix))]
    Duration::ZERO
}

//! Makes the files of a store: many threads, bounded memory, each file whole or absent.

use std::collections::{HashSet, VecDeque};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::thread::{Builder, scope};

use crate::error::Error;
use crate::io::block::{Block, BlockFiles};
use crate::quant::encode::{Effort, NotFinite, encode_row};
use crate::quant::float::{Float, bf16_to_f32, f16_to_f32};
use crate::quant::scheme::Scheme;
use crate::store::checksum::Pieces;
use crate::store::disk::{self, Output, Step, Watch};
use crate::store::format::{self, Layout};
use crate::store::job::{Encoding, FileJob, Planned, Task};
use crate::store::manifest::FileRecord;
use crate::store::progress::Progress;
use crate::sync::{Arc, Mutex, MutexGuard};

/// The directory with a record of each finished file, which goes when the store is complete.
pub const RECORDS: &str = ".airllm_rs-progress";

/// How much memory and how many threads.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Threads that read, encode and write; at least 1. Some wait for the disk.
    pub threads: usize,
    /// Bytes of the source that a thread works on at a time; at least a row of every matrix. It
    /// takes up to twice this for them and for what becomes of them.
    pub block_nbytes: usize,
    /// How long scales are searched for.
    pub effort: Effort,
}

/// Make `jobs`, in this order, in `directories`, from `sources`; those that were finished before, of
/// the same source and the same scheme, are taken as they are. A failure leaves what is finished.
///
/// # Errors
/// When the source cannot be read, the disk is full, or nobody wants it any more.
pub fn write(
    directories: &[PathBuf],
    sources: &[PathBuf],
    jobs: Vec<FileJob>,
    options: Options,
    progress: &Progress,
    watch: &Watch<'_>,
) -> Result<Vec<FileRecord>, Error> {
    let order: Vec<_> = jobs
        .iter()
        .map(|job| (job.directory, job.name.clone()))
        .collect();
    let writer = Writer {
        directories,
        sources: BlockFiles::open(sources)?,
        options,
        progress,
        watch,
        state: Mutex::new(State {
            jobs: jobs.into_iter().map(|job| (job, HashSet::new())).collect(),
            current: None,
            records: Vec::new(),
            error: None,
        }),
    };
    scope(|scope| {
        let mut helpers = Vec::new();
        for number in 1..options.threads {
            let name = format!("airllm-shard-{number}");
            // Fewer threads do as well.
            helpers.extend(
                Builder::new()
                    .name(name)
                    .spawn_scoped(scope, || writer.run()),
            );
        }
        writer.run();
        for helper in helpers {
            if helper.join().is_err() {
                writer.fail(Error::WorkerPanicked);
            }
        }
    });
    let state = writer
        .state
        .into_inner()
        .map_err(|_| Error::WorkerPanicked)?;
    if let Some(error) = state.error {
        return Err(error);
    }
    let mut records = state.records;
    records.sort_by_key(|record| {
        let place = |(directory, name): &(usize, String)| {
            *directory == record.directory && *name == record.name
        };
        order.iter().position(place)
    });
    Ok(records)
}

struct Writer<'a> {
    directories: &'a [PathBuf],
    sources: BlockFiles,
    options: Options,
    progress: &'a Progress,
    watch: &'a Watch<'a>,
    state: Mutex<State>,
}

struct State {
    // With the names of tensors that turned out to hold what is no number.
    jobs: VecDeque<(FileJob, HashSet<String>)>,
    // Tasks of the file that was begun last.
    current: Option<(Arc<OpenFile>, VecDeque<Task>)>,
    records: Vec<FileRecord>,
    error: Option<Error>,
}

// A file that is being made.
struct OpenFile {
    job: FileJob,
    layout: Layout,
    output: Output,
    inner: Mutex<Unfinished>,
}

#[derive(Default)]
struct Unfinished {
    // Of tasks.
    left: usize,
    pieces: Pieces,
    not_finite: HashSet<String>,
    // Whether it has to be made again.
    is_spoiled: bool,
    done_nbytes: u64,
}

// A task and its file; of a file without tasks, none.
type Given = (Arc<OpenFile>, Option<Task>);

// A thread's memory.
struct Scratch {
    block: Block,
    values: Vec<f32>,
    q: Vec<u8>,
    scale: Vec<u8>,
    row: Vec<u8>,
}

impl Writer<'_> {
    // A thread's work, until there is none.
    fn run(&self) {
        if let Err(error) = self.work() {
            self.fail(error);
        }
    }

    fn work(&self) -> Result<(), Error> {
        let mut scratch = Scratch {
            block: Block::new(self.options.block_nbytes)?,
            values: Vec::new(),
            q: Vec::new(),
            scale: Vec::new(),
            row: Vec::new(),
        };
        while let Some((file, task)) = self.next()? {
            if let Some(task) = task {
                self.make(&file, &task, &mut scratch)?;
            }
            let is_last = {
                let mut inner = lock(&file.inner)?;
                inner.left -= 1;
                inner.left == 0
            };
            if is_last {
                self.finish(&file)?;
            }
        }
        Ok(())
    }

    fn next(&self) -> Result<Option<Given>, Error> {
        self.progress.check()?;
        let mut state = lock(&self.state)?;
        loop {
            if state.error.is_some() {
                return Ok(None);
            }
            if let Some((file, tasks)) = &mut state.current {
                if let Some(task) = tasks.pop_front() {
                    return Ok(Some((Arc::clone(file), Some(task))));
                }
                state.current = None;
            }
            let Some((job, not_finite)) = state.jobs.pop_front() else {
                return Ok(None);
            };
            if let Some(record) = self.finished(&job)? {
                self.progress.add_reused();
                self.progress.add_bytes(job.source_nbytes());
                state.records.push(record);
                continue;
            }
            let (file, tasks) = self.begin(job, not_finite)?;
            let file = Arc::new(file);
            if tasks.is_empty() {
                return Ok(Some((file, None)));
            }
            state.current = Some((file, tasks));
        }
    }

    fn path(&self, job: &FileJob) -> PathBuf {
        self.directories[job.directory].join(&job.name)
    }

    fn record_path(&self, job: &FileJob) -> PathBuf {
        let name = format!("{}.json", job.name);
        self.directories[job.directory].join(RECORDS).join(name)
    }

    // The record of a file that was finished before, of the same source and scheme.
    fn finished(&self, job: &FileJob) -> Result<Option<FileRecord>, Error> {
        let Ok(json) = fs::read(self.record_path(job)) else {
            return Ok(None);
        };
        let Ok(record) = serde_json::from_slice::<FileRecord>(&json) else {
            return Ok(None);
        };
        let not_finite: HashSet<_> = record.not_finite.iter().cloned().collect();
        let layout = self.lay_out(job, &not_finite)?.0;
        let is_whole = record.name == job.name
            && record.layer == job.layer
            && record.nbytes == layout.nbytes
            && begins_with(&self.path(job), &layout.header, layout.nbytes);
        let directory = job.directory;
        Ok(is_whole.then_some(FileRecord {
            directory,
            ..record
        }))
    }

    fn lay_out(
        &self,
        job: &FileJob,
        not_finite: &HashSet<String>,
    ) -> Result<(Layout, Planned), Error> {
        let planned = job.plan(not_finite, self.options.block_nbytes as u64)?;
        let layout = format::lay_out(&planned.placed, &job.metadata)?;
        Ok((layout, planned))
    }

    fn begin(
        &self,
        job: FileJob,
        not_finite: HashSet<String>,
    ) -> Result<(OpenFile, VecDeque<Task>), Error> {
        let (layout, planned) = self.lay_out(&job, &not_finite)?;
        let output = Output::create(self.path(&job), layout.nbytes, self.watch)?;
        let mut pieces = Pieces::default();
        let mut fixed = vec![(0, layout.header.clone())];
        for (placed, bytes) in planned.fixed {
            fixed.push((layout.offsets[placed], bytes));
        }
        for (offset, bytes) in fixed {
            output.write(offset, &bytes, self.watch)?;
            pieces.add(offset, &bytes);
        }
        for &(offset, nbytes) in &layout.pads {
            // Less than the alignment of a unit; the file is made of zeros.
            pieces.add(offset, &vec![0; nbytes as usize]);
        }
        let inner = Mutex::new(Unfinished {
            left: planned.tasks.len().max(1),
            pieces,
            not_finite,
            is_spoiled: false,
            done_nbytes: 0,
        });
        let file = OpenFile {
            job,
            layout,
            output,
            inner,
        };
        Ok((file, planned.tasks.into()))
    }

    fn make(&self, file: &OpenFile, task: &Task, scratch: &mut Scratch) -> Result<(), Error> {
        if lock(&file.inner)?.is_spoiled {
            return Ok(());
        }
        let tensor = &file.job.tensors[task.tensor()];
        let source = tensor.source;
        let (offset, nbytes) = match task {
            Task::Copy { bytes, .. } => (source.offset + bytes.start, bytes.end - bytes.start),
            Task::Encode { rows, encoding, .. } => {
                let row_nbytes = (encoding.cols * encoding.float.nbytes()) as u64;
                let nbytes = (rows.end - rows.start) * row_nbytes;
                (source.offset + rows.start * row_nbytes, nbytes)
            }
        };
        // A task is no larger than a block.
        let nbytes = nbytes as usize;
        let Scratch {
            block,
            values,
            q,
            scale,
            row,
        } = scratch;
        let bytes = self
            .sources
            .read(source.file as usize, offset, nbytes, block)?;
        let mut pieces = Pieces::default();
        let mut put = |placed: usize, skipped: u64, bytes: &[u8]| {
            let offset = file.layout.offsets[placed] + skipped;
            pieces.add(offset, bytes);
            file.output.write(offset, bytes, self.watch)
        };
        match task {
            Task::Copy {
                placed,
                bytes: range,
                ..
            } => put(*placed, range.start, bytes)?,
            Task::Encode { encoding, rows, .. } => {
                let parts = Parts { q, scale, row };
                if encode(encoding, self.options.effort, bytes, values, parts).is_err() {
                    let mut inner = lock(&file.inner)?;
                    inner.is_spoiled = true;
                    inner.not_finite.insert(tensor.name.clone());
                    return Ok(());
                }
                let count = rows.end - rows.start;
                let skipped = |part: &[u8]| rows.start * (part.len() as u64 / count);
                put(encoding.q, skipped(q), q)?;
                put(encoding.scale, skipped(scale), scale)?;
                if let Some(placed) = encoding.row {
                    put(placed, skipped(row), row)?;
                }
            }
        }
        let mut inner = lock(&file.inner)?;
        inner.pieces.append(pieces);
        inner.done_nbytes += nbytes as u64;
        self.progress.add_bytes(nbytes as u64);
        Ok(())
    }

    // Called once, by whoever did the last task.
    fn finish(&self, file: &OpenFile) -> Result<(), Error> {
        let (job, layout) = (&file.job, &file.layout);
        let inner = std::mem::take(&mut *lock(&file.inner)?);
        if inner.is_spoiled {
            self.progress.take_back(inner.done_nbytes);
            let again = (job.clone(), inner.not_finite);
            lock(&self.state)?.jobs.push_front(again);
            return Ok(());
        }
        file.output.finish(self.watch)?;
        let crc32c = inner.pieces.chunks(layout.nbytes);
        let mut not_finite: Vec<_> = inner.not_finite.into_iter().collect();
        not_finite.sort_unstable();
        let record = FileRecord {
            name: job.name.clone(),
            layer: job.layer.clone(),
            directory: job.directory,
            nbytes: layout.nbytes,
            crc32c: crc32c.expect("the tensors, the header and the pads are all of the file"),
            not_finite,
        };
        let path = self.record_path(job);
        let json = serde_json::to_vec(&record).expect("numbers and strings are JSON");
        (self.watch)(Step::Record, &path)
            .and_then(|()| fs::create_dir_all(path.parent().unwrap_or(Path::new(""))))
            .map_err(|source| disk::fault(source, &path, "recording a finished file".to_owned()))?;
        disk::replace(&path, &json)?;
        self.progress.add_made();
        lock(&self.state)?.records.push(record);
        Ok(())
    }

    fn fail(&self, error: Error) {
        if let Ok(mut state) = self.state.lock() {
            // The first error is the cause of the others.
            state.error.get_or_insert(error);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> Result<MutexGuard<'_, T>, Error> {
    mutex.lock().map_err(|_| Error::WorkerPanicked)
}

// Where the parts of a block of rows go.
struct Parts<'s> {
    q: &'s mut Vec<u8>,
    scale: &'s mut Vec<u8>,
    row: &'s mut Vec<u8>,
}

fn encode(
    encoding: &Encoding,
    effort: Effort,
    bytes: &[u8],
    values: &mut Vec<f32>,
    parts: Parts<'_>,
) -> Result<(), NotFinite> {
    let &Encoding {
        scheme,
        float,
        cols,
        ..
    } = encoding;
    // Of what others read, they have the first word: absmax, as bitsandbytes encodes.
    let effort = if scheme == Scheme::Nf4 {
        Effort::Fast
    } else {
        effort
    };
    let row_nbytes = cols * float.nbytes();
    let rows = bytes.len() / row_nbytes;
    let Parts { q, scale, row } = parts;
    let (q_nbytes, scale_nbytes) = (scheme.q_bytes(cols), scheme.scale_bytes(cols));
    q.resize(rows * q_nbytes, 0);
    scale.resize(rows * scale_nbytes, 0);
    row.clear();
    let outputs = q
        .chunks_exact_mut(q_nbytes)
        .zip(scale.chunks_exact_mut(scale_nbytes));
    for (bytes, (q, scale)) in bytes.chunks_exact(row_nbytes).zip(outputs) {
        load(float, bytes, values);
        let factor = encode_row(scheme, effort, values, q, scale)?;
        row.extend(factor.to_le_bytes());
    }
    Ok(())
}

fn load(float: Float, bytes: &[u8], values: &mut Vec<f32>) {
    values.clear();
    let (pairs, _) = bytes.as_chunks();
    match float {
        Float::Bf16 => values.extend(
            pairs
                .iter()
                .map(|&pair| bf16_to_f32(u16::from_le_bytes(pair))),
        ),
        Float::F16 => values.extend(
            pairs
                .iter()
                .map(|&pair| f16_to_f32(u16::from_le_bytes(pair))),
        ),
        Float::F32 => values.extend(
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|&four| f32::from_le_bytes(four)),
        ),
    }
}

// Whether a file has this size and these first bytes.
fn begins_with(path: &Path, start: &[u8], nbytes: u64) -> bool {
    let compare = || -> std::io::Result<bool> {
        let file = File::open(path)?;
        if file.metadata()?.len() != nbytes {
            return Ok(false);
        }
        let mut found = Vec::with_capacity(start.len());
        file.take(start.len() as u64).read_to_end(&mut found)?;
        Ok(found == start)
    };
    compare().unwrap_or(false)
}

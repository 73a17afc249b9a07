//! The one enum for everything that can go wrong.

mod store;

use std::io;
use std::path::{Path, PathBuf};

pub use crate::error::store::{ManifestFault, StoreError};

/// What went wrong, with the data that tells where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a read.
    #[error("{}: reading {nbytes} bytes at offset {offset} with {engine}: {source}", path.display())]
    Io {
        /// The kernel's answer.
        source: io::Error,
        /// The file.
        path: PathBuf,
        /// Where the read began.
        offset: u64,
        /// How much was asked for.
        nbytes: u64,
        /// The engine that read.
        engine: &'static str,
    },
    /// A file could not be opened or examined.
    #[error("{}: {source}", path.display())]
    Open {
        /// The kernel's answer.
        source: io::Error,
        /// The file.
        path: PathBuf,
    },
    /// A file ends where bytes were promised.
    #[error(
        "{}: ends early: {found} of {expected} bytes at offset {offset}; was it truncated while it was read?",
        path.display()
    )]
    UnexpectedEof {
        /// The file.
        path: PathBuf,
        /// Where the read began.
        offset: u64,
        /// Bytes that had to be there.
        expected: u64,
        /// Bytes that were there.
        found: u64,
    },
    /// A file was changed or replaced since it was opened.
    #[error("{}: changed while it was read; load the model again", path.display())]
    CheckpointChanged {
        /// The file.
        path: PathBuf,
    },

    /// The variable that forces a SIMD tier names one that is not there.
    #[error("AIRLLM_RS_SIMD={name} is not available here; available: {available}")]
    SimdTier {
        /// What it says.
        name: String,
        /// What it could say.
        available: String,
    },
    /// The description of a layout makes no sense.
    #[error("the layout of a packed weight: {source}")]
    Layout {
        /// Where.
        source: serde_json::Error,
    },
    /// A layout has a number that it cannot have.
    #[error("the layout of a packed weight: {option} is {found}")]
    LayoutOption {
        /// What the number is.
        option: &'static str,
        /// The number.
        found: usize,
    },
    /// A layout has scales that it cannot have.
    #[error("the layout of a packed weight: scales of {kind} cannot be {found}")]
    LayoutScale {
        /// What layout.
        kind: &'static str,
        /// What its scales are.
        found: String,
    },
    /// A part of a packed weight is smaller than its layout and shape demand.
    #[error("part {part} of a packed weight has {found} bytes, needs {needed}")]
    WeightPart {
        /// The part.
        part: &'static str,
        /// Bytes that it must have.
        needed: usize,
        /// Bytes that it has.
        found: usize,
    },
    /// A packed weight of a shape that its layout cannot have.
    #[error(
        "a packed weight of shape ({rows}, {cols}): columns must be a positive multiple of {step}"
    )]
    WeightShape {
        /// Its rows.
        rows: usize,
        /// Its columns.
        cols: usize,
        /// What the columns must be a multiple of.
        step: usize,
    },
    /// A column of a packed weight belongs to a group that does not exist.
    #[error("a column of a packed weight belongs to group {group} of {groups}")]
    WeightGroup {
        /// The number of the group.
        group: usize,
        /// How many there are.
        groups: usize,
    },

    /// What a product or attention works on does not fit together.
    #[error("{what} do not fit: {found}, expected {needed}")]
    ProductShape {
        /// What does not fit.
        what: &'static str,
        /// What it must be, or at most.
        needed: usize,
        /// What it is.
        found: usize,
    },
    /// What scores of attention are capped at is no number above zero.
    #[error("softcap is {found}: it must be a finite number above zero; None for no cap")]
    Softcap {
        /// What it is.
        found: f32,
    },
    /// Memory for what a kernel works with cannot be had.
    #[error("{what} needs {needed} bytes of memory, which cannot be had")]
    NoMemory {
        /// What needs it.
        what: &'static str,
        /// Bytes asked for.
        needed: usize,
    },
    /// Packed integers, or where they are to go, are not as large as their shape says.
    #[error("{what}: {found} bytes, expected {needed}")]
    RepackSize {
        /// Which of them.
        what: &'static str,
        /// Bytes that it must have.
        needed: usize,
        /// Bytes that it has.
        found: usize,
    },
    /// Packed integers of a shape that does not fill words, or is too large to count.
    #[error("{rows} x {cols} integers of {bits} bits do not fill words")]
    RepackShape {
        /// Rows of the result.
        rows: usize,
        /// Columns of the result.
        cols: usize,
        /// Bits of each.
        bits: usize,
    },
    /// A safetensors file is not what it claims to be.
    #[error("{}: at offset {offset}: {fault}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// Where in the file the contradiction lies.
        offset: u64,
        /// The contradiction.
        fault: HeaderFault,
    },
    /// An index of checkpoint files cannot be used.
    #[error("{}: {fault}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        fault: IndexFault,
    },
    /// A path that is neither a safetensors file nor a directory with one.
    #[error(
        "{}: no safetensors checkpoint: expected a .safetensors file, or a directory with \
         model.safetensors or model.safetensors.index.json",
        path.display()
    )]
    NoCheckpoint {
        /// What was given.
        path: PathBuf,
    },
    /// A dtype that safetensors does not have.
    #[error("unknown dtype {code:?}")]
    UnknownDtype {
        /// The code found.
        code: String,
    },
    /// A shape whose size in bytes does not exist: it overflows, or ends within a byte.
    #[error("a tensor of shape {shape:?} and {bits} bits an item has no size in bytes")]
    ShapeSize {
        /// The shape.
        shape: Vec<u64>,
        /// Bits of one item.
        bits: u32,
    },

    /// An engine that was asked for by name cannot read these files.
    #[error("{}: engine {engine} cannot be used: {reason}", path.display())]
    EngineUnavailable {
        /// The engine.
        engine: &'static str,
        /// A file of the file system that it cannot read.
        path: PathBuf,
        /// What its probe found.
        reason: String,
    },
    /// An engine that does not exist.
    #[error("unknown engine {name:?}; there are auto, uring, direct, buffered and mmap")]
    UnknownEngine {
        /// The name given.
        name: String,
    },
    /// An option of the engines that is out of bounds.
    #[error("{option} must be {bounds}, not {value}")]
    IoOption {
        /// The option.
        option: &'static str,
        /// What it may be.
        bounds: &'static str,
        /// What it was.
        value: String,
    },
    /// A file that does not leave the page cache, where a measurement wants it out.
    #[error(
        "{}: cannot be made cold: {cached} of {sampled} pages looked at stay in the page cache (0 of 0: \
         the kernel does not tell)",
        path.display()
    )]
    NotCold {
        /// The file.
        path: PathBuf,
        /// Pages that are in the page cache.
        cached: u64,
        /// Pages looked at.
        sampled: u64,
    },
    /// The engine itself, or its thread, cannot go on.
    #[error("reading stopped: {reason}")]
    EngineFailed {
        /// Why.
        reason: String,
    },
    /// A request that no engine takes: wrong alignment, no such file, more needed than there is room.
    #[error(
        "a read of {nbytes} bytes at offset {offset} of file {file} does not fit alignment {alignment}, \
         the {files} opened files or its {needed} needed bytes"
    )]
    BadRequest {
        /// Index of the file.
        file: u32,
        /// Where the read would begin.
        offset: u64,
        /// Room in the buffer.
        nbytes: usize,
        /// Bytes that were needed.
        needed: usize,
        /// The engine's alignment.
        alignment: usize,
        /// How many files the engine has.
        files: usize,
    },
    /// A completion with fewer bytes than it had to have.
    #[error("a read at offset {offset} ended with {nbytes} of {needed} bytes")]
    ShortCompletion {
        /// Where the read began.
        offset: u64,
        /// Bytes that were needed.
        needed: usize,
        /// Bytes that came.
        nbytes: usize,
    },
    /// A row that is not in the table.
    #[error("{}: row {row} of {rows} rows does not exist", path.display())]
    NoSuchRow {
        /// The file.
        path: PathBuf,
        /// The row asked for.
        row: u64,
        /// How many rows the file can hold from the table's start.
        rows: u64,
    },
    /// An output whose size is not that of the rows.
    #[error("{rows} rows of {row_nbytes} bytes do not fill {found} bytes of output")]
    OutputSize {
        /// How many rows.
        rows: usize,
        /// Bytes of one row.
        row_nbytes: usize,
        /// Bytes of the output.
        found: usize,
    },

    /// Memory for the weights cannot be had.
    #[error("{needed} bytes of memory for the weights cannot be had; give a smaller budget")]
    ArenaTooLarge {
        /// Bytes asked for.
        needed: u64,
    },
    /// Memory cannot be kept from being swapped out.
    #[error("{nbytes} bytes of weights are not locked in memory: {source}")]
    NotLocked {
        /// How many.
        nbytes: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// An extent that ends beyond what can be counted.
    #[error("{nbytes} bytes at offset {offset} of file {file} end beyond what can be addressed")]
    ExtentTooLarge {
        /// Index of the file.
        file: u32,
        /// Where it begins.
        offset: u64,
        /// Its length.
        nbytes: u64,
    },
    /// An item size that memory cannot be aligned to.
    #[error("item size {item_size} is not a power of two from 1 to 4096")]
    ItemSize {
        /// The item size.
        item_size: u32,
    },
    /// Parts of a unit that share bytes but cannot both be aligned.
    #[error(
        "parts of a unit overlap at offset {offset} of file {file} and cannot all be aligned to their items"
    )]
    PartsOverlap {
        /// Index of the file.
        file: u32,
        /// Where the shared bytes begin.
        offset: u64,
    },

    /// A unit that does not exist.
    #[error("unit {unit} does not exist; there are {count}")]
    UnknownUnit {
        /// The unit.
        unit: u32,
        /// How many there are.
        count: usize,
    },
    /// A unit that is a resident twice.
    #[error("unit {unit} is named twice among the residents")]
    RepeatedResident {
        /// The unit's name.
        unit: String,
    },
    /// A unit that the ring cannot hold.
    #[error("unit {unit} needs {needed} bytes, the ring has {ring}; give it a larger ring")]
    UnitTooLarge {
        /// The unit's name.
        unit: String,
        /// Bytes of its slot.
        needed: usize,
        /// Bytes of the ring.
        ring: usize,
    },
    /// A unit was taken that nobody reads.
    #[error("unit {unit} is neither scheduled nor demanded")]
    NotScheduled {
        /// The unit's name.
        unit: String,
    },
    /// Leases that are in the way.
    #[error("still leased: {}; drop these leases first", units.join(", "))]
    LeaseHeld {
        /// The units' names.
        units: Vec<String>,
    },
    /// Two consumers at a time.
    #[error("another thread is taking a unit")]
    ConsumerBusy,
    /// A thread failed in a way that it must not.
    #[error("the I/O thread panicked; this is a bug")]
    WorkerPanicked,
    /// A shard store cannot be made, or is not what it claims to be.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The readahead was closed.
    #[error("the readahead is closed")]
    Closed,
    /// A copy of the process without its I/O thread.
    #[error("the process was forked: load the model again in the child")]
    Forked,
}

impl Error {
    /// A read that the kernel refused.
    pub(crate) fn io(
        source: io::Error,
        path: &Path,
        offset: u64,
        nbytes: usize,
        engine: &'static str,
    ) -> Self {
        Self::Io {
            source,
            path: path.to_owned(),
            offset,
            nbytes: nbytes as u64,
            engine,
        }
    }

    /// A file that could not be opened or examined.
    pub(crate) fn open(source: io::Error, path: &Path) -> Self {
        Self::Open {
            source,
            path: path.to_owned(),
        }
    }
}

/// What a safetensors file contradicts itself about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderFault {
    /// Too short for the length of its header.
    #[error("the file has {found} bytes, a safetensors file at least 8")]
    NoLength {
        /// Size of the file.
        found: u64,
    },
    /// A header larger than any reader takes.
    #[error(
        "the header is said to have {nbytes} bytes, more than the {limit} allowed; is this a safetensors file?"
    )]
    TooLong {
        /// Its length.
        nbytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The file ends within its header.
    #[error("the header is said to have {nbytes} bytes, the file has {found} after its length")]
    Truncated {
        /// Its length.
        nbytes: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// Not the JSON of a safetensors header.
    #[error("the header is not valid: {message}")]
    NotJson {
        /// What the JSON parser said.
        message: String,
    },
    /// An unknown dtype.
    #[error("tensor {tensor:?} has the unknown dtype {code:?}")]
    Dtype {
        /// The tensor.
        tensor: String,
        /// Its dtype.
        code: String,
    },
    /// A shape without a size.
    #[error("tensor {tensor:?} of shape {shape:?} and {bits} bits an item has no size in bytes")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Bits of one item.
        bits: u32,
    },
    /// Offsets that run backwards.
    #[error("tensor {tensor:?} begins at {begin} and ends before, at {end}")]
    Backwards {
        /// The tensor.
        tensor: String,
        /// Where it begins, from the start of the data.
        begin: u64,
        /// Where it ends.
        end: u64,
    },
    /// A length that dtype and shape contradict.
    #[error("tensor {tensor:?} has {found} bytes, its dtype and shape make {expected}")]
    Length {
        /// The tensor.
        tensor: String,
        /// What dtype and shape make.
        expected: u64,
        /// What the offsets make.
        found: u64,
    },
    /// Two tensors that share bytes.
    #[error("tensor {tensor:?} begins at {begin}, within the one before, which ends at {end}")]
    Overlap {
        /// The second tensor.
        tensor: String,
        /// Where it begins, from the start of the data.
        begin: u64,
        /// Where the first ends.
        end: u64,
    },
    /// Bytes that belong to no tensor.
    #[error(
        "tensor {tensor:?} begins at {begin}, the one before ends at {end}: the bytes between belong to none"
    )]
    Hole {
        /// The tensor after the hole.
        tensor: String,
        /// Where it begins, from the start of the data.
        begin: u64,
        /// Where the one before ends.
        end: u64,
    },
    /// A tensor that another file of the same checkpoint has.
    #[error("tensor {tensor:?} is in another file, too")]
    Repeated {
        /// The tensor.
        tensor: String,
    },
    /// Data that is not as long as the tensors say.
    #[error(
        "the tensors end at {expected}, the file has {found} bytes: it was not copied or downloaded whole"
    )]
    Size {
        /// Size that the tensors make.
        expected: u64,
        /// Size of the file.
        found: u64,
    },
}

/// What is wrong with an index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexFault {
    /// An index larger than any reader takes.
    #[error("the index has {nbytes} bytes, more than the {limit} allowed")]
    TooLong {
        /// Its size.
        nbytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Not the JSON of an index.
    #[error("the index is not valid: {message}")]
    NotJson {
        /// What the JSON parser said.
        message: String,
    },
    /// A file outside the index's directory, or no file name at all.
    #[error("the index names {file:?} for tensor {tensor:?}; only files beside it are read")]
    Escape {
        /// A tensor.
        tensor: String,
        /// Its file.
        file: String,
    },
    /// A file that is not there.
    #[error(
        "the index names {file:?} for tensor {tensor:?}, which does not exist: was the download completed?"
    )]
    MissingFile {
        /// A tensor.
        tensor: String,
        /// Its file.
        file: String,
    },
    /// A tensor that its file does not have.
    #[error("the index names {file:?} for tensor {tensor:?}, which is not in it")]
    MissingTensor {
        /// The tensor.
        tensor: String,
        /// Its file.
        file: String,
    },
}

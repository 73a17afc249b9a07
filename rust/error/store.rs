//! What can be wrong with a shard store.

use std::io;
use std::path::{Path, PathBuf};

/// Why a shard store cannot be made, or is not what its manifest says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The kernel refused a write.
    #[error("{}: {what}: {source}", path.display())]
    Write {
        /// The kernel's answer.
        source: io::Error,
        /// The file.
        path: PathBuf,
        /// What was done, such as `writing 4096 bytes at offset 0`.
        what: String,
    },
    /// A manifest that cannot be used.
    #[error(
        "{}: {fault}; delete the store with `airllm-rs cache rm {}`, then make it again",
        path.display(), directory(path)
    )]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        fault: ManifestFault,
    },
    /// Bytes that are not those that were written.
    #[error(
        "{}: chunk {chunk}, of {tensors}, is corrupt (CRC32C {found:08x}, not {expected:08x}); \
         the same `airllm-rs shard` makes it again",
        path.display()
    )]
    CorruptChunk {
        /// The file.
        path: PathBuf,
        /// Which of its chunks.
        chunk: u64,
        /// Where that begins.
        offset: u64,
        /// Its length.
        nbytes: u64,
        /// The checksum in the manifest.
        expected: u32,
        /// That of the bytes.
        found: u32,
        /// The tensors that have bytes there.
        tensors: String,
    },
    /// A file that is not as long as the manifest says.
    #[error(
        "{}: has {found} bytes, the manifest says {expected}; the same `airllm-rs shard` makes it \
         again",
        path.display()
    )]
    FileSize {
        /// The file.
        path: PathBuf,
        /// The size in the manifest.
        expected: u64,
        /// That of the file.
        found: u64,
    },
    /// A file that the manifest names and that is not there.
    #[error("{}: is missing; the same `airllm-rs shard` makes it again", path.display())]
    MissingFile {
        /// The file.
        path: PathBuf,
    },
    /// A directory of a striped store that belongs to another one, or to none.
    #[error(
        "{}: has no part of the store in {}; is the right disk mounted?",
        path.display(), store.display()
    )]
    ForeignStripe {
        /// The directory.
        path: PathBuf,
        /// The directory of the manifest.
        store: PathBuf,
    },
    /// A tensor that cannot be made of its source.
    #[error("tensor {tensor:?}: {reason}")]
    Job {
        /// The tensor.
        tensor: String,
        /// Why.
        reason: String,
    },
    /// The caller wanted no more.
    #[error("interrupted; what is finished is kept")]
    Interrupted,
}

/// What is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestFault {
    /// Larger than any manifest.
    #[error("the manifest has more than the {limit} bytes allowed")]
    TooLong {
        /// The limit.
        limit: u64,
    },
    /// Not the JSON of a manifest.
    #[error("the manifest is not valid: {message}")]
    NotJson {
        /// What the JSON parser said.
        message: String,
    },
    /// Of a format that this version does not read.
    #[error("the store has format version {found}, this version reads {known}")]
    Version {
        /// The version found.
        found: u64,
        /// The version that is read.
        known: u32,
    },
    /// A name that could lead elsewhere.
    #[error("the manifest names {name:?}; only plain names are taken, of weights .safetensors")]
    Escape {
        /// The name.
        name: String,
    },
    /// A file that is named twice.
    #[error("the manifest names {name:?} twice")]
    Repeated {
        /// The name.
        name: String,
    },
    /// A directory that is not in the list, or is not absolute.
    #[error("the manifest says that {name:?} is in directory {directory}, which it does not give")]
    Directory {
        /// The file.
        name: String,
        /// The directory's number.
        directory: usize,
    },
    /// Checksums that are not as many as the file has chunks.
    #[error("the manifest has {found} checksums of {name:?}, whose {nbytes} bytes have {expected}")]
    Checksums {
        /// The file.
        name: String,
        /// Its size.
        nbytes: u64,
        /// How many there have to be.
        expected: u64,
        /// How many there are.
        found: usize,
    },
}

// Of a manifest, in words.
fn directory(manifest: &Path) -> std::path::Display<'_> {
    manifest.parent().unwrap_or(manifest).display()
}

//! Byte ranges of files, and how the parts of a unit lie in a slot.

/// A range of bytes of one of the opened files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Index into the list of opened files.
    pub file: u32,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Length in bytes.
    pub nbytes: u64,
}

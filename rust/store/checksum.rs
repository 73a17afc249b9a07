//! CRC32C of a file by chunks of 8 MiB, from pieces that were written in any order.

/// What one checksum covers.
pub const CHUNK_NBYTES: u64 = 8 << 20;

/// How many checksums a file of `nbytes` has.
#[must_use]
pub const fn chunks(nbytes: u64) -> u64 {
    nbytes.div_ceil(CHUNK_NBYTES)
}

/// Checksums of the pieces of a file, none of which crosses the border of a chunk.
#[derive(Debug, Default)]
pub struct Pieces {
    // Offset, length, CRC32C.
    pieces: Vec<(u64, u64, u32)>,
}

impl Pieces {
    /// Take note of bytes that are at `offset` of the file.
    pub fn add(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let left = CHUNK_NBYTES - offset % CHUNK_NBYTES;
            let nbytes = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (head, rest) = bytes.split_at(nbytes);
            self.pieces
                .push((offset, nbytes as u64, crc32c::crc32c(head)));
            bytes = rest;
            offset += nbytes as u64;
        }
    }

    /// Take note of what another list has noted.
    pub fn append(&mut self, other: Self) {
        self.pieces.extend(other.pieces);
    }

    /// The checksum of each chunk of a file of `nbytes`; none unless every byte was noted once.
    #[must_use]
    pub fn chunks(mut self, nbytes: u64) -> Option<Vec<u32>> {
        self.pieces.sort_unstable();
        let mut sums = Vec::new();
        let mut end = 0;
        for (offset, length, crc) in self.pieces {
            if offset != end {
                return None;
            }
            match sums.last_mut() {
                Some(sum) if offset % CHUNK_NBYTES != 0 => {
                    let length = usize::try_from(length).ok()?;
                    *sum = crc32c::crc32c_combine(*sum, crc, length);
                }
                _ => sums.push(crc),
            }
            end = offset + length;
        }
        (end == nbytes).then_some(sums)
    }
}

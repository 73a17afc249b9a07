//! Attention of a few new tokens to a cache of keys and values.
//!
//! Keys are taken in chunks that start at fixed positions, and what chunks give is put together in
//! their order. So the bits of a token's result depend on its query and the keys it sees alone: not
//! on the tokens and sequences beside it, nor on threads; and a long context keeps all threads busy
//! even where there are few heads.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod chunk;
mod mix;
mod softmax;

use std::ops::Range;

use crate::error::Error;
use crate::quant::attention::chunk::Chunk;
use crate::quant::dense::convert::convert;
use crate::quant::float::{Float, f32_at};
use crate::quant::scratch;
use crate::quant::team;
use crate::quant::tier::Tier;

/// More new tokens than this are not "few".
pub const MOST_TOKENS: usize = 32;

// Keys that one thread takes at a time.
const CHUNK: usize = 512;

// Tokens of a sequence whose keys are gone, at most.
const MOST_GONE: isize = 1 << 40;

// Queries that share their keys and are worked on together.
const QUERIES: usize = 16;

/// Items from one sequence, head or token to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strides {
    /// From one sequence of the batch to the next.
    pub batch: usize,
    /// From one head to the next.
    pub head: usize,
    /// From one token to the next.
    pub token: usize,
}

/// Vectors by sequence, head and token; the items of one are contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Vectors<'a> {
    /// The items.
    pub bytes: &'a [u8],
    /// How they lie.
    pub strides: Strides,
}

/// Numbers added to the scores, (batch, tokens, length), f32; those of a token are contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// The numbers; minus infinity hides a key.
    pub bytes: &'a [u8],
    /// Items from one sequence to the next; 0 where all have the same.
    pub batch_stride: usize,
    /// Items from one token to the next.
    pub token_stride: usize,
}

/// One call: who looks at what.
///
/// Token t of the new ones has key `length - tokens + t`, and sees keys up to there. Heads share keys
/// in groups: head h uses those of group `h / (heads / groups)`.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Dtype of queries, keys, values and results.
    pub float: Float,
    /// Sequences.
    pub batch: usize,
    /// Heads of queries; a multiple of the groups.
    pub heads: usize,
    /// Heads of keys and values.
    pub groups: usize,
    /// New tokens; up to [`MOST_TOKENS`].
    pub tokens: usize,
    /// Keys in use, those of the new tokens among them; what lies beyond is not read.
    pub length: usize,
    /// Items of a query and of a key.
    pub dim: usize,
    /// Items of a value and of a result.
    pub value_dim: usize,
    /// Queries, of `heads` and `tokens`.
    pub q: Vectors<'a>,
    /// Keys, of `groups` and `length`.
    pub k: Vectors<'a>,
    /// Values, of `groups` and `length`.
    pub v: Vectors<'a>,
    /// What products of queries and keys are multiplied by.
    pub scale: f32,
    /// Of each sequence, which key is that of its first token: above zero where keys of padding come
    /// before, which are not seen, below where the first are gone. Empty: zero for all.
    pub origins: &'a [isize],
    /// How many keys a token sees at most: itself and those just before it.
    pub window: Option<usize>,
    /// Scores become `softcap * tanh(score / softcap)`; above zero.
    pub softcap: Option<f32>,
    /// A score per head for a key without a value (f32).
    pub sinks: Option<&'a [u8]>,
    /// Added to the scores, after the cap.
    pub mask: Option<Mask<'a>>,
}

/// Write what each new token sees to `out`, whose vectors lie `strides` apart.
///
/// Scores, softmax and sums are f32; results are rounded once. A token that sees nothing gets zeros.
///
/// # Errors
/// `ProductShape` when sizes do not fit together, `Softcap` when it is not a number above zero, and
/// `NoMemory` when there is none for what the chunks give.
pub fn attend(
    tier: Tier,
    call: &Attention<'_>,
    out: &mut [u8],
    strides: Strides,
) -> Result<(), Error> {
    call.check(out.len(), strides)?;
    if call.batch * call.heads * call.tokens * call.value_dim == 0 {
        return Ok(());
    }
    let shared = call.heads / call.groups;
    let queries = shared * call.tokens;
    let blocks = queries.div_ceil(QUERIES);
    let count = call.batch * call.groups * blocks;
    let chunks = call.chunks();
    let piece_parts = queries.min(QUERIES) * call.part_len();
    // one after the other: sequence, group, block of queries, chunk of keys
    let mut parts = zeros([count, chunks, piece_parts])?;
    let out = team::Output::new(out);
    let block = |index: usize| {
        let (pair, block) = (index / blocks, index % blocks);
        let batch = pair / call.groups;
        Chunk {
            call,
            batch,
            group: pair % call.groups,
            queries: block * QUERIES..((block + 1) * QUERIES).min(queries),
            chunk: call.first_chunk(batch),
        }
    };
    let finish = |block: &Chunk<'_>, parts: &[f32]| {
        for (index, query) in block.queries.clone().enumerate() {
            let of_query = parts
                .chunks_exact(call.part_len())
                .skip(index)
                .step_by(queries.min(QUERIES));
            let (head, token) = block.head_and_token(query);
            let at = block.batch * strides.batch + head * strides.head + token * strides.token;
            let size = call.float.nbytes();
            // SAFETY: `check` found the vectors of the results apart, and each is written once.
            let out = unsafe { out.part(at * size..(at + call.value_dim) * size) };
            call.finish(tier, head, of_query, out);
        }
    };
    let all = team::Output::new(&mut parts);
    team::run(count * chunks, &|piece| {
        let mut work = block(piece / chunks);
        work.chunk += piece % chunks;
        // SAFETY: each piece has a part of its own.
        let parts = unsafe { all.part(piece * piece_parts..(piece + 1) * piece_parts) };
        work.run(tier, parts);
        if chunks == 1 {
            finish(&work, parts);
        }
    });
    if chunks > 1 {
        let block_parts = chunks * piece_parts;
        team::run(count, &|index| {
            finish(
                &block(index),
                &parts[index * block_parts..(index + 1) * block_parts],
            );
        });
    }
    Ok(())
}

/// So many zeros as the product of sizes says.
fn zeros(sizes: [usize; 3]) -> Result<Vec<f32>, Error> {
    let len = sizes
        .iter()
        .try_fold(1, |len: usize, &size| len.checked_mul(size));
    let len = len.unwrap_or(usize::MAX);
    let mut zeros = Vec::new();
    zeros.try_reserve_exact(len).map_err(|_| Error::NoMemory {
        what: "attention",
        needed: len.saturating_mul(size_of::<f32>()),
    })?;
    zeros.resize(len, 0.0);
    Ok(zeros)
}

impl Attention<'_> {
    fn origin(&self, batch: usize) -> isize {
        self.origins.get(batch).copied().unwrap_or(0)
    }

    /// The positions, counted from the first token of the sequence, that a new token sees.
    fn visible(&self, batch: usize, token: usize) -> Range<usize> {
        let gone = -self.origin(batch);
        let end = (self.length - self.tokens + token + 1).saturating_add_signed(gone);
        let start = end.saturating_sub(self.window.unwrap_or(end));
        start.max(usize::try_from(gone).unwrap_or(0)).min(end)..end
    }

    /// The first chunk of positions that any token of a sequence sees.
    fn first_chunk(&self, batch: usize) -> usize {
        self.visible(batch, 0).start / CHUNK
    }

    /// How many chunks from its first one on hold what a sequence sees, at most.
    fn chunks(&self) -> usize {
        let of_sequence = |batch| {
            let end = self.visible(batch, self.tokens - 1).end.div_ceil(CHUNK);
            end.saturating_sub(self.first_chunk(batch))
        };
        // one at least: tokens that see nothing get zeros from it
        (0..self.batch).map(of_sequence).max().unwrap_or(0).max(1)
    }

    /// Items of what a chunk gives for a query: the greatest score, the sum of the exponentials
    /// relative to it, and the values times those.
    const fn part_len(&self) -> usize {
        2 + self.value_dim
    }

    /// Put together what the chunks gave for a query, in order.
    fn finish<'b>(
        &self,
        tier: Tier,
        head: usize,
        parts: impl Iterator<Item = &'b [f32]> + Clone,
        out: &mut [u8],
    ) {
        let sink = self.sinks.map(|sinks| f32_at(sinks, head));
        let greatest = parts
            .clone()
            .map(|part| part[0])
            .fold(sink.unwrap_or(f32::NEG_INFINITY), f32::max);
        let zero = if greatest == f32::NEG_INFINITY {
            0.0
        } else {
            greatest
        };
        let mut total = sink.map_or(0.0, |sink| (sink - zero).exp());
        scratch::with(scratch::size::<f32>(self.value_dim), |sums| {
            sums.fill(0);
            let (sums, _) = scratch::split::<f32>(sums, self.value_dim);
            for part in parts {
                // a chunk of which nothing is seen must leave no trace
                if part[1] != 0.0 {
                    let factor = (part[0] - zero).exp();
                    total += part[1] * factor;
                    for (sum, number) in sums.iter_mut().zip(&part[2..]) {
                        *sum += number * factor;
                    }
                }
            }
            let inverse = if total == 0.0 { 0.0 } else { 1.0 / total };
            for sum in sums.iter_mut() {
                *sum *= inverse;
            }
            convert(tier, Float::F32, scratch::bytes(sums), self.float, out);
        });
    }

    fn check(&self, out: usize, strides: Strides) -> Result<(), Error> {
        let fault = |what: &'static str, needed: usize, found: usize| {
            Err(Error::ProductShape {
                what,
                needed,
                found,
            })
        };
        if self.groups == 0 || !self.heads.is_multiple_of(self.groups) {
            return fault("heads to share keys", self.groups, self.heads);
        }
        if self.tokens > MOST_TOKENS {
            return fault("new tokens", MOST_TOKENS, self.tokens);
        }
        if self.tokens > self.length {
            return fault("keys", self.tokens, self.length);
        }
        if self.window == Some(0) {
            return fault("keys of the window", 1, 0);
        }
        if !self.origins.is_empty() && self.origins.len() < self.batch {
            return fault("origins", self.batch, self.origins.len());
        }
        if let Some(found) = self
            .softcap
            .filter(|most| !(*most > 0.0 && most.is_finite()))
        {
            return Err(Error::Softcap { found });
        }
        // positions must not overflow
        if let Some(origin) = self.origins.iter().find(|&&origin| origin < -MOST_GONE) {
            return fault("keys gone", MOST_GONE.unsigned_abs(), origin.unsigned_abs());
        }
        let size = self.float.nbytes();
        let all = [
            (
                "bytes of queries",
                self.q.bytes.len(),
                self.q.strides,
                self.heads,
                self.tokens,
                self.dim,
            ),
            (
                "bytes of keys",
                self.k.bytes.len(),
                self.k.strides,
                self.groups,
                self.length,
                self.dim,
            ),
            (
                "bytes of values",
                self.v.bytes.len(),
                self.v.strides,
                self.groups,
                self.length,
                self.value_dim,
            ),
            (
                "bytes of results",
                out,
                strides,
                self.heads,
                self.tokens,
                self.value_dim,
            ),
        ];
        for (what, found, strides, heads, tokens, dim) in all {
            let needed = end(
                [
                    (self.batch, strides.batch),
                    (heads, strides.head),
                    (tokens, strides.token),
                ],
                dim,
            );
            let needed = needed
                .and_then(|items| items.checked_mul(size))
                .unwrap_or(usize::MAX);
            if found < needed {
                return fault(what, needed, found);
            }
        }
        let mut steps = [
            (self.batch, strides.batch),
            (self.heads, strides.head),
            (self.tokens, strides.token),
        ];
        steps.sort_by_key(|&(_, stride)| stride);
        let mut room = self.value_dim;
        for (count, stride) in steps {
            if count > 1 && stride < room {
                return fault("items between results", room, stride);
            }
            room = if count > 1 {
                (count - 1) * stride + room
            } else {
                room
            };
        }
        if let Some(mask) = self.mask {
            let steps = [
                (self.batch, mask.batch_stride),
                (self.tokens, mask.token_stride),
                (1, 0),
            ];
            let needed = end(steps, self.length).and_then(|items| items.checked_mul(4));
            let needed = needed.unwrap_or(usize::MAX);
            if mask.bytes.len() < needed {
                return fault("bytes of the mask", needed, mask.bytes.len());
            }
        }
        match self.sinks {
            Some(sinks) if sinks.len() < self.heads * 4 => {
                fault("bytes of sinks", self.heads * 4, sinks.len())
            }
            _ => Ok(()),
        }
    }
}

/// Items up to the end of the last vector; None when there are too many to count.
fn end(steps: [(usize, usize); 3], dim: usize) -> Option<usize> {
    let mut last = dim;
    for (count, stride) in steps {
        match count {
            0 => return Some(0),
            _ => last = last.checked_add((count - 1).checked_mul(stride)?)?,
        }
    }
    Some(last)
}

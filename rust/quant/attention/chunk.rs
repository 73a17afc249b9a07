//! What some queries see of one chunk of keys.

use std::ops::Range;

use crate::quant::attention::mix::{Factors, mix};
use crate::quant::attention::softmax::{cap, exponentials};
use crate::quant::attention::{Attention, CHUNK, Vectors};
use crate::quant::dense::convert::convert;
use crate::quant::dense::dot::{self, Lanes, Rows, add_up, dot};
use crate::quant::float::{Float, f32_at};
use crate::quant::scratch;
use crate::quant::tier::Tier;

// Products that are in lanes at a time, about.
const LANES: usize = 192;

// How many keys ahead of their use keys are fetched into the cache.
const AHEAD: usize = 16;

/// Work for one thread: queries that share keys, and a range of those.
pub(super) struct Chunk<'a> {
    pub(super) call: &'a Attention<'a>,
    pub(super) batch: usize,
    pub(super) group: usize,
    /// Numbers of queries: all heads of the first new token that share the keys, then the next's.
    pub(super) queries: Range<usize>,
    pub(super) chunk: usize,
}

impl Chunk<'_> {
    pub(super) fn head_and_token(&self, query: usize) -> (usize, usize) {
        let shared = self.call.heads / self.call.groups;
        (self.group * shared + query % shared, query / shared)
    }

    /// The places in this chunk that a query sees.
    fn visible(&self, query: usize) -> Range<usize> {
        let (_, token) = self.head_and_token(query);
        let seen = self.call.visible(self.batch, token);
        let start = self.chunk * CHUNK;
        let inside = |position: usize| position.saturating_sub(start).min(CHUNK);
        inside(seen.start)..inside(seen.end)
    }

    /// The number of a key that somebody sees, from its place in this chunk.
    fn key(&self, place: usize) -> usize {
        (self.chunk * CHUNK + place).saturating_add_signed(self.call.origin(self.batch))
    }

    /// The keys or values of a range of this chunk.
    fn rows<'b>(&self, vectors: &Vectors<'b>, range: Range<usize>, dim: usize) -> Rows<'b> {
        let strides = vectors.strides;
        let size = self.call.float.nbytes();
        let first = self.batch * strides.batch
            + self.group * strides.head
            + self.key(range.start) * strides.token;
        Rows {
            float: self.call.float,
            bytes: &vectors.bytes[first * size..],
            stride: strides.token * size,
            rows: range.len(),
            cols: dim,
        }
    }

    /// Write what each query gets, see `Attention::part_len`.
    pub(super) fn run(&self, tier: Tier, parts: &mut [f32]) {
        let call = self.call;
        let count = self.queries.len();
        let ranges = self.queries.clone().map(|query| self.visible(query));
        let seen = ranges.clone().filter(|range| !range.is_empty());
        let start = seen.clone().map(|range| range.start).min();
        let end = seen.map(|range| range.end).max();
        let (Some(start), Some(end)) = (start, end) else {
            parts.fill(0.0);
            for part in parts.chunks_exact_mut(call.part_len()) {
                part[0] = f32::NEG_INFINITY;
            }
            return;
        };
        let float = dot::activations(tier, call.float, call.float);
        let needed = scratch::size::<f32>(count * CHUNK)
            + scratch::size::<Lanes>(self.keys() * count)
            + scratch::size::<f32>(self.keys() * count)
            + scratch::size::<u8>(count * call.dim * float.nbytes());
        scratch::with(needed, |bytes| {
            let (scores, bytes) = scratch::split::<f32>(bytes, count * CHUNK);
            self.score(tier, float, start..end, (&mut *scores, bytes));
            for ((query, range), (scores, part)) in self.queries.clone().zip(ranges.clone()).zip(
                scores
                    .chunks_exact_mut(CHUNK)
                    .zip(parts.chunks_exact_mut(call.part_len())),
            ) {
                (part[0], part[1]) = self.weigh(tier, query, range, scores);
                part[2..].fill(0.0);
            }
            self.sum(tier, &ranges.collect::<Vec<_>>(), scores, parts);
        });
    }

    /// Write the products of queries and keys, times the scale.
    fn score(
        &self,
        tier: Tier,
        float: Float,
        range: Range<usize>,
        (scores, bytes): (&mut [f32], &mut [u8]),
    ) {
        let call = self.call;
        let size = call.float.nbytes();
        let stride = call.dim * float.nbytes();
        let count = self.queries.len();
        let (lanes, bytes) = scratch::split::<Lanes>(bytes, self.keys() * count);
        let (products, bytes) = scratch::split::<f32>(bytes, self.keys() * count);
        if call.dim > 0 {
            for (query, out) in self.queries.clone().zip(bytes.chunks_exact_mut(stride)) {
                let (head, token) = self.head_and_token(query);
                let strides = call.q.strides;
                let at = self.batch * strides.batch + head * strides.head + token * strides.token;
                let given = &call.q.bytes[at * size..(at + call.dim) * size];
                convert(tier, call.float, given, float, out);
            }
        }
        let queries = Rows {
            float,
            bytes,
            stride,
            rows: count,
            cols: call.dim,
        };
        let keys = self.rows(&call.k, range.clone(), call.dim);
        for first in (0..keys.rows).step_by(self.keys()) {
            let some = first..(first + self.keys()).min(keys.rows);
            let lanes = &mut lanes[..some.len() * count];
            let products = &mut products[..some.len() * count];
            lanes.fill(Lanes::default());
            let keys = keys.part(some.clone(), 0..call.dim);
            dot(tier, &keys, &queries, lanes, AHEAD * keys.stride);
            add_up(tier, lanes, products);
            let place = range.start + first..range.start + some.end;
            for (query, scores) in scores.chunks_exact_mut(CHUNK).enumerate() {
                let products = products[query..].iter().step_by(count);
                for (score, product) in scores[place.clone()].iter_mut().zip(products) {
                    *score = product * call.scale;
                }
            }
        }
    }

    /// How many keys are worked on at a time.
    fn keys(&self) -> usize {
        (LANES / self.queries.len()).clamp(16, 64)
    }

    /// From scores to exponentials relative to the greatest; that, and their sum.
    fn weigh(
        &self,
        tier: Tier,
        query: usize,
        range: Range<usize>,
        scores: &mut [f32],
    ) -> (f32, f32) {
        if range.is_empty() {
            return (f32::NEG_INFINITY, 0.0);
        }
        let padded = range.start / 16 * 16..range.end.next_multiple_of(16);
        scores[padded.start..range.start].fill(f32::NEG_INFINITY);
        scores[range.end..padded.end].fill(f32::NEG_INFINITY);
        if let Some(most) = self.call.softcap {
            cap(tier, &mut scores[padded.clone()], most);
            scores[padded.start..range.start].fill(f32::NEG_INFINITY);
            scores[range.end..padded.end].fill(f32::NEG_INFINITY);
        }
        if let Some(mask) = self.call.mask {
            let (_, token) = self.head_and_token(query);
            let first =
                self.batch * mask.batch_stride + token * mask.token_stride + self.key(range.start);
            for (index, place) in range.enumerate() {
                scores[place] += f32_at(mask.bytes, first + index);
            }
        }
        exponentials(tier, &mut scores[padded])
    }

    /// Add the values times the exponentials: together where all see the same, one by one elsewhere.
    fn sum(&self, tier: Tier, ranges: &[Range<usize>], weights: &[f32], parts: &mut [f32]) {
        let call = self.call;
        let len = call.part_len();
        let one = |query: usize, range: Range<usize>, parts: &mut [f32]| {
            if !range.is_empty() {
                let values = self.rows(&call.v, range.clone(), call.value_dim);
                let factors = Factors {
                    numbers: &weights[query * CHUNK + range.start..],
                    stride: CHUNK,
                };
                mix(
                    tier,
                    &values,
                    factors,
                    &mut parts[query * len + 2..],
                    (1, len),
                );
            }
        };
        let start = ranges.iter().map(|range| range.start).max().unwrap_or(0);
        let end = ranges.iter().map(|range| range.end).min().unwrap_or(0);
        if start >= end {
            for (query, range) in ranges.iter().enumerate() {
                one(query, range.clone(), parts);
            }
            return;
        }
        for (query, range) in ranges.iter().enumerate() {
            one(query, range.start..start, parts);
        }
        let values = self.rows(&call.v, start..end, call.value_dim);
        let factors = Factors {
            numbers: &weights[start..],
            stride: CHUNK,
        };
        mix(tier, &values, factors, &mut parts[2..], (ranges.len(), len));
        for (query, range) in ranges.iter().enumerate() {
            one(query, end..range.end, parts);
        }
    }
}

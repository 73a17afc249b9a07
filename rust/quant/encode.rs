//! From numbers to a scheme's codes, row by row; deterministic.
//!
//! There is one encoder, in plain Rust without fused multiply-adds, compiled once for each tier: what
//! it writes does not depend on the processor. Sums run along a block in order; where a tier has
//! vectors, their lanes are blocks.

use crate::quant::layout::NF4;
use crate::quant::scheme::Scheme;
use crate::quant::tier::Tier;

/// How much is tried for a block of four-bit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effort {
    /// The scale is the largest magnitude.
    Fast,
    /// The scale, of either sign, is the one among ten that leaves the least squared error.
    Search,
}

/// A row has a NaN or an infinity: it cannot be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not finite")]
pub struct NotFinite;

// Largest magnitude of a block over its scale, in the order in which they are tried.
const CANDIDATES: [f32; 10] = [
    0.85, 0.95, 1.05, 1.15, 1.3, -0.85, -0.95, -1.05, -1.15, -1.3,
];

// Blocks that are searched at a time.
const LANES: usize = 16;

// Between each code of NF4 and the next.
const MIDPOINTS: [f32; 15] = {
    let mut midpoints = [0.0; 15];
    let mut code = 0;
    while code < 15 {
        midpoints[code] = (NF4[code] + NF4[code + 1]) * 0.5;
        code += 1;
    }
    midpoints
};

/// Encode one row: codes to `q`, scales to `scale`; the result is the row's own scale.
///
/// The row's scale is 1 for a scheme that has none.
///
/// # Errors
/// `NotFinite` when a value is not; `q` and `scale` are then as they were.
///
/// # Panics
/// If the values are not whole blocks, or the outputs not of the scheme's size for them.
pub fn encode_row(
    scheme: Scheme,
    effort: Effort,
    values: &[f32],
    q: &mut [u8],
    scale: &mut [u8],
) -> Result<f32, NotFinite> {
    Row {
        scheme,
        effort,
        values,
    }
    .encode(Tier::best(), q, scale)
}

/// What to encode.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// As what.
    pub scheme: Scheme,
    /// How well.
    pub effort: Effort,
    /// Whole blocks.
    pub values: &'a [f32],
}

impl Row<'_> {
    /// [`encode_row`] with the instructions of `tier`, which must be available.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn encode(self, tier: Tier, q: &mut [u8], scale: &mut [u8]) -> Result<f32, NotFinite> {
        let (scheme, cols) = (self.scheme, self.values.len());
        assert!(cols.is_multiple_of(scheme.block()), "whole blocks");
        assert_eq!(q.len(), scheme.q_bytes(cols));
        assert_eq!(scale.len(), scheme.scale_bytes(cols));
        assert!(tier.is_available());
        match tier {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the tier is available.
            Tier::Avx512 | Tier::Avx512Bf16 => unsafe { self.avx512(q, scale) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the tier is available.
            Tier::Avx2 => unsafe { self.avx2(q, scale) },
            _ => self.plain(q, scale),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn avx2(self, q: &mut [u8], scale: &mut [u8]) -> Result<f32, NotFinite> {
        self.plain(q, scale)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn avx512(self, q: &mut [u8], scale: &mut [u8]) -> Result<f32, NotFinite> {
        self.plain(q, scale)
    }

    #[inline(always)]
    fn plain(self, q: &mut [u8], scale: &mut [u8]) -> Result<f32, NotFinite> {
        match self.scheme {
            Scheme::Int8 => int8(self.values, q, scale),
            Scheme::Four => four::<32>(self.effort, self.values, q, scale),
            Scheme::FourHq => four::<16>(self.effort, self.values, q, scale),
            Scheme::Nf4 => nf4(self.effort, self.values, q, scale),
        }
    }
}

/// Blocks of 64 signed bytes; scales are rounded up, so that nothing is cut off.
#[inline(always)]
fn int8(values: &[f32], q: &mut [u8], scale: &mut [u8]) -> Result<f32, NotFinite> {
    const BLOCK: usize = Scheme::Int8.block();
    let mut steps = largest::<BLOCK>(values)?;
    for step in &mut steps {
        *step /= 127.0;
    }
    let row = unit(&steps, 255.0, 127.0);
    for (scale, step) in scale.iter_mut().zip(&mut steps) {
        let code = if row > 0.0 { *step / row } else { 0.0 };
        let nearest = round(code);
        let above = (nearest + i32::from((nearest as f32) < code)).clamp(1, 255);
        *scale = above as u8;
        *step = inverse(above as f32 * row);
    }
    for ((values, q), &inverse) in values
        .chunks_exact(BLOCK)
        .zip(q.chunks_exact_mut(BLOCK))
        .zip(&steps)
    {
        for (q, value) in q.iter_mut().zip(values) {
            *q = round(value * inverse).clamp(-127, 127) as u8;
        }
    }
    Ok(row)
}

/// Four bits, with scales that are signed bytes.
#[inline(always)]
fn four<const BLOCK: usize>(
    effort: Effort,
    values: &[f32],
    q: &mut [u8],
    scale: &mut [u8],
) -> Result<f32, NotFinite> {
    let mut steps = largest::<BLOCK>(values)?;
    if effort == Effort::Search {
        search::<BLOCK>(values, &mut steps);
    }
    let row = unit(&steps, 127.0, 1.0);
    for (scale, step) in scale.iter_mut().zip(&mut steps) {
        let code = if row > 0.0 { round(*step / row) } else { 0 };
        *scale = code as u8;
        *step = inverse(code as f32 * row);
    }
    codes::<BLOCK>(values, &steps, q);
    Ok(row)
}

/// Four bits as bitsandbytes has them.
#[inline(always)]
fn nf4(effort: Effort, values: &[f32], q: &mut [u8], scale: &mut [u8]) -> Result<f32, NotFinite> {
    const BLOCK: usize = Scheme::Nf4.block();
    let mut steps = largest::<BLOCK>(values)?;
    if effort == Effort::Search {
        search::<BLOCK>(values, &mut steps);
    }
    for (scale, step) in scale.chunks_exact_mut(4).zip(&mut steps) {
        scale.copy_from_slice(&step.to_le_bytes());
        *step = inverse(*step);
    }
    codes::<BLOCK>(values, &steps, q);
    Ok(1.0)
}

/// The largest magnitude of each block.
#[inline(always)]
fn largest<const BLOCK: usize>(values: &[f32]) -> Result<Vec<f32>, NotFinite> {
    const INFINITY: u32 = f32::INFINITY.to_bits();
    let mut largest = vec![0.0; values.len() / BLOCK];
    let mut overall = 0;
    for (largest, block) in largest.iter_mut().zip(values.as_chunks::<BLOCK>().0) {
        // magnitudes order like their bits, and what is not finite comes last
        let bits = block
            .iter()
            .fold(0, |most, value| most.max(value.to_bits() & 0x7fff_ffff));
        overall = overall.max(bits);
        *largest = f32::from_bits(bits);
    }
    if overall >= INFINITY {
        return Err(NotFinite);
    }
    Ok(largest)
}

/// What the row's scales are counted in, when the largest becomes `most`; 0 for a row of zeros.
///
/// The largest scale times `code`, the largest of its codes, is a number.
#[inline(always)]
fn unit(steps: &[f32], most: f32, code: f32) -> f32 {
    let largest = steps
        .iter()
        .fold(0, |largest, step| largest.max(step.to_bits() & 0x7fff_ffff));
    let mut unit = f32::from_bits(largest) / most;
    while (most * unit * code).is_infinite() {
        unit = unit.next_down();
    }
    // the inverse of a subnormal number may be infinite
    if unit < f32::MIN_POSITIVE { 0.0 } else { unit }
}

#[inline(always)]
fn inverse(step: f32) -> f32 {
    if step == 0.0 {
        0.0
    } else {
        (1.0 / step).clamp(f32::MIN, f32::MAX)
    }
}

/// To the nearest integer, ties to even; for magnitudes below 2^22.
#[inline(always)]
fn round(value: f32) -> i32 {
    // at this size, the lowest bit of an f32 counts ones
    const ONES: f32 = 12_582_912.0;
    (value + ONES).to_bits().wrapping_sub(ONES.to_bits()) as i32
}

/// Replace the largest magnitudes by the scales that leave the least squared error.
#[inline(always)]
fn search<const BLOCK: usize>(values: &[f32], steps: &mut [f32]) {
    let blocks = values.as_chunks::<BLOCK>().0;
    for (blocks, steps) in blocks.chunks(LANES).zip(steps.chunks_mut(LANES)) {
        // the blocks side by side, their largest magnitude 1
        let mut units = [[0.0_f32; LANES]; BLOCK];
        for (lane, (block, step)) in blocks.iter().zip(&mut *steps).enumerate() {
            if *step < f32::MIN_POSITIVE {
                *step = 0.0;
            }
            let inverse = inverse(*step);
            for (unit, value) in units.iter_mut().zip(block) {
                unit[lane] = value * inverse;
            }
        }
        let mut gain = [0.0_f32; LANES];
        let mut factor = [0.0_f32; LANES];
        for candidate in CANDIDATES {
            let mut code_unit = [0.0_f32; LANES];
            let mut code_code = [0.0_f32; LANES];
            for unit in &units {
                for lane in 0..LANES {
                    let code = nearest(unit[lane] * candidate);
                    code_unit[lane] += code * unit[lane];
                    code_code[lane] += code * code;
                }
            }
            for lane in 0..LANES {
                let found = code_unit[lane] * code_unit[lane] / code_code[lane];
                if found > gain[lane] {
                    gain[lane] = found;
                    factor[lane] = code_unit[lane] / code_code[lane];
                }
            }
        }
        for (step, factor) in steps.iter_mut().zip(factor) {
            let found = *step * factor;
            // near the largest number the better step may be none
            if found.is_finite() {
                *step = found;
            }
        }
    }
}

/// The value of NF4 that is nearest.
#[inline(always)]
fn nearest(value: f32) -> f32 {
    let mut nearest = NF4[0];
    for code in 0..15 {
        if value > MIDPOINTS[code] {
            nearest = NF4[code + 1];
        }
    }
    nearest
}

/// The code of the value of NF4 that is nearest: how many midpoints are below.
#[inline(always)]
fn nearest_code(value: f32) -> u8 {
    // the first two comparisons leave three midpoints; as vectors, a choice is cheaper than they are
    let is_upper = value > MIDPOINTS[7];
    let half = |code: usize| {
        if is_upper {
            MIDPOINTS[code + 8]
        } else {
            MIDPOINTS[code]
        }
    };
    let is_second = value > half(3);
    let (first, second) = ([half(0), half(1), half(2)], [half(4), half(5), half(6)]);
    let mut code = 8 * u32::from(is_upper) + 4 * u32::from(is_second);
    for (first, second) in first.into_iter().zip(second) {
        code += u32::from(value > if is_second { second } else { first });
    }
    code as u8
}

/// Write nearest codes, given the inverse of each block's scale; the first of two goes high.
#[inline(always)]
fn codes<const BLOCK: usize>(values: &[f32], inverses: &[f32], q: &mut [u8]) {
    for ((block, q), inverse) in values
        .as_chunks::<BLOCK>()
        .0
        .iter()
        .zip(q.chunks_exact_mut(BLOCK / 2))
        .zip(inverses)
    {
        let mut codes = [0_u8; BLOCK];
        for (code, value) in codes.iter_mut().zip(block) {
            *code = nearest_code(value * inverse);
        }
        for (q, pair) in q.iter_mut().zip(codes.as_chunks::<2>().0) {
            *q = pair[0] << 4 | pair[1];
        }
    }
}

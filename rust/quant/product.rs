//! Products of few rows with packed weights, several weights in one call.

use std::ops::Range;
use std::sync::OnceLock;

use crate::error::Error;
use crate::quant::arrange::Arranged;
use crate::quant::blocks;
use crate::quant::dense::convert::convert;
use crate::quant::dense::dot::{self, Lanes, Rows, add_up, dot};
use crate::quant::dequantize::write_columns;
use crate::quant::float::Float;
use crate::quant::int8;
use crate::quant::layout::Layout;
use crate::quant::lut4;
use crate::quant::scratch;
use crate::quant::team;
use crate::quant::tier::Tier;
use crate::quant::weight::Weight;

/// More rows of activations than this are not "few".
pub const MOST_ROWS: usize = 32;

// Rows of a weight that a thread takes at a time: with fewer, the pauses between them show.
const PIECE: usize = 64;

// Bytes of activations that stay in the first cache beside the weights that pass through it.
const ACTIVATIONS: usize = 16 << 10;

// Sums at a time that are kept in lanes.
const LANES: usize = 512;

// Rows that are decoded at a time, and bytes of each.
const GROUP: usize = 4;
const DECODED: usize = 4096;

/// Activations of shape (rows, cols), contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Activations<'a> {
    /// Their dtype, and that of the results.
    pub float: Float,
    /// How many rows; up to [`MOST_ROWS`].
    pub rows: usize,
    /// Columns of each weight.
    pub cols: usize,
    /// The numbers.
    pub bytes: &'a [u8],
}

/// One weight of a call, and where its results go.
#[derive(Debug)]
pub struct Product<'a> {
    /// The matrix of shape (n, cols).
    pub weight: Weight<'a>,
    /// Added to the results: n numbers of the activations' dtype.
    pub bias: Option<&'a [u8]>,
    /// Results, (rows, n) of the activations' dtype.
    pub out: team::Output<'a, u8>,
    /// Items from one row of the results to the next.
    pub stride: usize,
}

/// Activations as the kernels want them, made when first asked for and once per call.
pub(crate) struct Prepared<'a> {
    /// What came in.
    pub(crate) given: Activations<'a>,
    /// The same in orders that kernels ask for.
    pub(crate) arranged: Arranged,
    /// The same for blocks of integers.
    pub(crate) blocked: blocks::Blocked,
    pub(crate) tier: Tier,
    numbers: OnceLock<Vec<u8>>,
}

impl<'a> Prepared<'a> {
    fn new(tier: Tier, given: Activations<'a>) -> Self {
        Self {
            given,
            arranged: Arranged::default(),
            blocked: blocks::Blocked::default(),
            tier,
            numbers: OnceLock::new(),
        }
    }

    /// All of them as f32, row-major.
    pub(crate) fn numbers(&self) -> &[u8] {
        let Activations { float, bytes, .. } = self.given;
        if float == Float::F32 {
            return bytes;
        }
        self.numbers.get_or_init(|| {
            let mut numbers = vec![0; bytes.len() / float.nbytes() * 4];
            convert(self.tier, float, bytes, Float::F32, &mut numbers);
            numbers
        })
    }

    /// All of them as kernels want them beside weights of dtype `w`.
    fn beside(&self, w: Float) -> Rows<'_> {
        let float = dot::activations(self.tier, w, self.given.float);
        let bytes = match float {
            Float::F32 => self.numbers(),
            _ => self.given.bytes,
        };
        Rows {
            float,
            bytes,
            stride: self.given.cols * float.nbytes(),
            rows: self.given.rows,
            cols: self.given.cols,
        }
    }
}

/// Multiply activations with several weights: `out = x @ weight.T + bias`, summed in f32.
///
/// Within a tier the bits of a row of the results depend on that row and the weight alone: not on
/// how many rows there are, on which threads run, or on the other weights.
///
/// # Errors
/// `ProductShape` when sizes do not fit together, or results would lie on each other.
pub fn products(tier: Tier, x: Activations<'_>, products: &mut [Product<'_>]) -> Result<(), Error> {
    for product in products.iter() {
        check(&x, product)?;
    }
    check_apart(&x, products)?;
    if x.rows == 0 {
        return Ok(());
    }
    let prepared = Prepared::new(tier, x);
    let mut first_pieces = Vec::with_capacity(products.len());
    let mut pieces = 0;
    let mut outputs = Vec::with_capacity(products.len());
    for product in &*products {
        first_pieces.push(pieces);
        pieces += product.weight.rows.div_ceil(PIECE);
        outputs.push(Target {
            weight: product.weight,
            bias: product.bias,
            out: &product.out,
            stride: product.stride,
        });
    }
    for target in &outputs {
        // arranges the activations, which the other threads would sleep through otherwise
        sum(tier, &target.weight, 0..0, &prepared, &mut []);
    }
    team::run(pieces, &|piece| {
        let index = first_pieces.partition_point(|&first| first <= piece) - 1;
        let target = &outputs[index];
        let start = (piece - first_pieces[index]) * PIECE;
        let rows = start..(start + PIECE).min(target.weight.rows);
        let work = |sums: &mut [f32]| {
            let sums = &mut sums[..rows.len() * x.rows];
            sum(tier, &target.weight, rows.clone(), &prepared, sums);
            target.write(tier, &x, rows.clone(), sums);
        };
        match x.rows {
            1 => work(&mut [0.0; PIECE]),
            _ => work(&mut [0.0; PIECE * MOST_ROWS]),
        }
    });
    Ok(())
}

/// Where the results of a product go.
struct Target<'a> {
    weight: Weight<'a>,
    bias: Option<&'a [u8]>,
    out: &'a team::Output<'a, u8>,
    stride: usize,
}

impl Target<'_> {
    /// Write the sums of a piece, (rows, x.rows), plus the bias, rounded once.
    fn write(&self, tier: Tier, x: &Activations<'_>, rows: Range<usize>, sums: &[f32]) {
        let size = x.float.nbytes();
        let mut bias = [0_u8; PIECE * 4];
        if let Some(given) = self.bias {
            let given = &given[rows.start * size..rows.end * size];
            convert(
                tier,
                x.float,
                given,
                Float::F32,
                &mut bias[..rows.len() * 4],
            );
        }
        let mut column = [0_u8; PIECE * 4];
        let column = &mut column[..rows.len() * 4];
        for m in 0..x.rows {
            for (row, bytes) in column.chunks_exact_mut(4).enumerate() {
                let bias = self.bias.map_or(0.0, |_| Float::F32.load(&bias, row));
                Float::F32.store(sums[row * x.rows + m] + bias, bytes);
            }
            let start = (m * self.stride + rows.start) * size;
            // SAFETY: this piece alone writes these columns: `check` found rows of the results
            // apart, and `check_apart` those of other products.
            let out = unsafe { self.out.part(start..start + rows.len() * size) };
            convert(tier, Float::F32, column, x.float, out);
        }
    }
}

/// Write the sums of `rows` of a weight with each row of the activations, (rows, x.rows), f32.
fn sum(tier: Tier, weight: &Weight<'_>, rows: Range<usize>, x: &Prepared<'_>, sums: &mut [f32]) {
    if weight.cols == 0 {
        // kernels need not know: parts that nothing is read of may be missing
        sums.fill(0.0);
        return;
    }
    let is_done = match weight.layout {
        &Layout::Dense(stored) => {
            sum_dense(tier, weight, stored, rows.clone(), x, sums);
            true
        }
        Layout::Lut4(_) => lut4::product(tier, weight, rows.clone(), x, sums),
        Layout::Int8(_) => int8::product(tier, weight, rows.clone(), x, sums),
        Layout::Ggml(_) | Layout::Affine(_) | Layout::Fp8(_) => {
            blocks::product(tier, weight, rows.clone(), x, sums)
        }
        Layout::Table8(_) => false,
    };
    if !is_done {
        sum_decoded(tier, weight, rows, x, sums);
    }
}

/// The sums of weights that are read as they lie.
fn sum_dense(
    tier: Tier,
    weight: &Weight<'_>,
    stored: Float,
    rows: Range<usize>,
    x: &Prepared<'_>,
    sums: &mut [f32],
) {
    let x = x.beside(stored);
    let stride = weight.cols * stored.nbytes();
    let w = Rows {
        float: stored,
        bytes: &weight.parts.q[rows.start * stride..rows.end * stride],
        stride,
        rows: rows.len(),
        cols: weight.cols,
    };
    // A single row passes through the cache as weights do, which the processor fetches ahead of a
    // stretch better than hints do; of several, so many columns as stay there.
    let (step, ahead) = match x.rows {
        1 => (w.cols.max(1), 0),
        // fetched ahead: the same columns of the rows after those at work
        rows => (columns(rows * x.float.nbytes()), 4 * stride),
    };
    let size = x.float.nbytes();
    // a line more than needed: rows a power of two apart would push each other out of the cache
    let packed_stride = step * size + 64;
    let packed_size = if x.rows == 1 {
        0
    } else {
        x.rows * packed_stride
    };
    let group = (LANES / x.rows).clamp(8, PIECE);
    let needed = scratch::size::<Lanes>(group * x.rows) + packed_size;
    scratch::with(needed, |bytes| {
        let (all_lanes, packed) = scratch::split::<Lanes>(bytes, group * x.rows);
        for (first, sums) in (0..w.rows)
            .step_by(group)
            .zip(sums.chunks_mut(group * x.rows))
        {
            let lanes = &mut all_lanes[..sums.len()];
            lanes.fill(Lanes::default());
            for col in (0..w.cols).step_by(step) {
                let cols = col..(col + step).min(w.cols);
                let mut x = x.part(0..x.rows, cols.clone());
                if x.rows > 1 {
                    x = x.packed(packed_stride, packed);
                }
                let w = w.part(first..(first + group).min(w.rows), cols);
                dot(tier, &w, &x, lanes, ahead);
            }
            add_up(tier, lanes, sums);
        }
    });
}

/// How many columns of activations stay in the cache, when a column takes so many bytes.
fn columns(nbytes: usize) -> usize {
    (ACTIVATIONS / nbytes).clamp(256, 2048) / 256 * 256
}

/// The sums of weights that become numbers first, some columns of a few rows at a time.
fn sum_decoded(
    tier: Tier,
    weight: &Weight<'_>,
    rows: Range<usize>,
    x: &Prepared<'_>,
    sums: &mut [f32],
) {
    let float = dot::activations(tier, Float::Bf16, x.given.float);
    let x = x.beside(float);
    let step = DECODED / float.nbytes();
    let stride = step * float.nbytes();
    let needed = scratch::size::<Lanes>(GROUP * x.rows) + GROUP * stride;
    scratch::with(needed, |bytes| {
        let (all_lanes, bytes) = scratch::split::<Lanes>(bytes, GROUP * x.rows);
        for (first, sums) in rows
            .clone()
            .step_by(GROUP)
            .zip(sums.chunks_mut(GROUP * x.rows))
        {
            let lanes = &mut all_lanes[..sums.len()];
            lanes.fill(Lanes::default());
            let count = sums.len() / x.rows;
            for col in (0..weight.cols).step_by(step) {
                let cols = col..(col + step).min(weight.cols);
                let used = cols.len() * float.nbytes();
                for (row, out) in (first..first + count).zip(bytes.chunks_exact_mut(stride)) {
                    fetch(weight.q_of(row + GROUP, cols.clone()));
                    write_columns(tier, weight, row, cols.clone(), float, &mut out[..used]);
                }
                let w = Rows {
                    float,
                    bytes: &*bytes,
                    stride,
                    rows: count,
                    cols: cols.len(),
                };
                dot(tier, &w, &x.part(0..x.rows, cols), lanes, 0);
            }
            add_up(tier, lanes, sums);
        }
    });
}

/// Ask for bytes that are needed soon.
pub(crate) fn fetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint; every processor of this architecture has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

fn check(x: &Activations<'_>, product: &Product<'_>) -> Result<(), Error> {
    let fault = |what: &'static str, needed: usize, found: usize| Error::ProductShape {
        what,
        needed,
        found,
    };
    let size = x.float.nbytes();
    let rows = product.weight.rows;
    if x.rows > MOST_ROWS {
        return Err(fault("rows of activations", MOST_ROWS, x.rows));
    }
    if x.cols != product.weight.cols {
        return Err(fault("columns of activations", product.weight.cols, x.cols));
    }
    if x.bytes.len() != x.rows * x.cols * size {
        return Err(fault(
            "bytes of activations",
            x.rows * x.cols * size,
            x.bytes.len(),
        ));
    }
    if let Some(bias) = product.bias
        && bias.len() != rows * size
    {
        return Err(fault("bytes of the bias", rows * size, bias.len()));
    }
    let needed = match x.rows {
        0 => 0,
        more => (product.stride.checked_mul(more - 1))
            .and_then(|items| items.checked_add(rows)?.checked_mul(size))
            .unwrap_or(usize::MAX),
    };
    if product.out.len() < needed || (x.rows > 1 && product.stride < rows) {
        return Err(fault("bytes of the results", needed, product.out.len()));
    }
    Ok(())
}

/// Results of several products may have one buffer; none may be written twice.
fn check_apart(x: &Activations<'_>, products: &[Product<'_>]) -> Result<(), Error> {
    if products.len() < 2 {
        return Ok(());
    }
    let size = x.float.nbytes();
    let mut rows = Vec::with_capacity(products.len() * x.rows);
    for product in products.iter().filter(|product| product.weight.rows > 0) {
        for m in 0..x.rows {
            let start = product.out.address() + m * product.stride * size;
            rows.push((start, product.weight.rows * size));
        }
    }
    rows.sort_unstable();
    for pair in rows.windows(2) {
        let (needed, found) = (pair[0].1, pair[1].0 - pair[0].0);
        if found < needed {
            return Err(Error::ProductShape {
                what: "bytes from results to the next",
                needed,
                found,
            });
        }
    }
    Ok(())
}

//! Products of few rows with packed weights, several weights in one call.

use std::ops::Range;

use crate::error::Error;
use crate::quant::arrange::Arranged;
use crate::quant::dequantize::write_columns;
use crate::quant::float::Float;
use crate::quant::layout::Layout;
use crate::quant::tier::Tier;
use crate::quant::weight::Weight;
use crate::quant::{int8, lut4, team};

/// More rows of activations than this are not "few".
pub const MOST_ROWS: usize = 32;

// Rows of a weight that a thread takes at a time.
const PIECE: usize = 64;

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
    pub out: &'a mut [u8],
    /// Items from one row of the results to the next.
    pub stride: usize,
}

/// Activations as the kernels want them, made once per call.
pub(crate) struct Prepared<'a> {
    /// What came in.
    pub(crate) given: Activations<'a>,
    /// All of them as f32, row-major.
    pub(crate) numbers: Vec<f32>,
    /// The same in orders that kernels ask for.
    pub(crate) arranged: Arranged,
}

/// Multiply activations with several weights: `out = x @ weight.T + bias`, summed in f32.
///
/// Within a tier the bits of a row of the results depend on that row and the weight alone: not on
/// how many rows there are, on which threads run, or on the other weights.
///
/// # Errors
/// `ProductShape` when sizes do not fit together.
pub fn products(tier: Tier, x: Activations<'_>, products: &mut [Product<'_>]) -> Result<(), Error> {
    let size = x.float.nbytes();
    for product in products.iter() {
        check(&x, product)?;
    }
    if x.rows == 0 {
        return Ok(());
    }
    let prepared = Prepared {
        given: x,
        numbers: (0..x.rows * x.cols)
            .map(|index| x.float.load(x.bytes, index))
            .collect(),
        arranged: Arranged::default(),
    };
    let mut pieces = Vec::new();
    for (index, product) in products.iter().enumerate() {
        for start in (0..product.weight.rows).step_by(PIECE) {
            pieces.push((index, start..(start + PIECE).min(product.weight.rows)));
        }
    }
    let outputs: Vec<_> = products
        .iter_mut()
        .map(|product| Output {
            start: product.out.as_mut_ptr(),
            stride: product.stride,
        })
        .collect();
    let products = &*products;
    team::run(pieces.len(), &|piece| {
        let (index, rows) = &pieces[piece];
        let product = &products[*index];
        let mut sums = [0.0; PIECE * MOST_ROWS];
        let sums = &mut sums[..rows.len() * x.rows];
        sum(tier, &product.weight, rows.clone(), &prepared, sums);
        for (row, sums) in rows.clone().zip(sums.chunks_exact(x.rows)) {
            let bias = product.bias.map_or(0.0, |bias| x.float.load(bias, row));
            for (m, sum) in sums.iter().enumerate() {
                let mut item = [0; 4];
                x.float.store(sum + bias, &mut item[..size]);
                // SAFETY: `check` found the results large enough for (x.rows, weight.rows) items,
                // and this piece alone writes column `row`.
                unsafe {
                    outputs[*index]
                        .start
                        .add((m * outputs[*index].stride + row) * size)
                        .copy_from_nonoverlapping(item.as_ptr(), size);
                }
            }
        }
    });
    Ok(())
}

/// Where results go, for several threads that write different columns.
struct Output {
    start: *mut u8,
    stride: usize,
}

// SAFETY: threads write to different columns, see `products`.
unsafe impl Sync for Output {}

/// Write the sums of `rows` of a weight with each row of the activations, (rows, x.rows), f32.
fn sum(tier: Tier, weight: &Weight<'_>, rows: Range<usize>, x: &Prepared<'_>, sums: &mut [f32]) {
    let is_done = match weight.layout {
        Layout::Lut4(_) => lut4::product(tier, weight, rows.clone(), x, sums),
        Layout::Int8(_) => int8::product(tier, weight, rows.clone(), x, sums),
        _ => false,
    };
    if is_done {
        return;
    }
    let mut row_values = vec![0_u8; weight.cols * 4];
    for (row, sums) in rows.zip(sums.chunks_exact_mut(x.given.rows)) {
        write_columns(
            tier,
            weight,
            row,
            0..weight.cols,
            Float::F32,
            &mut row_values,
        );
        for (sum, numbers) in sums.iter_mut().zip(x.numbers.chunks_exact(weight.cols)) {
            *sum = (0..weight.cols)
                .map(|index| Float::F32.load(&row_values, index) * numbers[index])
                .sum();
        }
    }
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
        _ => ((x.rows - 1) * product.stride + rows) * size,
    };
    if product.out.len() < needed || (x.rows > 1 && product.stride < rows) {
        return Err(fault("bytes of the results", needed, product.out.len()));
    }
    Ok(())
}

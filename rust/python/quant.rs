//! Packed weights and the kernels that take them.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::python::bytes::Bytes;
use crate::python::errors::raise;
use crate::quant::dequantize::dequantize;
use crate::quant::encode::Effort;
use crate::quant::float::Float;
use crate::quant::layout::Layout;
use crate::quant::product::{Activations, Product, products};
use crate::quant::quantize::{Encoded, Numbers, encode_matrix};
use crate::quant::scheme::Scheme;
use crate::quant::tier::Tier;
use crate::quant::weight::{Parts, Weight};

/// How the bytes of a weight become numbers.
#[pyclass(frozen, module = "airllm_rs._core", name = "Layout")]
pub(crate) struct PyLayout {
    inner: Layout,
}

#[pymethods]
impl PyLayout {
    #[new]
    fn new(description: &str) -> PyResult<Self> {
        let inner = Layout::from_json(description).map_err(raise)?;
        Ok(Self { inner })
    }

    fn __repr__(&self) -> String {
        format!("<{:?}>", self.inner)
    }
}

/// A matrix as its bytes lie in the buffers of others, which it keeps alive.
#[pyclass(frozen, module = "airllm_rs._core", name = "Weight")]
pub(crate) struct PyWeight {
    layout: Py<PyLayout>,
    rows: usize,
    cols: usize,
    // In the order of `Parts`, with the offset of the first byte.
    parts: [Option<(Bytes, usize)>; 7],
}

type GivenPart<'py> = Option<(Bound<'py, PyAny>, usize)>;

#[pymethods]
impl PyWeight {
    #[new]
    #[pyo3(signature = (layout, rows, cols, q, *, scale=None, row=None, zero=None, group=None, nested_code=None, nested_scale=None))]
    #[expect(
        clippy::too_many_arguments,
        reason = "one keyword per part of a weight"
    )]
    fn new(
        layout: Py<PyLayout>,
        rows: usize,
        cols: usize,
        q: (Bound<'_, PyAny>, usize),
        scale: GivenPart<'_>,
        row: GivenPart<'_>,
        zero: GivenPart<'_>,
        group: GivenPart<'_>,
        nested_code: GivenPart<'_>,
        nested_scale: GivenPart<'_>,
    ) -> PyResult<Self> {
        let given = [Some(q), scale, row, zero, group, nested_code, nested_scale];
        let mut parts = [const { None }; 7];
        for (part, given) in parts.iter_mut().zip(given) {
            if let Some((owner, offset)) = given {
                let bytes = Bytes::read(&owner)?;
                if offset > bytes.as_slice().len() {
                    return Err(PyValueError::new_err("a part begins after its buffer"));
                }
                *part = Some((bytes, offset));
            }
        }
        let weight = Self {
            layout,
            rows,
            cols,
            parts,
        };
        Weight::new(&weight.layout.get().inner, rows, cols, weight.parts()).map_err(raise)?;
        Ok(weight)
    }

    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    fn __repr__(&self) -> String {
        let layout = &self.layout.get().inner;
        format!("<Weight ({}, {}), {layout:?}>", self.rows, self.cols)
    }
}

impl PyWeight {
    fn parts(&self) -> Parts<'_> {
        let part = |index: usize| match &self.parts[index] {
            Some((bytes, offset)) => &bytes.as_slice()[*offset..],
            None => &[],
        };
        Parts {
            q: part(0),
            scale: part(1),
            row: part(2),
            zero: part(3),
            group: part(4),
            nested_code: part(5),
            nested_scale: part(6),
        }
    }

    /// What `new` has checked.
    fn weight(&self) -> Weight<'_> {
        Weight {
            layout: &self.layout.get().inner,
            rows: self.rows,
            cols: self.cols,
            parts: self.parts(),
        }
    }
}

pub(super) fn float(code: &str) -> PyResult<Float> {
    Float::from_code(code)
        .ok_or_else(|| PyValueError::new_err(format!("dtype {code:?}: use F32, F16 or BF16")))
}

/// Write rows of a weight as plain numbers.
#[pyfunction]
#[pyo3(signature = (weight, out, dtype, start=0, stop=None))]
pub(crate) fn dequantize_into(
    py: Python<'_>,
    weight: &Bound<'_, PyWeight>,
    out: &Bound<'_, PyAny>,
    dtype: &str,
    start: usize,
    stop: Option<usize>,
) -> PyResult<()> {
    let float = float(dtype)?;
    let tier = Tier::chosen().map_err(raise)?;
    let weight = weight.get();
    let stop = stop.unwrap_or(weight.rows);
    if start > stop || stop > weight.rows {
        return Err(PyValueError::new_err(format!(
            "rows {start} to {stop} of a weight of {}",
            weight.rows
        )));
    }
    let mut out = Bytes::write(out)?;
    let result = py.detach(|| {
        dequantize(
            tier,
            &weight.weight(),
            start..stop,
            float,
            out.as_mut_slice(),
        )
    });
    result.map_err(raise)
}

type GivenOutput<'py> = (Bound<'py, PyAny>, usize, usize);

/// Multiply few rows with several weights.
#[pyfunction]
#[pyo3(signature = (x, dtype, weights, outs, biases=None))]
pub(crate) fn linear(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    dtype: &str,
    weights: Vec<Bound<'_, PyWeight>>,
    outs: Vec<GivenOutput<'_>>,
    biases: Option<Vec<Option<Bound<'_, PyAny>>>>,
) -> PyResult<()> {
    let float = float(dtype)?;
    let tier = Tier::chosen().map_err(raise)?;
    let biases = biases.unwrap_or_else(|| weights.iter().map(|_| None).collect());
    if weights.is_empty() || outs.len() != weights.len() || biases.len() != weights.len() {
        return Err(PyValueError::new_err(
            "linear() needs as many outs and biases as weights, one at least",
        ));
    }
    let x = Bytes::read(x)?;
    let cols = weights[0].get().cols;
    let row_bytes = cols * float.nbytes();
    let rows = x.as_slice().len().checked_div(row_bytes).unwrap_or(0);
    let mut buffers = Vec::with_capacity(outs.len());
    for (owner, offset, stride) in &outs {
        buffers.push((
            Bytes::write(owner)?,
            offset.saturating_mul(float.nbytes()),
            *stride,
        ));
    }
    let mut added = Vec::with_capacity(biases.len());
    for bias in &biases {
        added.push(bias.as_ref().map(Bytes::read).transpose()?);
    }
    let weights: Vec<_> = weights.iter().map(|weight| weight.get()).collect();
    let result = py.detach(|| {
        let mut jobs = Vec::with_capacity(weights.len());
        for ((weight, (buffer, offset, stride)), bias) in
            weights.iter().zip(&mut buffers).zip(&added)
        {
            jobs.push(Product {
                weight: weight.weight(),
                bias: bias.as_ref().map(Bytes::as_slice),
                out: buffer.as_output(*offset),
                stride: *stride,
            });
        }
        let x = Activations {
            float,
            rows,
            cols,
            bytes: x.as_slice(),
        };
        products(tier, x, &mut jobs)
    });
    result.map_err(raise)
}

/// Encode a matrix.
#[pyfunction]
#[pyo3(signature = (values, dtype, rows, cols, scheme, q, scale, row=None, effort="search"))]
#[expect(
    clippy::too_many_arguments,
    reason = "one argument per part of a weight"
)]
pub(crate) fn quantize(
    py: Python<'_>,
    values: &Bound<'_, PyAny>,
    dtype: &str,
    rows: usize,
    cols: usize,
    scheme: &str,
    q: &Bound<'_, PyAny>,
    scale: &Bound<'_, PyAny>,
    row: Option<&Bound<'_, PyAny>>,
    effort: &str,
) -> PyResult<bool> {
    let float = float(dtype)?;
    let unknown = |what, name| PyValueError::new_err(format!("{what} {name:?} is not known"));
    let scheme = Scheme::from_name(scheme).ok_or_else(|| unknown("scheme", scheme))?;
    let effort = match effort {
        "fast" => Effort::Fast,
        "search" => Effort::Search,
        _ => return Err(unknown("effort", effort)),
    };
    let values = Bytes::read(values)?;
    let (mut q, mut scale) = (Bytes::write(q)?, Bytes::write(scale)?);
    let mut row = row.map(Bytes::write).transpose()?;
    let parts: Vec<_> = [Some(&q), Some(&scale), row.as_ref()]
        .into_iter()
        .flatten()
        .collect();
    if (1..parts.len()).any(|part| {
        parts[..part]
            .iter()
            .any(|other| parts[part].overlaps(other))
    }) {
        return Err(PyValueError::new_err(
            "parts of a weight that lie on each other",
        ));
    }
    let result = py.detach(|| {
        let numbers = Numbers {
            float,
            rows,
            cols,
            bytes: values.as_slice(),
        };
        let out = Encoded {
            q: q.as_mut_slice(),
            scale: scale.as_mut_slice(),
            row: row.as_mut().map_or(&mut [], Bytes::as_mut_slice),
        };
        encode_matrix(scheme, effort, numbers, out)
    });
    result.map_err(raise)
}

/// The SIMD tier of this process.
#[pyfunction]
pub(crate) fn simd_tier() -> PyResult<&'static str> {
    Ok(Tier::chosen().map_err(raise)?.name())
}

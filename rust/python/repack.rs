//! Integers that are packed across rows, made what kernels read.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::python::bytes::Bytes;
use crate::python::errors::raise;
use crate::quant::repack::{Packer, Shape, awq, gptq, scales, zeros};

/// Write a part of a weight as kernels read it.
#[pyfunction]
pub(crate) fn repack(
    py: Python<'_>,
    kind: &str,
    shape: (usize, usize, usize),
    packed: (Bound<'_, PyAny>, usize, usize),
    out: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let (rows, cols, bits) = shape;
    let shape = Shape { rows, cols, bits };
    let (owner, offset, nbytes) = packed;
    let source = Bytes::read(&owner)?;
    let source = offset
        .checked_add(nbytes)
        .and_then(|end| source.as_slice().get(offset..end))
        .ok_or_else(|| PyValueError::new_err("a part ends after its buffer"))?;
    let mut target = Bytes::write(out)?;
    let target = target.as_mut_slice();
    let unpack = |packer, target| zeros(packer, source, shape, target);
    let result = py.detach(|| match kind {
        "gptq" => Some(gptq(source, shape, target)),
        "awq" => Some(awq(source, shape, target)),
        "gptq_zeros" => Some(unpack(Packer::Gptq, target)),
        "gptq_v2_zeros" => Some(unpack(Packer::GptqV2, target)),
        "awq_zeros" => Some(unpack(Packer::Awq, target)),
        "compressed_tensors_zeros" => Some(unpack(Packer::CompressedTensors, target)),
        "transposed" => Some(scales(source, shape, target)),
        _ => None,
    });
    match result {
        Some(result) => result.map_err(raise),
        None => Err(PyValueError::new_err(format!("no way to repack {kind:?}"))),
    }
}

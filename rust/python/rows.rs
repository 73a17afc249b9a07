//! Rows of a table, read into memory that Python owns.

use std::path::PathBuf;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::prelude::*;

use crate::io::gather;
use crate::python::errors::raise;

#[pyfunction]
pub(crate) fn gather_rows(
    py: Python<'_>,
    path: PathBuf,
    offset: u64,
    row_nbytes: usize,
    rows: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
) -> PyResult<u64> {
    let rows = PyBuffer::<i64>::get(rows)?.to_vec(py)?;
    let rows: Vec<u64> = rows
        .into_iter()
        .map(|row| {
            u64::try_from(row).map_err(|_| PyValueError::new_err(format!("row {row} is negative")))
        })
        .collect::<PyResult<_>>()?;
    let out = PyBuffer::<u8>::get(out)?;
    if out.readonly() {
        return Err(PyBufferError::new_err("out is read-only"));
    }
    let Some(mut bytes) = out.as_slice_ptr() else {
        return Err(PyBufferError::new_err("out is not contiguous"));
    };
    // SAFETY: the buffer keeps the memory where it is, and any byte is a valid `u8`. Whoever passes
    // it lets nobody else touch it meanwhile, as with every function that fills a buffer.
    let bytes = unsafe { bytes.as_mut() };
    let read = py.detach(|| gather::gather_rows(&path, offset, row_nbytes, &rows, bytes));
    read.map_err(raise)
}

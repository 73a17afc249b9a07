//! Memory that Python looks at through the buffer protocol.

use std::ffi::c_int;
use std::sync::Arc;

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::arena::Arena;
use crate::python::errors::raise;
use crate::readahead::Lease;

/// The bytes of a unit; the slot goes back to the ring when this object is dropped.
#[pyclass(frozen, module = "airllm_rs._core", name = "Lease")]
pub(crate) struct PyLease {
    inner: Lease,
}

impl From<Lease> for PyLease {
    fn from(inner: Lease) -> Self {
        Self { inner }
    }
}

#[pymethods]
impl PyLease {
    #[getter]
    fn unit(&self) -> u32 {
        self.inner.unit()
    }

    fn __len__(&self) -> usize {
        self.inner.nbytes()
    }

    fn __repr__(&self) -> String {
        let kind = if self.inner.is_resident() {
            "resident"
        } else {
            "streamed"
        };
        format!(
            "<Lease of unit {} ({}), {} bytes, {kind}>",
            self.inner.unit(),
            self.inner.name(),
            self.inner.nbytes()
        )
    }

    // Nothing happens on release: `torch.frombuffer` releases the view at once and keeps the object.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let lease = &slf.get().inner;
        let (start, nbytes) = (lease.as_ptr(), lease.nbytes());
        // SAFETY: the bytes stay where they are while the lease lives, and the view keeps it.
        unsafe { fill(view, slf.as_any(), start, nbytes, flags) }
    }
}

/// Memory in huge pages; of a readahead: the residents, then the ring.
#[pyclass(frozen, module = "airllm_rs._core", name = "Arena")]
pub(crate) struct PyArena {
    inner: Arc<Arena>,
}

impl From<Arc<Arena>> for PyArena {
    fn from(inner: Arc<Arena>) -> Self {
        Self { inner }
    }
}

#[pymethods]
impl PyArena {
    #[new]
    fn new(nbytes: usize) -> PyResult<Self> {
        Ok(Arc::new(Arena::new(nbytes).map_err(raise)?).into())
    }

    #[getter]
    fn huge_page_bytes(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.inner.usage().huge)
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.inner.nbytes()
    }

    fn __len__(&self) -> usize {
        self.inner.nbytes()
    }

    fn __repr__(&self) -> String {
        format!("<Arena, {} bytes>", self.inner.nbytes())
    }

    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let arena = &slf.get().inner;
        let (start, nbytes) = (arena.as_ptr(), arena.nbytes());
        // SAFETY: the arena stays where it is while this object lives, and the view keeps it.
        unsafe { fill(view, slf.as_any(), start, nbytes, flags) }
    }
}

/// Fill a writable view of bytes.
///
/// # Safety
/// `view` is null or valid, and the bytes stay where they are while `owner` lives.
unsafe fn fill(
    view: *mut ffi::Py_buffer,
    owner: &Bound<'_, PyAny>,
    start: *mut u8,
    nbytes: usize,
    flags: c_int,
) -> PyResult<()> {
    if view.is_null() {
        return Err(PyBufferError::new_err("no view to fill"));
    }
    let nbytes = isize::try_from(nbytes)?;
    // SAFETY: the view is not null; it takes a reference to the owner, which keeps the bytes.
    let status =
        unsafe { ffi::PyBuffer_FillInfo(view, owner.as_ptr(), start.cast(), nbytes, 0, flags) };
    if status == 0 {
        Ok(())
    } else {
        Err(PyErr::fetch(owner.py()))
    }
}

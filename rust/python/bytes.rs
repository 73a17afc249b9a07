//! The memory of Python objects, by the buffer protocol.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::slice;

use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::quant::team::Output;

/// The bytes of an object that offers them contiguously, kept for as long as this lives.
pub(super) struct Bytes {
    view: Box<ffi::Py_buffer>,
}

// SAFETY: a view may be read and released by any thread that holds the interpreter; it is released
// in `drop`, which takes it.
unsafe impl Send for Bytes {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl Sync for Bytes {}

impl Bytes {
    fn of(owner: &Bound<'_, PyAny>, flags: c_int) -> PyResult<Self> {
        let mut view = Box::new(MaybeUninit::<ffi::Py_buffer>::zeroed());
        // SAFETY: the owner is an object and the view is memory for one.
        let status = unsafe { ffi::PyObject_GetBuffer(owner.as_ptr(), view.as_mut_ptr(), flags) };
        if status != 0 {
            return Err(PyErr::fetch(owner.py()));
        }
        // SAFETY: the call above has filled it.
        let view = unsafe { view.assume_init() };
        Ok(Self { view })
    }

    pub(super) fn read(owner: &Bound<'_, PyAny>) -> PyResult<Self> {
        Self::of(owner, ffi::PyBUF_SIMPLE)
    }

    pub(super) fn write(owner: &Bound<'_, PyAny>) -> PyResult<Self> {
        Self::of(owner, ffi::PyBUF_WRITABLE)
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        let nbytes = self.view.len.unsigned_abs();
        if nbytes == 0 {
            return &[];
        }
        // SAFETY: the exporter keeps this many bytes in place until the view is released; whoever
        // hands a buffer to a kernel does not change it meanwhile.
        unsafe { slice::from_raw_parts(self.view.buf.cast(), nbytes) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        let nbytes = self.view.len.unsigned_abs();
        if nbytes == 0 {
            return &mut [];
        }
        // SAFETY: as above, and the view was asked for as writable.
        unsafe { slice::from_raw_parts_mut(self.view.buf.cast(), nbytes) }
    }

    /// Everything behind the first `offset` bytes, for a kernel that has several outputs, which may
    /// be views of the same memory.
    pub(super) fn as_output(&mut self, offset: usize) -> Output<'_, u8> {
        let nbytes = self.view.len.unsigned_abs();
        if offset >= nbytes {
            return Output::new(&mut []);
        }
        let start = self.view.buf.cast::<u8>().wrapping_add(offset);
        // SAFETY: the exporter keeps this many bytes in place until the view is released, which was
        // asked for as writable; whoever hands a buffer to a kernel leaves it alone meanwhile.
        unsafe { Output::shared(start, nbytes - offset) }
    }

    /// Whether any byte is one of the other's as well.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let range = |view: &ffi::Py_buffer| {
            let start = view.buf.addr();
            start..start + view.len.unsigned_abs()
        };
        let (own, other) = (range(&self.view), range(&other.view));
        own.start.max(other.start) < own.end.min(other.end)
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        Python::attach(|_| {
            // SAFETY: the view was filled by `of` and is released once.
            unsafe { ffi::PyBuffer_Release(&raw mut *self.view) };
        });
    }
}

/// An array of `N` dimensions whose items may lie apart, kept for as long as this lives.
pub(super) struct Strided<const N: usize> {
    bytes: Bytes,
    /// Items along each dimension.
    pub(super) shape: [usize; N],
    /// Items from each to the next along each dimension.
    pub(super) strides: [usize; N],
    /// Bytes of an item.
    pub(super) itemsize: usize,
}

impl<const N: usize> Strided<N> {
    pub(super) fn read(owner: &Bound<'_, PyAny>) -> PyResult<Self> {
        let bytes = Bytes::of(owner, ffi::PyBUF_STRIDES)?;
        let view = &bytes.view;
        if usize::try_from(view.ndim) != Ok(N) || view.shape.is_null() || view.strides.is_null() {
            return Err(PyValueError::new_err(format!(
                "a buffer of {} dimensions in place of {N}",
                view.ndim
            )));
        }
        let itemsize = view.itemsize.unsigned_abs().max(1);
        let (mut shape, mut strides) = ([0; N], [0; N]);
        // SAFETY: the exporter gave as many sizes as dimensions, which were just counted.
        let sizes = unsafe { slice::from_raw_parts(view.shape, N) };
        // SAFETY: as above.
        let steps = unsafe { slice::from_raw_parts(view.strides, N) };
        for (dimension, (&size, &stride)) in sizes.iter().zip(steps).enumerate() {
            shape[dimension] = size.unsigned_abs();
            // the step of a dimension of one item means nothing
            let stride = if size > 1 { stride } else { 0 };
            let whole = usize::try_from(stride).ok();
            strides[dimension] = whole
                .filter(|stride| stride.is_multiple_of(itemsize))
                .ok_or_else(|| PyValueError::new_err("items that lie backwards or askew"))?
                / itemsize;
        }
        Ok(Self {
            bytes,
            shape,
            strides,
            itemsize,
        })
    }

    /// Everything from the first item to the last.
    pub(super) fn as_slice(&self) -> &[u8] {
        if self.shape.contains(&0) {
            return &[];
        }
        let steps = self.shape.iter().zip(&self.strides);
        let last: usize = steps.map(|(size, stride)| (size - 1) * stride).sum();
        let start = self.bytes.view.buf.cast();
        // SAFETY: the exporter keeps the first and the last item in place until the view is
        // released, and what lies between them is the same allocation; see `Bytes` for the rest.
        unsafe { slice::from_raw_parts(start, (last + 1) * self.itemsize) }
    }
}

//! `Checkpoint` for Python.

use std::path::PathBuf;

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::python::errors::raise;
use crate::store;

type Info<'py> = (&'static str, Bound<'py, PyTuple>, u32, u64, u64);

/// The tensors of one safetensors file or of an index of several.
#[pyclass(frozen, module = "airllm_rs._core", name = "Checkpoint")]
pub(crate) struct PyCheckpoint {
    inner: Checkpoint,
}

#[pymethods]
impl PyCheckpoint {
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        // A store's manifest knows more than its index: sizes, and other directories.
        let open = || match store::open(&path)? {
            Some(checkpoint) => Ok(checkpoint),
            None => Checkpoint::open(&path),
        };
        let inner = py.detach(open).map_err(raise)?;
        Ok(Self { inner })
    }

    #[staticmethod]
    fn open_files(py: Python<'_>, paths: Vec<PathBuf>) -> PyResult<Self> {
        let open = || {
            let absolute = |path: PathBuf| {
                std::path::absolute(&path).map_err(|source| Error::open(source, &path))
            };
            let paths = paths.into_iter().map(absolute).collect::<Result<_, _>>()?;
            Checkpoint::of_files(paths, store::format::PAD)
        };
        let inner = py.detach(open);
        let inner = inner.map_err(raise)?;
        Ok(Self { inner })
    }

    #[getter]
    fn files(&self) -> Vec<String> {
        let paths = self.inner.files().iter();
        paths
            .map(|path| path.to_string_lossy().into_owned())
            .collect()
    }

    #[getter]
    fn metadata(&self) -> std::collections::BTreeMap<String, String> {
        self.inner.metadata().clone()
    }

    fn names(&self) -> Vec<&str> {
        self.inner
            .tensors()
            .iter()
            .map(|tensor| tensor.name.as_str())
            .collect()
    }

    fn tensor<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Info<'py>> {
        let tensor = self
            .inner
            .tensor(name)
            .ok_or_else(|| PyKeyError::new_err(name.to_owned()))?;
        let extent = tensor.extent;
        let shape = PyTuple::new(py, &tensor.shape)?;
        Ok((
            tensor.dtype.code(),
            shape,
            extent.file,
            extent.offset,
            extent.nbytes,
        ))
    }

    fn __contains__(&self, name: &str) -> bool {
        self.inner.tensor(name).is_some()
    }

    fn __len__(&self) -> usize {
        self.inner.tensors().len()
    }

    fn __repr__(&self) -> String {
        let (files, tensors) = (self.inner.files().len(), self.inner.tensors().len());
        format!("<Checkpoint of {tensors} tensors in {files} files>")
    }
}

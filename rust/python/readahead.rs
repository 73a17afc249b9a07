//! `Readahead` for Python.

use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeWarning, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::extent::{Extent, Part};
use crate::io;
use crate::io::identity::Identity;
use crate::io::{EngineChoice, IoOptions};
use crate::python::buffer::{PyArena, PyLease};
use crate::python::errors::raise;
use crate::readahead::{Closed, Opener, Options, Readahead, Source, Unit};

// Ctrl-C is noticed this soon.
const SIGNAL_POLL: Duration = Duration::from_millis(100);
// A device that answers nothing for so long is worth a word.
const SILENCE: Duration = Duration::from_secs(10);

type PartTuple = (u32, u64, u64, u32);

/// Reads units ahead of their use.
#[pyclass(frozen, module = "airllm_rs._core", name = "Readahead")]
pub(crate) struct PyReadahead {
    inner: Readahead,
    files: Vec<PathBuf>,
}

#[pymethods]
impl PyReadahead {
    #[new]
    #[pyo3(signature = (
        files, units, *, names = Vec::new(), residents = Vec::new(), ring_bytes, engine = "auto",
        request_bytes = 8 << 20, queue_depth = 8, throttle_gbps = None, latency_us = 0
    ))]
    #[expect(
        clippy::too_many_arguments,
        reason = "keywords of the Python signature"
    )]
    fn new(
        py: Python<'_>,
        files: Vec<PathBuf>,
        units: Vec<Vec<PartTuple>>,
        names: Vec<String>,
        residents: Vec<u32>,
        ring_bytes: usize,
        engine: &str,
        request_bytes: usize,
        queue_depth: usize,
        throttle_gbps: Option<f64>,
        latency_us: u64,
    ) -> PyResult<Self> {
        if !names.is_empty() && names.len() != units.len() {
            let message = format!("{} names for {} units", names.len(), units.len());
            return Err(PyValueError::new_err(message));
        }
        let mut names = names.into_iter();
        let units = units
            .into_iter()
            .enumerate()
            .map(|(index, parts)| Unit {
                name: names.next().unwrap_or_else(|| index.to_string()),
                parts: parts.into_iter().map(part).collect(),
            })
            .collect();
        let options = Options {
            ring_bytes,
            request_bytes,
            queue_depth,
        };
        let choice = engine.parse().map_err(raise)?;
        let io = IoOptions {
            queue_depth,
            throttle_gbps,
            latency_us,
            ..IoOptions::default()
        };
        let opener = opener(files.clone(), choice, io);
        let inner = py.detach(|| Readahead::new(units, &residents, options, opener));
        Ok(Self {
            inner: inner.map_err(raise)?,
            files,
        })
    }

    #[pyo3(signature = (units, *, cyclic = false))]
    fn schedule(&self, py: Python<'_>, units: Vec<u32>, cyclic: bool) -> PyResult<()> {
        py.detach(|| self.inner.schedule(&units, cyclic))
            .map_err(raise)
    }

    fn demand(&self, py: Python<'_>, units: Vec<u32>) -> PyResult<()> {
        py.detach(|| self.inner.demand(&units)).map_err(raise)
    }

    fn take(&self, py: Python<'_>, unit: u32) -> PyResult<PyLease> {
        let mut consumer = self.inner.consumer().map_err(raise)?;
        if let Some(lease) = consumer.take_ready(unit) {
            return Ok(lease.into());
        }
        let mut is_warned = false;
        loop {
            if let Some(lease) = py
                .detach(|| consumer.wait(unit, SIGNAL_POLL))
                .map_err(raise)?
            {
                return Ok(lease.into());
            }
            py.check_signals()?;
            if !is_warned && let Some(silence) = consumer.silence(SILENCE) {
                is_warned = true;
                self.warn_of_silence(py, silence.file, silence.lasted)?;
            }
        }
    }

    fn evict(&self, py: Python<'_>, units: Vec<u32>) -> PyResult<()> {
        py.detach(|| self.inner.evict(&units)).map_err(raise)
    }

    fn offsets(&self, unit: u32) -> PyResult<Vec<usize>> {
        self.inner.offsets(unit).map_err(raise)
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (stats, usage) = py.detach(|| (self.inner.stats(), self.inner.arena().usage()));
        let table = PyDict::new(py);
        table.set_item("engine", self.inner.engine())?;
        table.set_item("bytes_read", stats.bytes_read)?;
        table.set_item("requests", stats.requests)?;
        table.set_item("busy_ns", stats.busy_ns)?;
        table.set_item("stall_ns", stats.stall_ns)?;
        table.set_item("units", stats.units)?;
        table.set_item("peak_anon_bytes", stats.peak_anon_bytes)?;
        table.set_item("arena_bytes", self.inner.arena().nbytes())?;
        table.set_item("arena_resident_bytes", usage.resident)?;
        table.set_item("huge_page_bytes", usage.huge)?;
        table.set_item("resident_bytes_loaded", stats.resident_bytes_loaded)?;
        Ok(table)
    }

    #[getter]
    fn arena(&self) -> PyArena {
        self.inner.arena().into()
    }

    #[getter]
    fn engine(&self) -> &'static str {
        self.inner.engine()
    }

    #[getter]
    fn closed(&self) -> bool {
        self.inner.is_closed()
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        match py.detach(|| self.inner.close()) {
            Closed::Joined => Ok(()),
            Closed::Detached => PyErr::warn(
                py,
                &py.get_type::<PyRuntimeWarning>(),
                c"the device did not answer within a second: its thread and memory are left behind",
                1,
            ),
        }
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        let state = if self.inner.is_closed() {
            ", closed"
        } else {
            ""
        };
        format!(
            "<Readahead of {} files, engine {:?}, {} bytes{state}>",
            self.files.len(),
            self.inner.engine(),
            self.inner.arena().nbytes(),
        )
    }
}

impl PyReadahead {
    fn warn_of_silence(&self, py: Python<'_>, file: u32, lasted: Duration) -> PyResult<()> {
        let path = self
            .files
            .get(file as usize)
            .map(|path| path.display().to_string());
        let message = "no read has ended for %d s; waiting for %s";
        py.import("logging")?
            .call_method1("getLogger", ("airllm_rs.readahead",))?
            .call_method1("warning", (message, lasted.as_secs(), path))?;
        Ok(())
    }
}

impl Drop for PyReadahead {
    fn drop(&mut self) {
        // Closing may wait for the device: not with the interpreter held.
        Python::try_attach(|py| py.detach(|| self.inner.close()));
    }
}

// The files must stay what they were the first time.
fn opener(files: Vec<PathBuf>, choice: EngineChoice, options: IoOptions) -> Box<Opener> {
    let first = std::sync::OnceLock::new();
    Box::new(move || {
        let identity = Identity::of(&files)?;
        let identity = Identity::clone(first.get_or_init(|| identity));
        let engine = io::open(&files, choice, options)?;
        Ok(Source {
            engine,
            identity: Box::new(move || identity.check()),
        })
    })
}

fn part((file, offset, nbytes, item_size): PartTuple) -> Part {
    Part {
        extent: Extent {
            file,
            offset,
            nbytes,
        },
        item_size,
    }
}

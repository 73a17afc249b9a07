//! `Readahead` for Python.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeWarning, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::error::Error;
use crate::extent::{Extent, Part};
use crate::io;
use crate::io::identity::Identity;
use crate::io::{EngineChoice, IoOptions};
use crate::python::buffer::{PyArena, PyLease};
use crate::python::errors::raise;
use crate::readahead::{
    Closed, DeviceStats, Event, EventKind, Opener, Options, Readahead, Source, Unit,
};

// Ctrl-C is noticed this soon.
const SIGNAL_POLL: Duration = Duration::from_millis(100);
type Refusals = Vec<(&'static str, String)>;
type PartTuple = (u32, u64, u64, u32);
// kind, unit, file, offset, nbytes, begin and end.
type EventTuple = (&'static str, u32, i64, u64, usize, u64, u64);

/// Reads units ahead of their use.
#[pyclass(frozen, module = "airllm_rs._core", name = "Readahead")]
pub(crate) struct PyReadahead {
    inner: Readahead,
    files: Vec<PathBuf>,
    // A device that answers nothing for so long is worth a word.
    silence: Duration,
    // The engines that would have been preferred, and why each cannot be used.
    refusals: Arc<Mutex<Refusals>>,
}

#[pymethods]
impl PyReadahead {
    #[new]
    #[pyo3(signature = (
        files, units, *, names = Vec::new(), residents = Vec::new(), ring_bytes, engine = "auto",
        request_bytes = 8 << 20, queue_depth = 8, tune = true, expected_gbps = None, trace = false,
        silence_s = 10.0, throttle_gbps = None, latency_us = 0, mlock = false
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
        tune: bool,
        expected_gbps: Option<f64>,
        trace: bool,
        silence_s: f64,
        throttle_gbps: Option<f64>,
        latency_us: u64,
        mlock: bool,
    ) -> PyResult<Self> {
        if !names.is_empty() && names.len() != units.len() {
            let message = format!("{} names for {} units", names.len(), units.len());
            return Err(PyValueError::new_err(message));
        }
        let silence = Duration::try_from_secs_f64(silence_s)
            .map_err(|error| PyValueError::new_err(format!("silence_s {silence_s}: {error}")))?;
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
            tune,
            expected_gbps,
            trace,
            mlock,
        };
        let choice = engine.parse().map_err(raise)?;
        let io = IoOptions {
            // Refused there where it is none.
            queue_depth: if queue_depth == 0 {
                0
            } else {
                options.most_in_flight()
            },
            throttle_gbps,
            latency_us,
            ..IoOptions::default()
        };
        let refusals = Arc::default();
        let opener = opener(files.clone(), choice, io, Arc::clone(&refusals));
        let inner = py
            .detach(|| Readahead::new(units, &residents, options, opener))
            .map_err(raise)?;
        if let Some(error) = inner.unlocked() {
            let message = "%s; raise the limit (ulimit -l, LimitMEMLOCK=) or leave mlock out";
            logger(py)?.call_method1("warning", (message, error.to_string()))?;
        }
        Ok(Self {
            inner,
            files,
            silence,
            refusals,
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
            if !is_warned && let Some(silence) = consumer.silence(self.silence) {
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
        table.set_item("cached_bytes", stats.cached_bytes)?;
        table.set_item("features", &stats.features)?;
        let refusals = self
            .refusals
            .lock()
            .map_or_else(|_| Vec::new(), |all| all.clone());
        table.set_item("refusals", refusals)?;
        table.set_item("requests", stats.requests)?;
        table.set_item("busy_ns", stats.busy_ns)?;
        table.set_item("stall_ns", stats.stall_ns)?;
        table.set_item("ring_full_ns", stats.ring_full_ns)?;
        table.set_item("takes", stats.takes)?;
        table.set_item("waits", stats.waits)?;
        table.set_item("units", stats.units)?;
        table.set_item("peak_anon_bytes", stats.peak_anon_bytes)?;
        table.set_item("arena_bytes", self.inner.arena().nbytes())?;
        table.set_item("arena_resident_bytes", usage.resident)?;
        table.set_item("huge_page_bytes", usage.huge)?;
        table.set_item("locked_bytes", usage.locked)?;
        table.set_item("resident_bytes_loaded", stats.resident_bytes_loaded)?;
        table.set_item("trace_dropped", stats.trace_dropped)?;
        set_device(&table, &stats.main_device())?;
        let devices = PyList::empty(py);
        for device in &stats.devices {
            let entry = PyDict::new(py);
            entry.set_item("bytes_read", device.bytes_read)?;
            set_device(&entry, device)?;
            devices.append(entry)?;
        }
        table.set_item("devices", devices)?;
        Ok(table)
    }

    fn progress<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.inner.stats();
        let table = PyDict::new(py);
        table.set_item("bytes_read", stats.bytes_read)?;
        table.set_item("requests", stats.requests)?;
        table.set_item("busy_ns", stats.busy_ns)?;
        table.set_item("stall_ns", stats.stall_ns)?;
        table.set_item("ring_full_ns", stats.ring_full_ns)?;
        Ok(table)
    }

    fn trace(&self, py: Python<'_>) -> Vec<EventTuple> {
        let events = py.detach(|| self.inner.trace());
        events.iter().map(event_tuple).collect()
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
        logger(py)?.call_method1("warning", (message, lasted.as_secs(), path))?;
        Ok(())
    }
}

fn logger(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("logging")?
        .call_method1("getLogger", ("airllm_rs.readahead",))
}

impl Drop for PyReadahead {
    fn drop(&mut self) {
        // Closing may wait for the device: not with the interpreter held.
        Python::try_attach(|py| py.detach(|| self.inner.close()));
    }
}

fn set_device(table: &Bound<'_, PyDict>, device: &DeviceStats) -> PyResult<()> {
    table.set_item("request_bytes", device.request_bytes)?;
    table.set_item("queue_depth", device.queue_depth)?;
    table.set_item("is_tuned", device.is_tuned)?;
    table.set_item("device_gbps", device.gbps)
}

fn event_tuple(event: &Event) -> EventTuple {
    let (kind, file, offset) = match event.kind {
        EventKind::Request { file, offset } => ("request", i64::from(file), offset),
        EventKind::Wait => ("wait", -1, 0),
        EventKind::Lease => ("lease", -1, 0),
    };
    (
        kind,
        event.unit,
        file,
        offset,
        event.nbytes,
        event.begin_ns,
        event.end_ns,
    )
}

// The files must stay what they were the first time.
fn opener(
    files: Vec<PathBuf>,
    choice: EngineChoice,
    options: IoOptions,
    refusals: Arc<Mutex<Refusals>>,
) -> Box<Opener> {
    let first = std::sync::OnceLock::new();
    Box::new(move || {
        let identity = Identity::of(&files)?;
        let identity = Identity::clone(first.get_or_init(|| identity));
        let devices = devices(&files)?;
        let depths = devices.iter().max().map_or(1, |&last| last as usize + 1);
        let options = IoOptions {
            // A queue of its own for each device, as far as an engine goes.
            queue_depth: options
                .queue_depth
                .saturating_mul(depths)
                .min(options.queue_depth.max(4096)),
            ..options
        };
        let opened = io::choose(&files, choice, options)?;
        if let Ok(mut known) = refusals.lock() {
            *known = opened.refusals;
        }
        Ok(Source {
            engine: opened.engine,
            identity: Box::new(move || identity.check()),
            devices,
        })
    })
}

// The device of each file, numbered from 0.
#[cfg(unix)]
fn devices(files: &[PathBuf]) -> Result<Vec<u32>, Error> {
    use std::os::unix::fs::MetadataExt as _;

    let mut known = Vec::new();
    files
        .iter()
        .map(|path| {
            let device = path
                .metadata()
                .map_err(|error| Error::open(error, path))?
                .dev();
            let found = known.iter().position(|&other| other == device);
            let number = found.unwrap_or(known.len());
            if found.is_none() {
                known.push(device);
            }
            Ok(u32::try_from(number).unwrap_or(u32::MAX))
        })
        .collect()
}

// Not built here: all on one.
#[cfg(not(unix))]
fn devices(_files: &[PathBuf]) -> Result<Vec<u32>, Error> {
    Ok(Vec::new())
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

//! A measurement of an engine, for Python.

use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arena::Pages;
use crate::extent::Extent;
use crate::io::IoOptions;
use crate::io::bench::{Bench, Measured, Point, Work};
use crate::python::errors::raise;

// Ctrl-C is noticed this soon.
const SIGNAL_POLL: Duration = Duration::from_millis(100);

#[pyfunction]
#[pyo3(signature = (
    paths, *, engine = "auto", block_bytes = 8 << 20, queue_depth = 8, pages = "huge",
    cache = "cold", total_bytes = None, requests = None, throttle_gbps = None, latency_us = 0,
    page_cache = true, registered_buffers = true, registered_files = false
))]
#[expect(
    clippy::too_many_arguments,
    reason = "keywords of the Python signature"
)]
pub(crate) fn bench_io<'py>(
    py: Python<'py>,
    paths: Vec<PathBuf>,
    engine: &str,
    block_bytes: usize,
    queue_depth: usize,
    pages: &str,
    cache: &str,
    total_bytes: Option<u64>,
    requests: Option<Vec<(u32, u64, u64)>>,
    throttle_gbps: Option<f64>,
    latency_us: u64,
    page_cache: bool,
    registered_buffers: bool,
    registered_files: bool,
) -> PyResult<Bound<'py, PyDict>> {
    let work = match (requests, total_bytes) {
        (Some(_), Some(_)) => {
            let message = "total_bytes and requests cannot be combined";
            return Err(PyValueError::new_err(message));
        }
        (Some(requests), None) => Work::Replay(requests.into_iter().map(extent).collect()),
        (None, nbytes) => Work::InOrder {
            block_bytes,
            nbytes,
        },
    };
    let point = Point {
        paths,
        choice: engine.parse().map_err(raise)?,
        options: IoOptions {
            queue_depth,
            throttle_gbps,
            latency_us,
            page_cache,
            registered_buffers,
            registered_files,
        },
        pages: one_of(
            "pages",
            pages,
            [("huge", Pages::Huge), ("4k", Pages::Small)],
        )?,
        is_cold: one_of("cache", cache, [("cold", true), ("warm", false)])?,
        work,
    };
    let mut bench = py.detach(|| Bench::new(point)).map_err(raise)?;
    let result = loop {
        match py.detach(|| bench.run_for(SIGNAL_POLL)) {
            Ok(true) => break Ok(()),
            Ok(false) => {
                if let Err(signal) = py.check_signals() {
                    break Err(signal);
                }
            }
            Err(error) => break Err(raise(error)),
        }
    };
    let measured = py.detach(move || {
        let measured = bench.measured();
        // Waits for the reads in flight.
        drop(bench);
        measured
    });
    result?;
    table(py, &measured)
}

fn table<'py>(py: Python<'py>, measured: &Measured) -> PyResult<Bound<'py, PyDict>> {
    let table = PyDict::new(py);
    table.set_item("engine", measured.engine)?;
    table.set_item("features", &measured.features)?;
    table.set_item("refusals", &measured.refusals)?;
    table.set_item("bytes", measured.bytes)?;
    table.set_item("cached_bytes", measured.cached_bytes)?;
    table.set_item("requests", measured.requests)?;
    table.set_item("seconds", measured.wall.as_secs_f64())?;
    table.set_item("cpu_seconds", measured.cpu.as_secs_f64())?;
    table.set_item("latency_p50_ns", measured.latency.p50_ns)?;
    table.set_item("latency_p99_ns", measured.latency.p99_ns)?;
    table.set_item("latency_p999_ns", measured.latency.p999_ns)?;
    table.set_item("latency_max_ns", measured.latency.max_ns)?;
    table.set_item("arena_resident_bytes", measured.memory.resident)?;
    table.set_item("huge_page_bytes", measured.memory.huge)?;
    table.set_item("sampled_pages", measured.left.sampled)?;
    table.set_item("cached_pages", measured.left.cached)?;
    Ok(table)
}

fn extent((file, offset, nbytes): (u32, u64, u64)) -> Extent {
    Extent {
        file,
        offset,
        nbytes,
    }
}

fn one_of<T: Copy>(option: &str, found: &str, words: [(&str, T); 2]) -> PyResult<T> {
    match words.iter().find(|(word, _)| *word == found) {
        Some(&(_, value)) => Ok(value),
        None => {
            let [(one, _), (other, _)] = words;
            let message = format!("{option} must be {one:?} or {other:?}, not {found:?}");
            Err(PyValueError::new_err(message))
        }
    }
}

//! The boundary to Python: converts, detaches, calls, converts back.

mod attention;
mod bench;
mod buffer;
mod bytes;
mod checkpoint;
mod errors;
mod quant;
mod readahead;
mod repack;
mod rows;
mod store;

use std::path::PathBuf;

use pyo3::prelude::*;

use crate::io::probe;
use crate::quant::team;

type Probed = (&'static str, bool, Option<String>, usize);

/// What each engine says to a read of a file.
#[pyfunction]
fn probe_engines(py: Python<'_>, path: PathBuf) -> Vec<Probed> {
    let reports = py.detach(|| probe(&path));
    let flat = |report: crate::io::probe::ProbeReport| {
        (report.engine, report.ok, report.reason, report.alignment)
    };
    reports.into_iter().map(flat).collect()
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    // before the process can be forked with kernels at hand
    team::watch_forks();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    module.add("__build_profile__", profile)?;
    module.add_class::<buffer::PyArena>()?;
    module.add_class::<buffer::PyLease>()?;
    module.add_class::<checkpoint::PyCheckpoint>()?;
    module.add_class::<quant::PyLayout>()?;
    module.add_class::<quant::PyWeight>()?;
    module.add_class::<readahead::PyReadahead>()?;
    module.add_function(wrap_pyfunction!(attention::attend, module)?)?;
    module.add_function(wrap_pyfunction!(bench::bench_io, module)?)?;
    module.add_function(wrap_pyfunction!(probe_engines, module)?)?;
    module.add_function(wrap_pyfunction!(quant::dequantize_into, module)?)?;
    module.add_function(wrap_pyfunction!(quant::linear, module)?)?;
    module.add_function(wrap_pyfunction!(quant::quantize, module)?)?;
    module.add_function(wrap_pyfunction!(quant::simd_tier, module)?)?;
    module.add_function(wrap_pyfunction!(repack::repack, module)?)?;
    module.add_function(wrap_pyfunction!(rows::gather_rows, module)?)?;
    module.add_function(wrap_pyfunction!(store::read_manifest, module)?)?;
    module.add_function(wrap_pyfunction!(store::verify_store, module)?)?;
    module.add_function(wrap_pyfunction!(store::write_store, module)?)?;
    module.add("AirLLMError", py.get_type::<errors::AirLLMError>())?;
    module.add("CheckpointError", py.get_type::<errors::CheckpointError>())?;
    module.add(
        "CheckpointChanged",
        py.get_type::<errors::CheckpointChanged>(),
    )?;
    module.add("LeaseHeld", py.get_type::<errors::LeaseHeld>())?;
    module.add("NotScheduled", py.get_type::<errors::NotScheduled>())?;
    module.add("WorkerPanicked", py.get_type::<errors::WorkerPanicked>())?;
    Ok(())
}

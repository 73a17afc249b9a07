//! What each error of the crate is in Python.

use std::io;
use std::path::Path;

use pyo3::create_exception;
use pyo3::exceptions::{
    PyException, PyKeyboardInterrupt, PyMemoryError, PyOSError, PyRuntimeError, PyValueError,
};
use pyo3::prelude::*;

use crate::error::{Error, StoreError};

create_exception!(
    airllm_rs._core,
    AirLLMError,
    PyException,
    "What airllm_rs has to say, where no builtin exception says it."
);
create_exception!(
    airllm_rs._core,
    CheckpointError,
    AirLLMError,
    "A checkpoint that is not what it claims to be; names file and offset."
);
create_exception!(
    airllm_rs._core,
    CheckpointChanged,
    CheckpointError,
    "A file of the checkpoint was changed while it was read."
);
create_exception!(
    airllm_rs._core,
    NotScheduled,
    AirLLMError,
    "A unit was taken that was neither scheduled nor demanded."
);
create_exception!(
    airllm_rs._core,
    LeaseHeld,
    AirLLMError,
    "Leases are in the way; names their units."
);
create_exception!(
    airllm_rs._core,
    WorkerPanicked,
    AirLLMError,
    "A thread of the extension failed in a way that it must not."
);

/// The exception that Python gets for an error.
pub(crate) fn raise(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Io {
            source,
            path,
            offset,
            nbytes,
            engine,
        } => {
            let what = format!("reading {nbytes} bytes at offset {offset} with {engine}");
            os_error(&source, &what, &path)
        }
        Error::Open { source, path } => os_error(&source, "", &path),
        Error::CheckpointChanged { .. } => CheckpointChanged::new_err(message),
        Error::UnexpectedEof { .. }
        | Error::Header { .. }
        | Error::Index { .. }
        | Error::NoCheckpoint { .. }
        | Error::PartsOverlap { .. } => CheckpointError::new_err(message),
        Error::UnknownDtype { .. }
        | Error::ShapeSize { .. }
        | Error::UnknownEngine { .. }
        | Error::IoOption { .. }
        | Error::NoSuchRow { .. }
        | Error::OutputSize { .. }
        | Error::ExtentTooLarge { .. }
        | Error::ItemSize { .. }
        | Error::UnknownUnit { .. }
        | Error::RepeatedResident { .. }
        | Error::UnitTooLarge { .. }
        | Error::SimdTier { .. }
        | Error::WeightPart { .. }
        | Error::WeightShape { .. }
        | Error::ProductShape { .. }
        | Error::Softcap { .. }
        | Error::RepackSize { .. }
        | Error::RepackShape { .. }
        | Error::Layout { .. }
        | Error::LayoutOption { .. }
        | Error::LayoutScale { .. }
        | Error::WeightGroup { .. } => PyValueError::new_err(message),
        Error::Store(StoreError::Write { source, path, what }) => os_error(&source, &what, &path),
        Error::Store(StoreError::Job { .. }) => PyValueError::new_err(message),
        Error::Store(StoreError::Interrupted) => PyKeyboardInterrupt::new_err(()),
        Error::Store(_) => CheckpointError::new_err(message),
        Error::NoMemory { .. } => PyMemoryError::new_err(message),
        Error::NotScheduled { .. } => NotScheduled::new_err(message),
        Error::LeaseHeld { .. } => LeaseHeld::new_err(message),
        Error::WorkerPanicked => WorkerPanicked::new_err(message),
        Error::ConsumerBusy | Error::Closed | Error::Forked => PyRuntimeError::new_err(message),
        Error::EngineUnavailable { .. }
        | Error::NotCold { .. }
        | Error::EngineFailed { .. }
        | Error::BadRequest { .. }
        | Error::ShortCompletion { .. }
        | Error::NotLocked { .. }
        | Error::ArenaTooLarge { .. } => AirLLMError::new_err(message),
    }
}

// `(errno, message, path)`, from which Python makes the subclass: `FileNotFoundError` and others.
fn os_error(source: &io::Error, what: &str, path: &Path) -> PyErr {
    let path = path.display().to_string();
    let Some(errno) = source.raw_os_error() else {
        let colon = if what.is_empty() { "" } else { ": " };
        return AirLLMError::new_err(format!("{path}: {what}{colon}{source}"));
    };
    // std adds "(os error 5)", which errno says.
    let full = source.to_string();
    let reason = full.split(" (os error").next().unwrap_or(&full);
    let message = if what.is_empty() {
        reason.to_owned()
    } else {
        format!("{what}: {reason}")
    };
    PyOSError::new_err((errno, message, path))
}

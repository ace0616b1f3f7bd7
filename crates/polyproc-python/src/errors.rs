//! The engine's errors as Python's exceptions: what the standard library raises in the same place, with the engine's
//! own words, which say what happened, to whom, and what to do.

use polyproc_engine::Error;
use pyo3::exceptions::{PyEOFError, PyInterruptedError, PyOSError, PyRuntimeError, PyTimeoutError, PyValueError};
use pyo3::prelude::*;

/// The exception for an engine error.
///
/// `OSError` picks its subclass by the number: EPIPE is a `BrokenPipeError`, ENOSPC a plain `OSError`.
#[cold]
pub fn raise(error: Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::EndOfFile => PyEOFError::new_err(text),
        Error::BrokenPipe => PyOSError::new_err((libc::EPIPE, text)),
        Error::BudgetExhausted { .. } | Error::TooMany { .. } => PyOSError::new_err((libc::ENOSPC, text)),
        Error::Stale { .. } => PyOSError::new_err((libc::ESTALE, text)),
        Error::TooLarge { .. } => PyOSError::new_err((libc::EMSGSIZE, text)),
        Error::Damaged { .. } => PyOSError::new_err((libc::EBADMSG, text)),
        Error::TimedOut => PyTimeoutError::new_err(text),
        Error::Interrupted => PyInterruptedError::new_err((libc::EINTR, text)),
        Error::NotHolder { .. } | Error::ReleasedTooOften { .. } | Error::Setting { .. } => PyValueError::new_err(text),
        Error::Foreign { .. } => PyRuntimeError::new_err(text),
        Error::BrokenBarrier => broken_barrier(text),
        other => match other.raw_os_error() {
            Some(number) => PyOSError::new_err((number, text)),
            None => PyRuntimeError::new_err(text),
        },
    }
}

/// `threading.BrokenBarrierError`, which is a `RuntimeError`.
fn broken_barrier(text: String) -> PyErr {
    Python::attach(|py| {
        let class = py.import("threading").and_then(|threading| threading.getattr("BrokenBarrierError"));
        match class.and_then(|class| class.call1((text,))) {
            Ok(error) => PyErr::from_value(error),
            Err(error) => error,
        }
    })
}

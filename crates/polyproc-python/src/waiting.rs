//! Waiting for the engine without holding the interpreter.
//!
//! ```text
//! try at once, attached ── done ─▶ result
//!         │ not yet
//!         ▼
//! detach ─▶ wait until the deadline ─▶ attach ── done ─▶ result
//!    ▲                                   │ a signal arrived
//!    └───────── no exception ◀── run the handlers ── exception ─▶ raise it
//! ```
//!
//! The fast path makes no system call and does not give the interpreter away. A deadline is a moment, not a length of
//! time: however many signals arrive, the wait ends when it was to end.

use std::time::Duration;

use polyproc_engine::{Deadline, Error, Result};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// Calls the engine: once at once, then waiting until `deadline`. The outer error is Python's (a signal handler
/// raised), the inner one the engine's, [`Error::TimedOut`] among them.
#[inline]
pub fn wait<T: Send>(
    py: Python<'_>,
    deadline: Deadline,
    mut call: impl FnMut(Deadline) -> Result<T> + Send,
) -> PyResult<Result<T>> {
    match call(Deadline::Now) {
        Err(Error::TimedOut) if deadline != Deadline::Now => wait_detached(py, deadline, call),
        // Somebody else is at it, for a moment or stopped in the middle: not to be waited for attached.
        Err(Error::Busy | Error::Interrupted) => wait_detached(py, patient(deadline), call),
        result => Ok(result),
    }
}

/// The same moment, but never [`Deadline::Now`], with which a call that meets somebody else gives up.
fn patient(deadline: Deadline) -> Deadline {
    match deadline {
        Deadline::Now => Deadline::At(0),
        later => later,
    }
}

/// As [`wait`], but never tries attached: for calls that copy much.
pub fn wait_detached<T: Send>(
    py: Python<'_>,
    deadline: Deadline,
    mut call: impl FnMut(Deadline) -> Result<T> + Send,
) -> PyResult<Result<T>> {
    loop {
        match py.detach(|| call(deadline)) {
            Err(Error::Interrupted) => py.check_signals()?,
            result => return Ok(result),
        }
    }
}

/// The moment at which a `timeout` ends: `None` is never, zero and below is now.
///
/// # Errors
/// `TypeError` for what is not a number, `ValueError` for NaN.
pub fn deadline(timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Deadline> {
    let Some(timeout) = timeout else { return Ok(Deadline::Never) };
    let Ok(seconds) = timeout.extract::<f64>() else {
        return Err(PyTypeError::new_err(format!(
            "timeout must be a number of seconds or None, not {} ({})",
            timeout.get_type().name()?,
            short_repr(timeout),
        )));
    };
    if seconds.is_nan() {
        return Err(PyValueError::new_err("timeout must be a number of seconds or None, not nan"));
    }
    if seconds <= 0.0 {
        return Ok(Deadline::Now);
    }
    // What is too long for a Duration is as good as never.
    Ok(Duration::try_from_secs_f64(seconds).map_or(Deadline::Never, |time| Deadline::after(Some(time))))
}

/// `block` and `timeout` as the standard library's queues take them.
#[inline]
pub fn blocking(block: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Deadline> {
    match (block, timeout) {
        (true, None) => Ok(Deadline::Never),
        (true, timeout) => deadline(timeout),
        (false, None) => Ok(Deadline::Now),
        (false, timeout) => deadline(timeout).map(|_| Deadline::Now),
    }
}

/// Any object as a condition, as Python's `if` takes it.
#[derive(Clone, Copy)]
pub struct Truth(pub bool);

impl<'py> FromPyObject<'_, 'py> for Truth {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Truth> {
        object.is_truthy().map(Truth)
    }
}

fn short_repr(object: &Bound<'_, PyAny>) -> String {
    let text = object.repr().map(|text| text.to_string()).unwrap_or_else(|_| "without a repr".into());
    if text.chars().count() <= 60 { text } else { text.chars().take(57).chain("...".chars()).collect() }
}

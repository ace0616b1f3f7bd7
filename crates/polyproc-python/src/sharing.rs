//! Engine objects that travel: a lock in a message, a queue in the arguments of a child.
//!
//! A handle is a number, so any object can be named anywhere; what has to be arranged is that it lives until the other
//! side has taken hold of it:
//!
//! * in a message, the message itself keeps it ([`collect`] hears of every handle that is pickled into it);
//! * for a child that is being spawned, the child's slot holds it from now on;
//! * for a child that is forked, nothing: a fork passes all holds on.
//!
//! Anywhere else (a plain `pickle.dumps`) nobody would keep it, so that is refused in the standard library's words.

use std::cell::RefCell;

use polyproc_engine::shm::Hold;
use polyproc_engine::{Handle, Participant};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors;

thread_local! {
    /// The messages that this thread is pickling, the innermost last, each with the handles that it names so far.
    static MESSAGES: RefCell<Vec<Vec<Handle>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `pickle`, and gives the handles that it wrote beside its result.
pub fn collect<T>(pickle: impl FnOnce() -> PyResult<T>) -> PyResult<(T, Vec<Handle>)> {
    /// Takes the list away again, also when `pickle` unwinds.
    struct Frame;
    impl Drop for Frame {
        fn drop(&mut self) {
            MESSAGES.with_borrow_mut(Vec::pop);
        }
    }

    MESSAGES.with_borrow_mut(|messages| messages.push(Vec::new()));
    let frame = Frame;
    let result = pickle()?;
    let handles = MESSAGES.with_borrow_mut(|messages| messages.last_mut().map(std::mem::take)).unwrap_or_default();
    drop(frame);
    Ok((result, handles))
}

/// Lets the object of `hold` travel with what is being pickled, and gives the bytes that name it. `class` is what the
/// error calls it.
///
/// # Errors
/// `RuntimeError` where nothing is being sent and no child is being spawned.
pub fn share<'py>(py: Python<'py>, hold: &Hold, class: &str) -> PyResult<Bound<'py, PyBytes>> {
    share_by(py, [hold.handle()], class, |child| hold.share_with(child))
}

/// As [`share`], for an object that consists of several, of which the first is its name. `share_with` lets a child hold
/// all of them.
pub fn share_by<'py>(
    py: Python<'py>,
    handles: impl IntoIterator<Item = Handle>,
    class: &str,
    share_with: impl FnOnce(Participant),
) -> PyResult<Bound<'py, PyBytes>> {
    let mut handles = handles.into_iter().peekable();
    let name = handles.peek().map(|handle| handle.to_bytes()).unwrap_or_default();
    let in_message =
        MESSAGES.with_borrow_mut(|messages| messages.last_mut().map(|message| message.extend(handles)).is_some());
    if !in_message {
        let child = spawning(py)?.ok_or_else(|| {
            PyRuntimeError::new_err(format!(
                "{class} objects should only be shared between processes through inheritance"
            ))
        })?;
        if let Ok(participant) = child.getattr("participant") {
            share_with(Participant::from_bits(participant.extract()?));
        }
    }
    Ok(PyBytes::new(py, &name))
}

/// The handle in bytes that [`share`] made.
///
/// # Errors
/// `RuntimeError` if the object belongs to another session.
pub fn received(bytes: &[u8]) -> PyResult<Handle> {
    let bytes =
        bytes.try_into().map_err(|_| PyValueError::new_err(format!("a handle has 16 bytes, not {}", bytes.len())))?;
    Handle::from_bytes(bytes).map_err(errors::raise)
}

/// The child that this thread is spawning, as the standard library keeps it.
fn spawning(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    let child =
        py.import("polyproc._borrowed")?.call_method1("standard", ("context",))?.call_method0("get_spawning_popen")?;
    Ok((!child.is_none()).then_some(child))
}

/// Whether this thread is pickling a message or spawning a child, so that engine objects may be pickled.
#[pyfunction]
fn is_sharing(py: Python<'_>) -> PyResult<bool> {
    Ok(MESSAGES.with_borrow(|messages| !messages.is_empty()) || spawning(py)?.is_some())
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(is_sharing, module)?)
}

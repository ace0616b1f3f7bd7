//! A flag to wait for.

use std::sync::OnceLock;

use polyproc_engine::Error;
use polyproc_engine::sync::Event as Flag;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::{errors, sharing, waiting};

/// Base of the events.
#[pyclass(module = "polyproc._polyproc", subclass, frozen)]
pub struct Event {
    flag: OnceLock<Flag>,
}

impl Event {
    #[inline]
    fn flag(&self) -> PyResult<&Flag> {
        self.flag
            .get()
            .ok_or_else(|| PyRuntimeError::new_err("this event was not initialised: call super().__init__()"))
    }

    fn fill(&self, flag: Flag) -> PyResult<()> {
        self.flag.set(flag).map_err(|_| PyRuntimeError::new_err("this event is initialised already"))
    }
}

#[pymethods]
impl Event {
    #[new]
    #[pyo3(signature = (*_arguments, **_options))]
    fn new(_arguments: &Bound<'_, PyTuple>, _options: Option<&Bound<'_, PyAny>>) -> Event {
        Event { flag: OnceLock::new() }
    }

    /// Makes the flag, not set.
    fn _open(&self) -> PyResult<()> {
        self.fill(Flag::new().map_err(errors::raise)?)
    }

    /// Takes hold of the flag that `_share()` named, in this or another process.
    fn _attach(&self, shared: &[u8]) -> PyResult<()> {
        let handle = sharing::received(shared)?;
        self.fill(Flag::from_handle(handle).map_err(errors::raise)?)
    }

    /// The bytes that name the flag, for a child or a message that is being pickled.
    fn _share<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyBytes>> {
        let class = slf.get_type().name()?.to_string();
        sharing::share(slf.py(), slf.get().flag()?.hold(), &class)
    }

    /// Whether the flag is set.
    fn is_set(&self) -> PyResult<bool> {
        Ok(self.flag()?.is_set())
    }

    /// Sets the flag and wakes all who wait. Never waits, so it may be called in a signal handler too.
    fn set(&self) -> PyResult<()> {
        self.flag()?.set();
        Ok(())
    }

    /// Clears the flag.
    fn clear(&self) -> PyResult<()> {
        self.flag()?.clear();
        Ok(())
    }

    /// Waits until the flag is set: at most `timeout` seconds, or as long as it takes. Tells whether it was.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let deadline = waiting::deadline(timeout)?;
        let flag = self.flag()?;
        let times = flag.times_set();
        match waiting::wait(py, deadline, |deadline| flag.wait_since(times, deadline))? {
            Ok(()) => Ok(true),
            Err(Error::TimedOut) => Ok(false),
            Err(error) => Err(errors::raise(error)),
        }
    }
}

//! The engine's part of a condition, with the lock that goes with it.
//!
//! ```text
//! wait:  enqueue ─▶ release the lock ─▶ sleep until notified ─▶ acquire the lock
//! ```

use polyproc_engine::sync::Condition as Native;
use pyo3::exceptions::PyAssertionError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::semlock::SemLock;
use crate::{errors, sharing, waiting};

/// Those who wait to be notified, in all processes.
#[pyclass(module = "polyproc._polyproc", frozen)]
pub struct Condition {
    native: Native,
}

#[pymethods]
impl Condition {
    #[new]
    fn new() -> PyResult<Condition> {
        Ok(Condition { native: Native::new().map_err(errors::raise)? })
    }

    /// What `_share()` named, in this or another process.
    #[staticmethod]
    fn _attach(shared: &[u8]) -> PyResult<Condition> {
        let handle = sharing::received(shared)?;
        Ok(Condition { native: Native::from_handle(handle).map_err(errors::raise)? })
    }

    /// The bytes that name it, for a child or a message that is being pickled.
    fn _share<'py>(&self, py: Python<'py>, class: &str) -> PyResult<Bound<'py, PyBytes>> {
        sharing::share(py, self.native.hold(), class)
    }

    /// Releases `lock`, waits to be notified, and acquires `lock` again as often as it was. Tells whether it was notified.
    fn wait(&self, py: Python<'_>, lock: &Bound<'_, SemLock>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let deadline = waiting::deadline(timeout)?;
        let lock = lock.get();
        if !lock.is_mine()? {
            return Err(PyAssertionError::new_err("must acquire() condition before using wait()"));
        }
        let ticket = self.native.enqueue();
        let count = match lock.give_all() {
            Ok(count) => count,
            Err(error) => {
                self.native.cancel(ticket);
                return Err(error);
            }
        };
        // Always detached: a try that finds nothing would use the ticket up.
        let waited = waiting::wait_detached(py, deadline, |deadline| self.native.wait(&ticket, deadline));
        if waited.is_err() {
            // A signal handler raised.
            self.native.cancel(ticket);
        }
        let locked = lock.take_all(py, count);
        let notified = waited?.map_err(errors::raise)?;
        locked.map(|()| notified)
    }

    /// Wakes at most `count` of those who wait, and tells how many. The caller holds the lock.
    fn notify(&self, count: u32) -> u32 {
        self.native.notify(count)
    }

    /// How many wait, those included that are notified and have not gone on yet.
    #[getter]
    fn waiters(&self) -> u32 {
        self.native.waiters()
    }

    /// How many are notified and have not gone on yet.
    #[getter]
    fn notified(&self) -> u32 {
        self.native.notified()
    }
}

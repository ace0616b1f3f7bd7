//! A meeting point: one call from coming in to going out, so that nobody stays inside by mistake.

use polyproc_engine::Deadline;
use polyproc_engine::sync::Barrier as Native;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::{errors, sharing, waiting};

/// Where a number of parties wait for each other.
#[pyclass(module = "polyproc._polyproc", frozen)]
pub struct Barrier {
    native: Native,
}

/// A party that is inside. It goes out whatever happens.
struct Inside<'a>(&'a Native);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[pymethods]
impl Barrier {
    #[new]
    fn new(parties: u32) -> PyResult<Barrier> {
        Ok(Barrier { native: Native::new(parties).map_err(errors::raise)? })
    }

    /// What `_share()` named, in this or another process.
    #[staticmethod]
    fn _attach(shared: &[u8]) -> PyResult<Barrier> {
        let handle = sharing::received(shared)?;
        Ok(Barrier { native: Native::from_handle(handle).map_err(errors::raise)? })
    }

    /// The bytes that name it, for a child or a message that is being pickled.
    fn _share<'py>(&self, py: Python<'py>, class: &str) -> PyResult<Bound<'py, PyBytes>> {
        sharing::share(py, self.native.hold(), class)
    }

    /// Waits until all parties have come; the last one then calls `action`. Tells how many were here before, from 0.
    fn wait(
        &self,
        py: Python<'_>,
        action: Option<&Bound<'_, PyAny>>,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<u32> {
        let deadline = waiting::deadline(timeout)?;
        let barrier = &self.native;
        let entered = waiting::wait(py, Deadline::Never, |deadline| barrier.enter(deadline))?;
        let arrival = entered.map_err(errors::raise)?;
        let _inside = Inside(barrier);
        if !arrival.last {
            // Always detached: a try that finds nothing would break the barrier.
            waiting::wait_detached(py, deadline, |deadline| barrier.wait(deadline))?.map_err(errors::raise)?;
            return Ok(arrival.index);
        }
        if let Some(action) = action
            && let Err(error) = action.call0()
        {
            barrier.abort();
            return Err(error);
        }
        barrier.open();
        Ok(arrival.index)
    }

    /// Breaks the barrier.
    fn abort(&self) {
        self.native.abort();
    }

    /// Makes the barrier as new; those who wait get an error.
    fn reset(&self) {
        self.native.reset();
    }

    /// How many parties it takes.
    #[getter]
    fn parties(&self) -> u32 {
        self.native.parties()
    }

    /// How many are waiting.
    #[getter]
    fn waiting(&self) -> u32 {
        self.native.waiting()
    }

    /// Whether it is broken.
    #[getter]
    fn broken(&self) -> bool {
        self.native.is_broken()
    }
}

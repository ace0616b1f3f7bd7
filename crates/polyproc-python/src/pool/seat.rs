//! A worker's place: made by the pool, handed to the worker's process, watched by the supervisor.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use polyproc_engine::pool::{self, Ledger};
use polyproc_engine::process::{self, supervisor};
use polyproc_engine::sync::signal;
use polyproc_engine::{Deadline, Error};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::process::Child;
use crate::{errors, sharing, waiting};

/// A worker's place in a pool; goes to the worker with its arguments.
#[pyclass(module = "polyproc._polyproc", frozen)]
pub struct Seat {
    pub ledger: Arc<Ledger>,
    /// The word that the pool's own thread sleeps on.
    pub pump: Arc<AtomicU32>,
    pub seat: pool::Seat,
    /// The worker, once it was started.
    pub child: OnceLock<Weak<process::Child>>,
}

#[pymethods]
impl Seat {
    #[getter]
    fn number(&self) -> u32 {
        self.seat.number
    }

    /// What names the lane.
    #[getter]
    fn handle<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.seat.handle.to_bytes())
    }

    /// What is pickled for a worker that is not forked.
    fn _share<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        sharing::share_by(py, [self.seat.handle], "Seat", |child| self.ledger.share_seat(self.seat.number, child))
    }

    /// Takes the place back: no worker was started for it.
    fn give_back(&self) {
        self.ledger.close_seat(self.seat.number);
    }

    /// From now on the end of this process is the end of the worker that has the seat.
    fn watch(&self, child: &Bound<'_, Child>) {
        // The supervisor keeps no ledger: with it, it would keep the descriptors of all the workers for each of them.
        let (ledger, pump, number) = (Arc::downgrade(&self.ledger), Arc::clone(&self.pump), self.seat.number);
        self.ledger.seated(number, child.get().engine());
        let _ = self.child.set(Arc::downgrade(child.get().engine()));
        supervisor::tell(
            child.get().engine(),
            Box::new(move |child| {
                if let (Some(report), Some(ledger)) = (child.report(), ledger.upgrade()) {
                    ledger.ended(number, report.pid, report.status);
                    signal::notify(&*pump, u32::MAX);
                }
            }),
        );
    }

    /// Waits, for so many seconds at most, until the supervisor is done with the worker, which has ended.
    fn settle(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        let Some(child) = self.child.get().and_then(Weak::upgrade) else { return Ok(()) };
        let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let deadline = Deadline::after(Some(time));
        match waiting::wait_detached(py, deadline, |deadline| supervisor::settle(&child, deadline))? {
            Ok(()) | Err(Error::TimedOut) => Ok(()),
            Err(error) => Err(errors::raise(error)),
        }
    }
}

//! A worker's place: made by the pool, handed to the worker's process, watched by the supervisor.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use polyproc_engine::pool::{self, Ledger};
use polyproc_engine::process::supervisor;
use polyproc_engine::sync::signal;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::process::Child;
use crate::sharing;

/// A worker's place in a pool; goes to the worker with its arguments.
#[pyclass(module = "polyproc._polyproc", frozen)]
pub struct Seat {
    pub ledger: Arc<Ledger>,
    /// The word that the pool's own thread sleeps on.
    pub pump: Arc<AtomicU32>,
    pub seat: pool::Seat,
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
        let (ledger, pump, number) = (Arc::clone(&self.ledger), Arc::clone(&self.pump), self.seat.number);
        ledger.seated(number, child.get().engine());
        supervisor::tell(
            child.get().engine(),
            Box::new(move |child| {
                if let Some(report) = child.report() {
                    ledger.ended(number, report.pid, report.status);
                    signal::notify(&*pump, u32::MAX);
                }
            }),
        );
    }
}

//! Queues: the engine's ring as the base class of the queues in `polyproc.queues`.
//!
//! `put` and `get` run from Python's call to the ring and back without a frame of Python between. Closing is a matter
//! of this process: the ring lives on for the others.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use polyproc_engine::channel::Queue as Ring;
use polyproc_engine::{Deadline, Error};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple, PyType};

use crate::message::{self, Incoming, Sent};
use crate::pickling::Export;
use crate::waiting::{self, Truth};
use crate::{errors, sharing};

mod standard {
    pyo3::import_exception!(queue, Full);
    pyo3::import_exception!(queue, Empty);
}

/// Base of the queues: first in, first out, for any number of processes and threads.
#[pyclass(module = "polyproc._polyproc", subclass, frozen)]
pub struct Queue {
    ring: OnceLock<Ring>,
    closed: AtomicBool,
    /// Something was put by this process.
    used: AtomicBool,
}

impl Queue {
    #[inline]
    fn ring(&self) -> PyResult<&Ring> {
        self.ring
            .get()
            .ok_or_else(|| PyRuntimeError::new_err("this queue was not initialised: call super().__init__()"))
    }

    fn fill(&self, ring: Ring) -> PyResult<()> {
        self.ring.set(ring).map_err(|_| PyRuntimeError::new_err("this queue is initialised already"))
    }
}

/// The ring of a queue that is not closed.
#[inline]
fn open_ring<'a>(queue: &'a Bound<'_, Queue>) -> PyResult<&'a Ring> {
    if queue.get().closed.load(Ordering::Relaxed) {
        return Err(closed(queue));
    }
    queue.get().ring()
}

#[cold]
fn closed(queue: &Bound<'_, Queue>) -> PyErr {
    match queue.repr() {
        Ok(text) => PyValueError::new_err(format!("Queue {text} is closed")),
        Err(error) => error,
    }
}

fn put(queue: &Bound<'_, Queue>, object: &Bound<'_, PyAny>, deadline: Deadline) -> PyResult<()> {
    let ring = open_ring(queue)?;
    queue.get().used.store(true, Ordering::Relaxed);
    match message::send(object, deadline, |message, deadline| ring.put(message, deadline))? {
        Sent::Delivered => Ok(()),
        Sent::Failed(Error::TimedOut) => Err(standard::Full::new_err(())),
        Sent::Failed(error) => Err(errors::raise(error)),
        Sent::Refused(error) => Err(error),
    }
}

fn get<'py>(queue: &Bound<'py, Queue>, deadline: Deadline) -> PyResult<Bound<'py, PyAny>> {
    receive(queue, deadline)?.into_object(queue.py())
}

#[inline]
fn receive(queue: &Bound<'_, Queue>, deadline: Deadline) -> PyResult<Incoming> {
    let ring = open_ring(queue)?;
    Incoming::receive(queue.py(), deadline, |envelope, deadline| ring.get(envelope, deadline))?.map_err(|error| {
        match error {
            Error::TimedOut => standard::Empty::new_err(()),
            error => errors::raise(error),
        }
    })
}

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (*_arguments, **_options), text_signature = "(*args, **kwargs)")]
    fn new(_arguments: &Bound<'_, PyTuple>, _options: Option<&Bound<'_, PyDict>>) -> Queue {
        Queue { ring: OnceLock::new(), closed: AtomicBool::new(false), used: AtomicBool::new(false) }
    }

    /// ``Queue[int]``, for annotations.
    #[classmethod]
    #[pyo3(text_signature = "($cls, item, /)")]
    fn __class_getitem__<'py>(class: &Bound<'py, PyType>, item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        class.py().import("types")?.call_method1("GenericAlias", (class, item))
    }

    /// Makes the ring; `maxsize` 0 is unbounded.
    fn _open(&self, maxsize: u32) -> PyResult<()> {
        self.fill(Ring::new(maxsize).map_err(errors::raise)?)
    }

    /// Takes hold of the ring that `_share()` named, in this or another process.
    fn _attach(&self, shared: &[u8]) -> PyResult<()> {
        let handle = sharing::received(shared)?;
        self.fill(Ring::from_handle(handle).map_err(errors::raise)?)
    }

    /// Another queue on the same ring, for a thread that is not to keep this one alive.
    fn _twin(&self) -> PyResult<Queue> {
        let twin = Queue { ring: OnceLock::new(), closed: AtomicBool::new(false), used: AtomicBool::new(false) };
        twin.fill(self.ring()?.clone())?;
        Ok(twin)
    }

    /// The bytes that name the ring, for a child or a message that is being pickled.
    fn _share<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyBytes>> {
        let class = slf.get_type().name()?.to_string();
        sharing::share(slf.py(), slf.get().ring()?.hold(), &class)
    }

    /// Appends `obj`. With a bound, waits for room: up to `timeout` seconds, or not at all if `block` is false.
    ///
    /// When it returns, the item is delivered: it outlives this process.
    ///
    /// Raises ``queue.Full`` if there was no room in time, ``ValueError`` if the queue is closed, and what pickling
    /// raises if `obj` cannot be pickled.
    #[pyo3(
        signature = (obj, block = Truth(true), timeout = None),
        text_signature = "($self, obj, block=True, timeout=None)"
    )]
    fn put(
        slf: &Bound<'_, Self>,
        obj: &Bound<'_, PyAny>,
        block: Truth,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        put(slf, obj, waiting::blocking(block.0, timeout)?)
    }

    /// Appends `obj` if there is room now; otherwise raises ``queue.Full``.
    fn put_nowait(slf: &Bound<'_, Self>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        put(slf, obj, Deadline::Now)
    }

    /// Removes and returns the next item. Waits for one: up to `timeout` seconds, or not at all if `block` is false.
    ///
    /// Raises ``queue.Empty`` if there was none in time and ``ValueError`` if the queue is closed.
    #[pyo3(signature = (block = Truth(true), timeout = None), text_signature = "($self, block=True, timeout=None)")]
    fn get<'py>(
        slf: &Bound<'py, Self>,
        block: Truth,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        get(slf, waiting::blocking(block.0, timeout)?)
    }

    /// Removes and returns the next item if there is one; otherwise raises ``queue.Empty``.
    fn get_nowait<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        get(slf, Deadline::Now)
    }

    /// As `get`, but calls `taken` once an item has been taken, also if it then cannot be unpickled.
    fn _get_and<'py>(
        slf: &Bound<'py, Self>,
        taken: &Bound<'py, PyAny>,
        block: Truth,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let incoming = receive(slf, waiting::blocking(block.0, timeout)?)?;
        taken.call0()?;
        incoming.into_object(slf.py())
    }

    /// How many items are in the queue at this moment.
    fn qsize(&self) -> PyResult<usize> {
        Ok(self.ring()?.len() as usize)
    }

    /// Whether the queue holds as many items as its bound allows, at this moment.
    fn full(&self) -> PyResult<bool> {
        Ok(self.ring()?.is_full())
    }

    /// The bound; 0 is none.
    #[getter]
    fn maxsize(&self) -> PyResult<u32> {
        Ok(self.ring()?.most())
    }

    #[getter]
    fn _closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    #[getter]
    fn _used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    fn _close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    fn _empty(&self) -> PyResult<bool> {
        Ok(self.ring()?.is_empty())
    }

    /// A descriptor that is readable while the queue is not empty.
    fn _bell(&self) -> PyResult<i32> {
        self.ring()?.bell().map_err(errors::raise)
    }

    /// Appends the object whose pickle `data` is.
    fn _put_bytes(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let ring = open_ring(slf)?;
        let export = Export::of(data)?;
        message::send_raw(slf.py(), export.bytes(), Deadline::Never, |message, deadline| ring.put(message, deadline))?
            .map_err(errors::raise)
    }

    /// Removes the next item and returns its pickle.
    fn _get_bytes<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyBytes>> {
        receive(slf, Deadline::Never)?.into_bytes(slf.py())
    }

    /// Says that an item which was got is finished.
    fn _task_done(&self) -> PyResult<()> {
        match self.ring()?.finish_one() {
            Err(Error::ReleasedTooOften { .. }) => Err(PyValueError::new_err("task_done() called too many times")),
            result => result.map_err(errors::raise),
        }
    }

    /// Waits until every item that was put is finished.
    fn _join_tasks(&self, py: Python<'_>) -> PyResult<()> {
        let ring = self.ring()?;
        waiting::wait(py, Deadline::Never, |deadline| ring.wait_finished(deadline))?.map_err(errors::raise)
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Queue>()
}

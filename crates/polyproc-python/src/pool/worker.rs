//! The loop of a worker: take, decode, call, encode, commit.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use polyproc_engine::Deadline;
use polyproc_engine::Handle;
use polyproc_engine::channel::{Body, Envelope, Parcel};
use polyproc_engine::pool::{self, Taken};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use super::cargo::{self, Entries, RESULT_HEAD, TASK_HEAD, style, verdict};
use super::function::Known;
use crate::block::MUCH;
use crate::{errors, sharing, waiting};

/// A worker's end of its lane.
#[pyclass(module = "polyproc._polyproc", frozen)]
pub struct Worker {
    end: Mutex<Option<pool::Worker>>,
}

#[pymethods]
impl Worker {
    /// `seat` is what `Seat.handle` gave.
    #[new]
    fn new(seat: &[u8]) -> PyResult<Worker> {
        let end = pool::Worker::attach(sharing::received(seat)?).map_err(errors::raise)?;
        Ok(Worker { end: Mutex::new(Some(end)) })
    }

    /// Tells the pool something that belongs to no task: why the initializer failed.
    fn note(&self, note: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut record = Vec::new();
        cargo::pack(note, &mut record)?;
        let mut guard = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let end = guard.as_mut().ok_or_else(running)?;
        let mut parcel = Parcel::new(0, &record).map_err(errors::raise)?;
        end.note(&mut parcel).map_err(errors::raise)
    }

    /// Works until the pool says that it is enough. `describe` turns an exception into what is sent of it, and
    /// `refuse` one that says that a result could not be sent.
    fn work(&self, py: Python<'_>, describe: &Bound<'_, PyAny>, refuse: &Bound<'_, PyAny>) -> PyResult<()> {
        // Taken out: the user's code runs meanwhile, and a lock must not be held then.
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(running)?;
        Bench { end, describe, refuse, known: Known::default(), record: Vec::new() }.work(py)
    }
}

fn running() -> PyErr {
    PyRuntimeError::new_err("this worker works already")
}

/// The process that works, and what it calls after each task or bundle.
static WORKING: AtomicU32 = AtomicU32::new(0);
static AFTER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Has `hook` called after each task, if this process is a worker of a pool; tells whether it is.
#[pyfunction]
fn after_task(py: Python<'_>, hook: Py<PyAny>) -> bool {
    let works = WORKING.load(Ordering::Relaxed) == std::process::id();
    if works {
        AFTER.get_or_init(py, || hook);
    }
    works
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(after_task, module)?)?;
    module.add_class::<Worker>()
}

struct Bench<'a, 'py> {
    end: pool::Worker,
    describe: &'a Bound<'py, PyAny>,
    refuse: &'a Bound<'py, PyAny>,
    known: Known,
    record: Vec<u8>,
}

impl<'py> Bench<'_, 'py> {
    fn work(&mut self, py: Python<'py>) -> PyResult<()> {
        WORKING.store(std::process::id(), Ordering::Relaxed);
        let mut envelope = Envelope::new();
        self.end.ready();
        loop {
            let end = &mut self.end;
            // With the interpreter held as long as there is something at once, which is most of the time under load.
            let taken = waiting::wait(py, Deadline::Never, |deadline| end.take(&mut envelope, deadline))?;
            match taken.map_err(errors::raise)? {
                Taken::Stop => return Ok(()),
                Taken::Task(id) if is_bundle(&envelope) => {
                    let record = std::mem::take(&mut envelope.inline);
                    self.run_bundle(py, id, &record)?;
                    envelope.inline = record;
                }
                Taken::Task(id) => {
                    let mut function = None;
                    let outcome = self.run(py, &mut envelope, &mut function);
                    self.commit(py, id, outcome, function.as_ref())?;
                    py.check_signals()?;
                }
            }
            if let Some(hook) = AFTER.get(py) {
                hook.call0(py)?;
            }
        }
    }

    /// What the task's function returns; `called` is the function, once it is known.
    fn run(
        &mut self,
        py: Python<'py>,
        envelope: &mut Envelope,
        called: &mut Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (head, payload) = envelope.inline.split_at_checked(TASK_HEAD).ok_or_else(damaged)?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (function, style) = (Handle { cell: number(8), generation: number(12) }, head[16]);
        let small = envelope.buffers.is_empty() && matches!(envelope.body, Body::Inline);
        let argument = if small {
            cargo::unpack(py, payload)
        } else {
            let kind = payload.first().copied();
            cargo::unpack_large(py, kind.as_ref(), envelope)
        };
        // What the message named has been taken hold of; what it brought is the argument's by now.
        envelope.clear();
        let argument = argument?;
        match style {
            style::ITEM => call_with(called.insert(self.known.get(py, function)?), &argument),
            style::STAR => called.insert(self.known.get(py, function)?).call1(as_tuple(argument)?),
            style::FULL => {
                let function = called.insert(self.known.get(py, function)?);
                let (arguments, options): (Bound<'_, PyAny>, Bound<'_, PyDict>) = argument.extract()?;
                function.call(as_tuple(arguments)?, Some(&options))
            }
            style::WHOLE => {
                let (function, arguments, options): (Bound<'_, PyAny>, Bound<'_, PyAny>, Bound<'_, PyDict>) =
                    argument.extract()?;
                drop(argument);
                called.insert(function).call(as_tuple(arguments)?, Some(&options))
            }
            _ => Err(damaged()),
        }
    }

    /// Does a bundle of tasks. Each result is noted as soon as it is there; they are sent together.
    fn run_bundle(&mut self, py: Python<'py>, id: u64, record: &[u8]) -> PyResult<()> {
        let number = |at: usize| cargo::number(record, at).ok_or_else(damaged);
        let handle = Handle { cell: number(8)?, generation: number(12)? };
        let star = record[TASK_HEAD - 1] == style::STARS;
        let count = number(TASK_HEAD)?;
        let function = self.known.get(py, handle);
        let mut entries = Entries::new(py, &record[TASK_HEAD + 4..]);
        let (mut first, mut place) = (0, 0);
        let mut results = head_of_entries(id, first);
        while place < count {
            let outcome = match &function {
                Ok(function) => entries.argument(py).and_then(|argument| {
                    if star { function.call1(as_tuple(argument)?) } else { call_with(function, &argument) }
                }),
                Err(error) => Err(error.clone_ref(py)),
            };
            let (verdict, object) = match outcome {
                Ok(value) => (verdict::VALUE, value),
                Err(error) => (verdict::ERROR, self.describe(py, error)?),
            };
            let start = results.len();
            let function = function.as_ref().ok();
            if !self.add(verdict, &object, function, &mut results)? || !self.end.add(&results[start..]) {
                // Too large to lie beside the others: they go first, then this one alone.
                results.truncate(start);
                self.flush(&mut results, first, place)?;
                self.send_at(py, id, place, verdict, object, function)?;
                first = place + 1;
                results = head_of_entries(id, first);
            }
            place += 1;
            py.check_signals()?;
            if self.end.is_asked() {
                break;
            }
        }
        set_count(&mut results, place - first);
        let committed = Parcel::new(0, &results).and_then(|mut parcel| self.end.commit(&mut parcel));
        committed.map_err(errors::raise)
    }

    /// Appends a result to those of a bundle. False if it is large.
    #[inline]
    fn add(
        &self,
        verdict: u8,
        object: &Bound<'py, PyAny>,
        function: Option<&Bound<'py, PyAny>>,
        results: &mut Vec<u8>,
    ) -> PyResult<bool> {
        cargo::add_result(verdict, object, function, results).or_else(|error| {
            let py = object.py();
            let refused = self.refuse.call1((error.into_value(py), object, verdict == verdict::VALUE))?;
            cargo::add_result(verdict::ERROR, &refused, None, results)
        })
    }

    /// Sends what there is of a bundle's results, up to the `done`-th.
    fn flush(&mut self, results: &mut [u8], first: u32, done: u32) -> PyResult<()> {
        set_count(results, done - first);
        Parcel::new(0, results).and_then(|mut parcel| self.end.flush(&mut parcel, done)).map_err(errors::raise)
    }

    /// Sends one result of a bundle by itself.
    fn send_at(
        &mut self,
        py: Python<'py>,
        id: u64,
        place: u32,
        verdict: u8,
        object: Bound<'py, PyAny>,
        function: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let (mut verdict, mut object) = (verdict, object);
        for _ in 0..3 {
            let mut record = id.to_le_bytes().to_vec();
            record.push(verdict::AT);
            record.extend_from_slice(&place.to_le_bytes());
            record.push(verdict);
            let function = function.filter(|_| verdict == verdict::VALUE);
            let sent = match cargo::pack_result(&object, function, &mut record) {
                Ok(Some(large)) => {
                    let sent = large.parcel(&record).and_then(|mut parcel| self.end.flush(&mut parcel, place + 1));
                    sent.map_err(errors::raise)
                }
                Ok(None) => {
                    // It is small, but the others had taken the room.
                    let mut alone = head_of_entries(id, place);
                    cargo::add_result(verdict, &object, function, &mut alone)?;
                    self.flush(&mut alone, place, place + 1)
                }
                Err(error) => Err(error),
            };
            match sent {
                Ok(()) => return Ok(()),
                Err(error) => {
                    object = self.refuse.call1((error.into_value(py), object, verdict == verdict::VALUE))?;
                    verdict = verdict::ERROR;
                }
            }
        }
        Err(PyRuntimeError::new_err("not even the news that a result could not be sent could be sent"))
    }

    fn commit(
        &mut self,
        py: Python<'py>,
        id: u64,
        outcome: PyResult<Bound<'py, PyAny>>,
        function: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let (mut verdict, mut object) = match outcome {
            Ok(value) => (verdict::VALUE, value),
            Err(error) => (verdict::ERROR, self.describe(py, error)?),
        };
        // The object, or else that it cannot be sent, or else that not even that can be.
        for _ in 0..3 {
            match self.try_commit(py, id, verdict, &object, function) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    object = self.refuse.call1((error.into_value(py), object, verdict == verdict::VALUE))?;
                    verdict = verdict::ERROR;
                }
            }
        }
        Err(PyRuntimeError::new_err("not even the news that a result could not be sent could be sent"))
    }

    fn try_commit(
        &mut self,
        py: Python<'py>,
        id: u64,
        verdict: u8,
        object: &Bound<'py, PyAny>,
        function: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        self.record.clear();
        self.record.extend_from_slice(&id.to_le_bytes());
        self.record.push(verdict);
        let mut record = std::mem::take(&mut self.record);
        let function = function.filter(|_| verdict == verdict::VALUE);
        let large = cargo::pack_result(object, function, &mut record)?;
        let committed = match &large {
            None => Parcel::new(0, &record).and_then(|mut parcel| self.end.commit(&mut parcel)),
            Some(large) => {
                let packed =
                    if large.size() >= MUCH { py.detach(|| large.parcel(&record)) } else { large.parcel(&record) };
                packed.and_then(|mut parcel| self.end.commit(&mut parcel))
            }
        };
        self.record = record;
        committed.map_err(errors::raise)
    }

    fn describe(&self, py: Python<'py>, error: PyErr) -> PyResult<Bound<'py, PyAny>> {
        self.describe.call1((error.into_value(py),))
    }
}

fn is_bundle(envelope: &Envelope) -> bool {
    matches!(envelope.inline.get(TASK_HEAD - 1), Some(&(style::MANY | style::STARS)))
}

/// The beginning of a record with results of a bundle.
fn head_of_entries(id: u64, first: u32) -> Vec<u8> {
    let mut record = id.to_le_bytes().to_vec();
    record.push(verdict::ENTRIES);
    record.extend_from_slice(&first.to_le_bytes());
    record.extend_from_slice(&[0; 4]);
    record
}

/// Says how many results a record holds.
fn set_count(record: &mut [u8], count: u32) {
    record[RESULT_HEAD + 4..RESULT_HEAD + 8].copy_from_slice(&count.to_le_bytes());
}

/// `function(argument)`, without a tuple made for it.
#[inline]
fn call_with<'py>(function: &Bound<'py, PyAny>, argument: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: two live objects and the end of the list; a new reference comes back, or null with an exception set.
    unsafe {
        let end = std::ptr::null_mut::<pyo3::ffi::PyObject>();
        let result = pyo3::ffi::PyObject_CallFunctionObjArgs(function.as_ptr(), argument.as_ptr(), end);
        Bound::from_owned_ptr_or_err(function.py(), result)
    }
}

fn as_tuple(object: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyTuple>> {
    match object.cast_into_exact::<PyTuple>() {
        Ok(tuple) => Ok(tuple),
        Err(other) => {
            let object = other.into_inner();
            let items = object.try_iter()?.collect::<PyResult<Vec<_>>>()?;
            PyTuple::new(object.py(), items)
        }
    }
}

fn damaged() -> PyErr {
    PyValueError::new_err("a task does not parse: shared memory was overwritten")
}

/// A note, as it was given to [`Worker::note`].
pub fn read_note<'py>(py: Python<'py>, note: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    cargo::unpack(py, note).or_else(|_| Ok(PyBytes::new(py, note).into_any()))
}

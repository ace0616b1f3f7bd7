//! Results as Python sees them: what `apply_async` and `map_async` return, and the iterators of `imap`.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use polyproc_engine::pool::Because;
use polyproc_engine::{Deadline, Error};
use pyo3::exceptions::{PyException, PyStopIteration, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use super::cargo::{self, Entries, Entry, RESULT_HEAD, TASK_HEAD, verdict};
use super::desk::Desk;
use super::feed::failed;
use super::job::{Job, Kept, Raw, Shape};
use super::results::Piece;
use crate::{errors, waiting};

/// What becomes of tasks that failed, in a list or a stream.
mod on_error {
    pub const RETURN: u8 = 1;
    pub const SKIP: u8 = 2;
}

/// The farthest that a stream runs ahead of its consumer.
const WIDEST: u32 = 8192;
/// Large tasks that a stream has drawn and not sent, at most.
const LARGE_AHEAD: u32 = 4;

/// A function of `polyproc._pool_errors`.
fn helper<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("polyproc._pool_errors")?.getattr(name)
}

/// Which task it was, for errors: its place, and its argument, where that is known.
type Which<'py> = (Option<u32>, bool, Option<Bound<'py, PyAny>>);

fn which<'py>(py: Python<'py>, job: &Job, index: u32, record: Option<Box<[u8]>>) -> Which<'py> {
    let argument = match (record, job.items(py), job.shape) {
        (Some(record), _, _) => record.get(TASK_HEAD..).and_then(|payload| cargo::unpack(py, payload).ok()),
        (None, Some(arguments), Shape::Single) => Some(arguments.into_bound(py)),
        (None, Some(items), _) => items.bind(py).get_item(index).ok(),
        (None, None, _) => None,
    };
    let place = (job.shape != Shape::Single).then_some(job.base.wrapping_add(index));
    (place, argument.is_some(), argument)
}

/// What came of a task: its value, or else the exception. The outer error has nothing to do with the task.
fn open<'py>(
    py: Python<'py>,
    desk: &Desk,
    job: &Job,
    index: u32,
    raw: Raw,
) -> PyResult<Result<Bound<'py, PyAny>, PyErr>> {
    let exception = |object: Bound<'py, PyAny>| Ok(Err(PyErr::from_value(object)));
    let read = |verdict, payload| read(py, verdict, payload, || which(py, job, index, None));
    match raw {
        Raw::Small(bytes) => match &*bytes {
            [verdict, payload @ ..] => read(*verdict, cargo::unpack(py, payload)),
            [] => Ok(Err(damaged())),
        },
        Raw::Large(mut envelope) => {
            let verdict = envelope.inline.get(RESULT_HEAD - 1).copied().unwrap_or(verdict::ERROR);
            let kind = envelope.inline.get(RESULT_HEAD).copied();
            let payload = cargo::unpack_large(py, kind.as_ref(), &mut envelope);
            read(verdict, payload)
        }
        Raw::Died(ended, kept) => {
            let which = which(py, job, index, kept);
            let policy = &job.policy;
            exception(match ended.because {
                Some(Because::Cancelled) => helper(py, "cancelled")?.call0()?,
                Some(Because::TimedOut) => {
                    let seconds = policy.timeout.map_or(0.0, |limit| limit as f64 / 1e9);
                    helper(py, "timed_out")?.call1((which, ended.pid, seconds))?
                }
                Some(Because::TookTooMuch(took)) => {
                    helper(py, "took_too_much")?.call1((which, ended.pid, policy.memory.unwrap_or(0), took))?
                }
                None => {
                    let code = desk.exit_of(py, &ended)?;
                    let how = ended.status.to_string();
                    helper(py, "died")?.call1((which, ended.pid, code, how, ended.kills))?
                }
            })
        }
        Raw::Failed(error) => exception(error.into_bound(py)),
        Raw::Cancelled => exception(helper(py, "cancelled")?.call0()?),
        Raw::Terminated => exception(helper(py, "terminated")?.call0()?),
        Raw::Broken => {
            let (note, ended) = desk.why_broken(py)?;
            let last = match ended {
                Some(ended) => Some((ended.pid, desk.exit_of(py, &ended)?, ended.status.to_string())),
                None => None,
            };
            exception(helper(py, "broken")?.call1((note, last))?)
        }
    }
}

fn read<'py>(
    py: Python<'py>,
    verdict: u8,
    payload: PyResult<Bound<'py, PyAny>>,
    which: impl FnOnce() -> Which<'py>,
) -> PyResult<Result<Bound<'py, PyAny>, PyErr>> {
    match (verdict, payload) {
        (verdict::VALUE, Ok(value)) => Ok(Ok(value)),
        (_, Ok(described)) => {
            let error = helper(py, "rebuild")?.call1((described, which()))?;
            Ok(Err(PyErr::from_value(error)))
        }
        (_, Err(error)) if error.is_instance_of::<PyException>(py) => {
            let error = helper(py, "unreadable")?.call1((error.into_value(py), which()))?;
            Ok(Err(PyErr::from_value(error)))
        }
        (_, Err(error)) => Err(error),
    }
}

/// The result of a single task, or the list of a job's results; or the exception.
fn open_results<'py>(
    py: Python<'py>,
    desk: &Desk,
    job: &Job,
    results: Kept,
    mode: u8,
) -> PyResult<Result<Bound<'py, PyAny>, PyErr>> {
    let results = match results {
        Kept::List(results) => results,
        Kept::One(raw) => return open(py, desk, job, 0, raw.unwrap_or(Raw::Terminated)),
        Kept::Stream(_) | Kept::Taken | Kept::Opened(..) => {
            return Ok(Err(PyValueError::new_err("these results were taken before")));
        }
    };
    let mut list = Listing::new(py, results.count(), mode)?;
    for (index, piece) in results.into_pieces() {
        match piece {
            Piece::One(raw) => list.add(open(py, desk, job, index, raw.unwrap_or(Raw::Terminated))?)?,
            Piece::Run(run) => {
                let mut entries = Entries::new(py, run.bytes.get(run.at..).unwrap_or_default());
                for index in index..index.saturating_add(run.count) {
                    match entries.next() {
                        Ok(Entry::Plain(value)) => list.add(Ok(value))?,
                        Ok(Entry::Apart([verdict, payload @ ..])) => {
                            let which = || which(py, job, index, None);
                            list.add(read(py, *verdict, cargo::unpack(py, payload), which)?)?;
                        }
                        Ok(Entry::Apart([])) => list.add(Err(damaged()))?,
                        Err(error) => list.add(Err(error))?,
                    }
                }
            }
        }
    }
    drop(job.take_items());
    Ok(list.finish())
}

/// A list of results that is being made.
struct Listing<'py> {
    list: Bound<'py, PyList>,
    /// How many there are so far, where their number is known before.
    filled: Option<usize>,
    mode: u8,
    first: Option<PyErr>,
}

impl<'py> Listing<'py> {
    fn new(py: Python<'py>, count: u32, mode: u8) -> PyResult<Listing<'py>> {
        if mode == on_error::SKIP {
            return Ok(Listing { list: PyList::empty(py), filled: None, mode, first: None });
        }
        // SAFETY: a new list, or null with an exception set.
        let list = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyList_New(count as ffi::Py_ssize_t))? };
        // Until it is filled nobody is to come across it, which the collector's functions would make possible.
        // SAFETY: a live object of a type that the collector knows.
        unsafe { ffi::PyObject_GC_UnTrack(list.as_ptr().cast()) };
        // SAFETY: it is a list.
        let list = unsafe { list.cast_into_unchecked() };
        Ok(Listing { list, filled: Some(0), mode, first: None })
    }

    #[inline]
    fn add(&mut self, result: Result<Bound<'py, PyAny>, PyErr>) -> PyResult<()> {
        let value = match result {
            Ok(_) if self.first.is_some() => return Ok(()),
            Ok(value) => value,
            Err(error) if self.mode == on_error::RETURN => {
                error.into_value(self.list.py()).into_bound(self.list.py()).into_any()
            }
            Err(_) if self.mode == on_error::SKIP => return Ok(()),
            Err(error) => {
                self.first.get_or_insert(error);
                return Ok(());
            }
        };
        let Some(filled) = &mut self.filled else { return self.list.append(value) };
        let at = *filled as ffi::Py_ssize_t;
        *filled += 1;
        // SAFETY: a live list; the call takes over the reference, and looks whether there is such a place.
        match unsafe { ffi::PyList_SetItem(self.list.as_ptr(), at, value.into_ptr()) } {
            0 => Ok(()),
            _ => Err(PyErr::fetch(self.list.py())),
        }
    }

    /// The list, or the first error.
    fn finish(self) -> Result<Bound<'py, PyAny>, PyErr> {
        match self.first {
            Some(error) => Err(error),
            None => {
                if self.filled.is_some() {
                    // SAFETY: a live object that was untracked, and is filled by now.
                    unsafe { ffi::PyObject_GC_Track(self.list.as_ptr().cast()) };
                }
                Ok(self.list.into_any())
            }
        }
    }
}

fn damaged() -> PyErr {
    PyValueError::new_err("a result does not parse: shared memory was overwritten")
}

/// Calls what has to be called with a job's result.
pub fn run_callback(py: Python<'_>, desk: &Desk, job: &Arc<Job>, run: &Bound<'_, PyAny>) -> PyResult<()> {
    let Some(callbacks) = &job.callbacks else { return Ok(()) };
    let opened = open_results(py, desk, job, job.take_results(py), 0)?;
    let (value, is_value) = match opened {
        Ok(value) => (value, true),
        Err(error) => (error.into_value(py).into_bound(py).into_any(), false),
    };
    *callbacks.made.lock().unwrap_or_else(PoisonError::into_inner) = Some((value.clone().unbind(), is_value));
    let callback = if is_value { &callbacks.on_success } else { &callbacks.on_error };
    match callback {
        Some(callback) => run.call1((callback, value)).map(drop),
        None => Ok(()),
    }
}

/// The result of `apply_async`, `map_async` or `starmap_async`.
#[pyclass(module = "polyproc.pool", name = "ApplyResult", frozen, weakref)]
pub struct Outcome {
    desk: Py<Desk>,
    job: Arc<Job>,
    on_error: u8,
}

impl Outcome {
    pub fn new<'py>(desk: &Bound<'py, Desk>, job: Arc<Job>, on_error: u8) -> PyResult<Bound<'py, Outcome>> {
        let outcome = Bound::new(desk.py(), Outcome { desk: desk.clone().unbind(), job, on_error })?;
        if outcome.get().job.callbacks.is_none() {
            // It is part of no cycle before it has a result: with a million of them, looking for some takes its time.
            // SAFETY: a live object of a type that the collector knows.
            unsafe { ffi::PyObject_GC_UnTrack(outcome.as_ptr().cast()) };
        }
        Ok(outcome)
    }

    pub fn job(&self) -> Arc<Job> {
        Arc::clone(&self.job)
    }

    fn opened(slf: &Bound<'_, Self>) -> PyResult<(Py<PyAny>, bool)> {
        let (this, py) = (slf.get(), slf.py());
        let made = this.job.callbacks.as_ref().and_then(|callbacks| {
            let guard = callbacks.made.lock().unwrap_or_else(PoisonError::into_inner);
            guard.as_ref().map(|(object, is_value)| (object.clone_ref(py), *is_value))
        });
        if let Some(made) = made {
            return Ok(made);
        }
        let results = loop {
            match this.job.take_results(py) {
                Kept::Opened(object, is_value) => return Ok((object, is_value)),
                // Another thread is at it.
                Kept::Taken => {
                    py.detach(std::thread::yield_now);
                    py.check_signals()?;
                }
                results => break results,
            }
        };
        let (object, is_value) = match open_results(py, this.desk.get(), &this.job, results, this.on_error) {
            Ok(Ok(value)) => (value.unbind(), true),
            Ok(Err(error)) => (error.into_value(py).into_any(), false),
            Err(error) => {
                this.job.lose_results();
                return Err(error);
            }
        };
        this.job.set_opened(object.clone_ref(py), is_value);
        // An error that is raised leads to the frames that it came through, and they to this.
        // SAFETY: live objects; this one is of a type that the collector knows, and is not tracked twice.
        unsafe {
            if ffi::PyObject_GC_IsTracked(object.as_ptr()) != 0 && ffi::PyObject_GC_IsTracked(slf.as_ptr()) == 0 {
                ffi::PyObject_GC_Track(slf.as_ptr().cast());
            }
        }
        Ok((object, is_value))
    }

    fn wait_until(&self, py: Python<'_>, deadline: Deadline) -> PyResult<bool> {
        match self.desk.get().wait_until(py, deadline, || self.job.is_over())? {
            Ok(()) => Ok(true),
            Err(Error::TimedOut) => Ok(false),
            Err(error) => Err(errors::raise(error)),
        }
    }
}

#[pymethods]
impl Outcome {
    /// The value, waiting for it; raises what the function raised. ``TimeoutError`` if it takes longer than `timeout`
    /// seconds.
    #[pyo3(signature = (timeout = None))]
    fn get(slf: &Bound<'_, Self>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Py<PyAny>> {
        let (this, py) = (slf.get(), slf.py());
        if !this.job.is_over() && !this.wait_until(py, waiting::deadline(timeout)?)? {
            return Err(timed_out(py));
        }
        match Outcome::opened(slf)? {
            (value, true) => Ok(value),
            (error, false) => Err(PyErr::from_value(error.into_bound(py))),
        }
    }

    /// Waits until the result is there, for at most `timeout` seconds.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        self.wait_until(py, waiting::deadline(timeout)?).map(drop)
    }

    /// Whether the result is there.
    fn ready(&self, py: Python<'_>) -> PyResult<bool> {
        if !self.job.is_over() {
            self.desk.get().check_process()?;
            self.desk.get().nudge(py)?;
        }
        Ok(self.job.is_over())
    }

    /// Gives the tasks up that are not done: those that run are ended with their workers. False if there were none.
    fn cancel(&self, py: Python<'_>) -> PyResult<bool> {
        self.desk.get().check_process()?;
        self.desk.get().cancel(py, &self.job)
    }

    /// Whether the function returned. ``ValueError`` if it still runs.
    fn successful(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let this = slf.get();
        if !this.ready(slf.py())? {
            return Err(PyValueError::new_err(format!("{} not ready", slf.repr()?)));
        }
        Ok(Outcome::opened(slf)?.1)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.job.traverse(&visit)
    }

    /// ``isinstance`` takes it for the standard library's class, as code that was written for that expects.
    #[getter]
    fn __class__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static CLASSES: PyOnceLock<Py<PyTuple>> = PyOnceLock::new();
        let classes = CLASSES.get_or_try_init(py, || {
            let module = py.import("polyproc.pool")?;
            let classes = [module.getattr("ApplyResult")?, module.getattr("MapResult")?];
            PyResult::Ok(PyTuple::new(py, classes)?.unbind())
        })?;
        classes.bind(py).get_item(usize::from(self.job.shape == Shape::List))
    }

    #[classmethod]
    fn __class_getitem__<'py>(class: &Bound<'py, PyType>, item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        class.py().import("types")?.call_method1("GenericAlias", (class, item))
    }
}

fn timed_out(py: Python<'_>) -> PyErr {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class =
        CLASS.get_or_try_init(py, || PyResult::Ok(py.import("polyproc.context")?.getattr("TimeoutError")?.unbind()));
    match class.and_then(|class| class.call0(py)) {
        Ok(error) => PyErr::from_value(error.into_bound(py)),
        Err(error) => error,
    }
}

/// A stream of tasks: what is drawn from an iterable, a bounded number ahead of what is consumed.
pub struct StreamCore {
    job: Arc<Job>,
    /// None once there is nothing more to draw.
    iterator: Mutex<Option<Py<PyAny>>>,
    /// One thread draws at a time; a generator would refuse another.
    drawing: AtomicBool,
    chunk: u32,
    window: AtomicU32,
    fixed: bool,
    drawn: AtomicU32,
    consumed: AtomicU32,
    /// Consumed since the window was last widened.
    since: AtomicU32,
    /// The user has dropped the iterator.
    dropped: AtomicBool,
}

impl StreamCore {
    pub fn new(job: Arc<Job>, iterator: Py<PyAny>, chunk: u32, window: u32, fixed: bool) -> StreamCore {
        StreamCore {
            job,
            iterator: Mutex::new(Some(iterator)),
            drawing: AtomicBool::new(false),
            chunk: chunk.max(1),
            window: AtomicU32::new(window.max(1)),
            fixed,
            drawn: AtomicU32::new(0),
            consumed: AtomicU32::new(0),
            since: AtomicU32::new(0),
            dropped: AtomicBool::new(false),
        }
    }

    fn iterator(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.iterator.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|iterator| iterator.clone_ref(py))
    }

    /// Draws up to the window.
    pub fn draw(&self, py: Python<'_>, desk: &Desk) -> PyResult<()> {
        let ahead = self.drawn.load(Ordering::SeqCst).wrapping_sub(self.consumed.load(Ordering::SeqCst));
        let window = self.window.load(Ordering::SeqCst);
        // Whole chunks only.
        if ahead + self.chunk > window.max(self.chunk) || self.drawing.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let result = self.draw_some(py, desk, window.saturating_sub(ahead), true);
        self.drawing.store(false, Ordering::SeqCst);
        result
    }

    /// Draws all that is left.
    pub fn draw_all(&self, py: Python<'_>, desk: &Desk) -> PyResult<()> {
        if self.drawing.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let result = self.draw_some(py, desk, u32::MAX, false);
        self.drawing.store(false, Ordering::SeqCst);
        result
    }

    fn draw_some(&self, py: Python<'_>, desk: &Desk, most: u32, bounded: bool) -> PyResult<()> {
        let Some(iterator) = self.iterator(py) else { return Ok(()) };
        let iterator = iterator.into_bound(py);
        let mut chunk = Vec::with_capacity(self.chunk.min(1024) as usize);
        for _ in 0..most.div_ceil(self.chunk) {
            if bounded && desk.books().large >= LARGE_AHEAD {
                return Ok(());
            }
            // An error in the middle of a chunk is an error of the chunk.
            let error = loop {
                if chunk.len() == self.chunk as usize {
                    break None;
                }
                match iterator.call_method0("__next__") {
                    Ok(item) => chunk.push(item),
                    Err(error) => break Some(error),
                }
            };
            let stopped = error.as_ref().is_some_and(|error| error.is_instance_of::<PyStopIteration>(py));
            if error.is_none() || stopped {
                for item in chunk.drain(..) {
                    let index = self.job.add_task();
                    self.drawn.fetch_add(1, Ordering::SeqCst);
                    desk.submit(&self.job, index, cargo::style::ITEM, &item)?;
                }
            }
            let Some(error) = error else { continue };
            if !error.is_instance_of::<PyException>(py) {
                return Err(error);
            }
            if !stopped {
                let index = self.job.add_task();
                self.drawn.fetch_add(1, Ordering::SeqCst);
                desk.settle(&self.job, index, failed(error));
            }
            self.end(desk);
            return Ok(());
        }
        Ok(())
    }

    fn end(&self, desk: &Desk) {
        let iterator = self.iterator.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(iterator);
        let settled = self.job.complete();
        let mut books = desk.books();
        if settled {
            desk.close_job(&mut books, &self.job);
        }
        let streams = std::mem::take(&mut books.streams);
        let (gone, rest): (Vec<_>, Vec<_>) = streams.into_iter().partition(|other| Arc::ptr_eq(&other.job, &self.job));
        books.streams = rest;
        drop(books);
        drop(gone);
    }

    /// The consumer had to wait: it is faster than the workers, or they had too little to do.
    fn widen(&self, desk: &Desk) {
        let window = self.window.load(Ordering::SeqCst);
        if !self.fixed && self.since.load(Ordering::SeqCst) >= window {
            self.since.store(0, Ordering::SeqCst);
            // As far as the workers could do in some milliseconds.
            let reach = u32::try_from(desk.ledger.appetite() * 2).unwrap_or(WIDEST).min(WIDEST);
            self.window.store((window * 2).min(reach.max(window)), Ordering::SeqCst);
        }
    }
}

/// The iterator of `imap` and `imap_unordered`.
#[pyclass(module = "polyproc.pool", name = "IMapIterator", frozen, weakref)]
pub struct Stream {
    desk: Py<Desk>,
    core: Arc<StreamCore>,
    on_error: u8,
}

impl Stream {
    pub fn new<'py>(desk: &Bound<'py, Desk>, core: Arc<StreamCore>, on_error: u8) -> PyResult<Bound<'py, Stream>> {
        Bound::new(desk.py(), Stream { desk: desk.clone().unbind(), core, on_error })
    }

    fn next_until(&self, py: Python<'_>, deadline: Deadline) -> PyResult<Py<PyAny>> {
        let (desk, core) = (self.desk.get(), &self.core);
        loop {
            core.draw(py, desk)?;
            if let Some((index, raw)) = core.job.pop() {
                core.consumed.fetch_add(1, Ordering::SeqCst);
                core.since.fetch_add(1, Ordering::SeqCst);
                match open(py, desk, &core.job, index, raw)? {
                    Ok(value) => return Ok(value.unbind()),
                    Err(error) if self.on_error == on_error::RETURN => return Ok(error.into_value(py).into_any()),
                    Err(_) if self.on_error == on_error::SKIP => continue,
                    Err(error) => return Err(error),
                }
            }
            if core.job.is_spent() {
                return Err(PyStopIteration::new_err(()));
            }
            core.widen(desk);
            core.draw(py, desk)?;
            match desk.wait_until(py, deadline, || core.job.has_next() || core.job.is_spent())? {
                Ok(()) => {}
                Err(Error::TimedOut) => return Err(timed_out(py)),
                Err(error) => return Err(errors::raise(error)),
            }
        }
    }
}

#[pymethods]
impl Stream {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.next_until(py, Deadline::Never)
    }

    /// The next result, waiting for it. ``TimeoutError`` if it takes longer than `timeout` seconds.
    #[pyo3(signature = (timeout = None))]
    fn next(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Py<PyAny>> {
        self.next_until(py, waiting::deadline(timeout)?)
    }

    /// How many items are drawn at once.
    #[getter]
    fn _chunk(&self) -> u32 {
        self.core.chunk
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.core.dropped.store(true, Ordering::SeqCst);
        self.core.job.forget();
    }
}

//! From a call to tasks in the lanes.
//!
//! What is small is encoded when it is submitted, and its record is all that is kept of it. What is large stays an object
//! until there is room for it in a lane, so that its blocks are those that the task before has just given back. The items of
//! a list are encoded when they are sent.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use polyproc_engine::channel::{INLINE_MAX, Parcel};
use polyproc_engine::pool::Room;
use pyo3::exceptions::PyException;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::cargo::{self, Large, TASK_HEAD, style};
use super::desk::{Desk, Pending, tuple};
use super::function::{self, Function};
use super::job::{Callbacks, Job, Policy, Raw, Shape};
use super::outcome::{Outcome, Stream, StreamCore};
use crate::block::MUCH;
use crate::{codec, errors};

/// Tasks in one lane before a large one, at least, and bytes, at most: so many that a worker has the next at once, and so few
/// that their blocks, which are used in turn, stay in the processor's cache.
const LARGE_AHEAD: usize = 2;
const BYTES_AHEAD: usize = 6 * 1024 * 1024;
/// The chunk size of a list whose caller leaves it to us.
pub const AUTOMATIC: u32 = 0;
/// Tasks that take longer than this travel alone, in nanoseconds.
const TINY: u64 = 20_000;
/// How much work a bundle is, in nanoseconds: where there is plenty left to do, and at the least; and how many tasks it may be.
const BUNDLE: u64 = 400_000;
const LEAST_BUNDLE: u64 = 20_000;
const MOST_BUNDLED: u32 = 8192;
/// Bytes from which a bundle is full.
const FULL: usize = 24 * 1024;

thread_local! {
    /// Where a task is encoded that will wait.
    static RECORD: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Desk {
    /// The function in the session's memory: found, or stored now.
    pub fn function(&self, function: &Bound<'_, PyAny>, for_one: bool) -> PyResult<Option<Arc<Function>>> {
        let stored = || self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = stored().get(function) {
            return Ok(Some(known));
        }
        let named = function::is_named(function);
        if for_one && !named {
            return Ok(None);
        }
        let fresh = Arc::new(Function::store(function)?);
        if named {
            let forgotten = stored().put(function, Arc::clone(&fresh));
            drop(forgotten);
        }
        Ok(Some(fresh))
    }

    /// Sends what there is room for. True if something is left.
    pub fn feed(&self, py: Python<'_>) -> PyResult<bool> {
        if self.feeding.swap(true, Ordering::SeqCst) {
            return Ok(true);
        }
        let result = self.feed_now(py);
        self.feeding.store(false, Ordering::SeqCst);
        result
    }

    fn feed_now(&self, py: Python<'_>) -> PyResult<bool> {
        let mut record = Vec::new();
        loop {
            let Some(priority) = self.books().backlog.priority() else { return Ok(false) };
            let Some(room) = self.ledger.room_for(priority) else {
                self.books().set_crowded();
                return Ok(true);
            };
            let mut sent = 0;
            let result = self.fill(py, room, &mut sent, &mut record);
            if sent > 0 {
                self.ledger.wake(room.seat);
            }
            if !result? || sent == 0 {
                return Ok(true);
            }
        }
    }

    /// Fills one lane. False if what comes next has to wait.
    fn fill(&self, py: Python<'_>, room: Room, sent: &mut usize, record: &mut Vec<u8>) -> PyResult<bool> {
        let Room { seat, tasks, ahead, .. } = room;
        while *sent < tasks {
            let next = {
                let mut books = self.books();
                if let Some(Pending::Object { size, .. }) = books.backlog.front()
                    && ahead + *sent >= most_ahead(*size)
                {
                    return Ok(false);
                }
                books.backlog.pop_front()
            };
            let Some((_, next)) = next else { return Ok(true) };
            match next {
                Pending::Ready { job, index, record } => {
                    if !self.send_ready(seat, job, index, record)? {
                        return Ok(false);
                    }
                    *sent += 1;
                }
                Pending::Object { job, index, style, object, size } => {
                    let object = object.into_bound(py);
                    match self.send_object(py, seat, &job, index, style, &object, true, 0, record) {
                        Ok(true) => {
                            let mut books = self.books();
                            books.large = books.large.saturating_sub(1);
                            *sent += 1;
                        }
                        other => {
                            let object = object.unbind();
                            self.books().put_back(Pending::Object { job, index, style, object, size });
                            return other;
                        }
                    }
                }
                Pending::Again { job, index } => {
                    let object = match (job.shape, job.items(py)) {
                        (Shape::List, Some(items)) => items.bind(py).get_item(index)?,
                        (_, Some(object)) => object.into_bound(py),
                        (_, None) => continue,
                    };
                    if !self.send_object(py, seat, &job, index, job.style, &object, true, 0, record)? {
                        self.books().put_back(Pending::Again { job, index });
                        return Ok(false);
                    }
                    *sent += 1;
                }
                Pending::Items { job, items, style, next, count, chunk } => {
                    let Some(items) = items.or_else(|| job.items(py)) else { continue };
                    let bundle = bundle_size(&job, room, *sent, chunk, count - next);
                    if bundle > 1 {
                        let most = count.min(next.saturating_add(bundle));
                        match self.send_bundle(seat, &job, items.bind(py), style, next..most, record) {
                            Ok(0) => {}
                            Ok(fit) => {
                                *sent += fit as usize;
                                if next + fit < count {
                                    let next = next + fit;
                                    let rest = Pending::Items { job, items: Some(items), style, next, count, chunk };
                                    self.books().put_back(rest);
                                }
                                return Ok(true);
                            }
                            Err(_) => {
                                let rest = Pending::Items { job, items: Some(items), style, next, count, chunk };
                                self.books().put_back(rest);
                                return Ok(false);
                            }
                        }
                    }
                    let most = (tasks - *sent).max(chunk as usize);
                    let mut at = next;
                    let result = self.send_items(
                        py,
                        seat,
                        &job,
                        &items,
                        style,
                        &mut at,
                        count,
                        chunk,
                        most,
                        ahead + *sent,
                        record,
                    );
                    *sent += (at - next) as usize;
                    if at < count {
                        let items = Some(items);
                        let rest = Pending::Items { job, items, style, next: at, count, chunk };
                        self.books().put_back(rest);
                    }
                    if !result? {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    fn send_ready(&self, seat: u32, job: Arc<Job>, index: u32, record: Box<[u8]>) -> PyResult<bool> {
        // The ledger keeps the record itself, to tell what was asked of a worker that dies.
        match self.ledger.send_record(seat, job.id(index), record, job.policy.terms(true, 1)) {
            Ok(None) => Ok(true),
            Ok(Some(record)) => {
                self.books().put_back(Pending::Ready { job, index, record });
                Ok(false)
            }
            Err(error) => {
                self.settle(&job, index, failed(errors::raise(error)));
                Ok(true)
            }
        }
    }

    /// Encodes and sends an object. An error is only what has nothing to do with the task.
    #[allow(clippy::too_many_arguments)]
    fn send_object(
        &self,
        py: Python<'_>,
        seat: u32,
        job: &Arc<Job>,
        index: u32,
        style: u8,
        object: &Bound<'_, PyAny>,
        begins_unit: bool,
        ahead: usize,
        record: &mut Vec<u8>,
    ) -> PyResult<bool> {
        record.clear();
        cargo::task_head(record, job.id(index), job.function.as_ref().map(|function| function.handle()), style);
        let large = match cargo::pack(object, record) {
            Ok(large) => large,
            Err(error) if error.is_instance_of::<PyException>(py) => {
                self.settle(job, index, failed(error));
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        if large.as_ref().is_some_and(|large| ahead >= most_ahead(large.size())) {
            return Ok(false);
        }
        let sent = parcel(py, large.as_ref(), record).and_then(|mut parcel| {
            self.ledger.send(seat, job.id(index), &mut parcel, &mut None, job.policy.terms(begins_unit, 1))
        });
        match sent {
            Ok(sent) => Ok(sent),
            Err(error) => {
                self.settle(job, index, failed(errors::raise(error)));
                Ok(true)
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn send_items(
        &self,
        py: Python<'_>,
        seat: u32,
        job: &Arc<Job>,
        items: &Py<PyAny>,
        style: u8,
        at: &mut u32,
        count: u32,
        chunk: u32,
        most: usize,
        ahead: usize,
        record: &mut Vec<u8>,
    ) -> PyResult<bool> {
        let (items, begun) = (items.bind(py), *at);
        let list = items.cast_exact::<PyList>().ok();
        let whole = items.cast_exact::<PyTuple>().ok();
        let end = count.min(at.saturating_add(u32::try_from(most).unwrap_or(u32::MAX)));
        // Whole chunks, where the caller asked for chunks.
        let end = if chunk > 1 { count.min(end.next_multiple_of(chunk)) } else { end };
        while *at < end {
            let item = match (list, whole) {
                (Some(list), _) => list.get_item(*at as usize),
                (None, Some(whole)) => whole.get_item(*at as usize),
                (None, None) => items.get_item(*at),
            };
            let sent = match item {
                Ok(item) => {
                    let ahead = if chunk > 1 { 0 } else { ahead + (*at - begun) as usize };
                    self.send_object(
                        py,
                        seat,
                        job,
                        *at,
                        style,
                        &item,
                        chunk == AUTOMATIC || at.is_multiple_of(chunk),
                        ahead,
                        record,
                    )?
                }
                Err(error) => {
                    self.settle(job, *at, failed(error));
                    true
                }
            };
            if !sent {
                return Ok(false);
            }
            *at += 1;
        }
        Ok(true)
    }

    /// Sends a bundle of tasks as one record: as many of these items as are small and fit. Tells how many; none if the first
    /// has to go by itself. An error if the lane does not take it.
    fn send_bundle(
        &self,
        seat: u32,
        job: &Arc<Job>,
        items: &Bound<'_, PyAny>,
        style: u8,
        range: Range<u32>,
        record: &mut Vec<u8>,
    ) -> Result<u32, ()> {
        let id = job.id(range.start);
        let bundle = if style == style::STAR { style::STARS } else { style::MANY };
        record.clear();
        cargo::task_head(record, id, job.function.as_ref().map(|function| function.handle()), bundle);
        record.extend_from_slice(&[0; 4]);
        let count = if let Some(numbers) = Numbers::of(items) {
            numbers.write(&range, record)
        } else {
            let list = items.cast_exact::<PyList>().ok();
            let mut count = 0;
            for index in range {
                let item = match list {
                    Some(list) => list.get_item(index as usize),
                    None => items.get_item(index),
                };
                // What cannot be encoded, or is large, goes by itself, where its error is its own.
                let Ok(item) = item else { break };
                if !matches!(cargo::add_argument(&item, record), Ok(true)) {
                    break;
                }
                count += 1;
                if record.len() > FULL {
                    break;
                }
            }
            count
        };
        if count < 2 || record.len() > INLINE_MAX {
            return Ok(0);
        }
        record[TASK_HEAD..TASK_HEAD + 4].copy_from_slice(&u32::to_le_bytes(count));
        match self.ledger.send_bundle(seat, id, record, job.policy.terms(true, count)) {
            Ok(true) => Ok(count),
            _ => Err(()),
        }
    }

    /// Puts one task into the backlog: encoded if it is small. True if it is worth looking whether there is room for it.
    pub fn submit(&self, job: &Arc<Job>, index: u32, style: u8, object: &Bound<'_, PyAny>) -> PyResult<bool> {
        // Taken out: pickling may submit tasks.
        let mut record = RECORD.take();
        record.clear();
        cargo::task_head(&mut record, job.id(index), job.function.as_ref().map(|function| function.handle()), style);
        let packed = cargo::pack(object, &mut record);
        let small: Box<[u8]> = record.as_slice().into();
        RECORD.set(record);
        Ok(match packed {
            Ok(None) => self.push(Pending::Ready { job: Arc::clone(job), index, record: small }),
            Ok(Some(large)) => {
                let (object, size) = (object.clone().unbind(), large.size());
                self.push(Pending::Object { job: Arc::clone(job), index, style, object, size })
            }
            Err(error) if error.is_instance_of::<PyException>(object.py()) => {
                self.settle(job, index, failed(error));
                true
            }
            Err(error) => return Err(error),
        })
    }
}

/// How many tasks may lie in a lane before one of `size` bytes.
fn most_ahead(size: usize) -> usize {
    (BYTES_AHEAD / size.max(1)).clamp(LARGE_AHEAD, 32)
}

fn parcel<'a>(py: Python<'_>, large: Option<&'a Large>, record: &'a [u8]) -> polyproc_engine::Result<Parcel<'a>> {
    match large {
        None => Parcel::new(0, record),
        Some(large) if large.size() >= MUCH => py.detach(|| large.parcel(record)),
        Some(large) => large.parcel(record),
    }
}

/// A range whose numbers are written without being made first.
struct Numbers {
    start: i64,
    step: i64,
}

impl Numbers {
    /// None for what is no range, or not of numbers that fit.
    fn of(items: &Bound<'_, PyAny>) -> Option<Numbers> {
        // SAFETY: a live object, and a type that lives for ever.
        let is_range = unsafe { ffi::Py_TYPE(items.as_ptr()) == &raw mut ffi::PyRange_Type };
        let number = |name: &str| items.getattr(name).ok()?.extract::<i64>().ok();
        is_range.then_some(())?;
        let numbers = Numbers { start: number("start")?, step: number("step")? };
        // A list has less than 2^32 items.
        numbers.step.checked_mul(1 << 32)?.checked_add(numbers.start)?;
        Some(numbers)
    }

    /// Writes as many of these as a bundle takes, and tells how many.
    fn write(&self, range: &Range<u32>, record: &mut Vec<u8>) -> u32 {
        let mut number = self.start + self.step * i64::from(range.start);
        for written in 0..range.end - range.start {
            if record.len() > FULL {
                return written;
            }
            codec::encode_int(number, record);
            number += self.step;
        }
        range.end - range.start
    }
}

/// How many of a list's next tasks should travel together: none, unless they are tiny and nothing is asked for each of them.
fn bundle_size(job: &Job, room: Room, sent: usize, chunk: u32, left: u32) -> u32 {
    let Policy { timeout, retries, error_retries, memory, .. } = *job.policy;
    let plain = timeout.is_none() && retries == 0 && error_retries == 0 && memory.is_none();
    if !plain || chunk != AUTOMATIC || room.pace == 0 || room.pace > TINY || sent > 0 {
        return 0;
    }
    let tasks = |time: u64| u32::try_from(time / room.pace).unwrap_or(u32::MAX).min(MOST_BUNDLED);
    // Smaller towards the end, so that all workers end at about the same time; not so small that sending is what takes long.
    let share = left / (2 * room.workers.max(1));
    share
        .clamp(tasks(LEAST_BUNDLE), tasks(BUNDLE).max(1))
        .min(left)
        .min(u32::try_from(room.depth).unwrap_or(u32::MAX).max(2))
}

pub fn failed(error: PyErr) -> Raw {
    Raw::Failed(Python::attach(|py| error.into_value(py).into_any()))
}

fn callbacks(on_success: Option<Py<PyAny>>, on_error: Option<Py<PyAny>>) -> Option<Box<Callbacks>> {
    (on_success.is_some() || on_error.is_some())
        .then(|| Box::new(Callbacks { on_success, on_error, made: Mutex::new(None) }))
}

#[allow(clippy::too_many_arguments)]
pub fn apply<'py>(
    desk: &Bound<'py, Desk>,
    function: &Bound<'py, PyAny>,
    args: &Bound<'py, PyAny>,
    kwds: &Bound<'py, PyDict>,
    on_success: Option<Py<PyAny>>,
    on_error: Option<Py<PyAny>>,
    policy: Policy,
) -> PyResult<Bound<'py, Outcome>> {
    let (py, this) = (desk.py(), desk.get());
    this.check_process()?;
    let stored = match this.function(function, true) {
        Ok(stored) => Ok(stored),
        Err(error) if error.is_instance_of::<PyException>(py) => Err(error),
        Err(error) => return Err(error),
    };
    let (stored, error) = match stored {
        Ok(stored) => (stored, None),
        Err(error) => (None, Some(error)),
    };
    let args = tuple(args)?;
    let (style, object) = match (&stored, kwds.is_empty()) {
        (Some(_), true) => (style::STAR, args.into_any()),
        (Some(_), false) => (style::FULL, (args, kwds).into_pyobject(py)?.into_any()),
        (None, _) => (style::WHOLE, (function, args, kwds).into_pyobject(py)?.into_any()),
    };
    let calls = callbacks(on_success, on_error);
    // What may have to be done again is kept.
    let kept = (policy.retries > 0 || policy.error_retries > 0).then(|| object.clone().unbind());
    let job = this.enter(|number| Job::new(number, Shape::Single, 1, stored, calls, kept, policy, style));
    match error {
        Some(error) => this.settle(&job, 0, failed(error)),
        None if !this.submit(&job, 0, style, &object)? => return Outcome::new(desk, job, 0),
        None => {}
    }
    this.nudge(py)?;
    Outcome::new(desk, job, 0)
}

#[allow(clippy::too_many_arguments)]
pub fn map<'py>(
    desk: &Bound<'py, Desk>,
    function: &Bound<'py, PyAny>,
    items: &Bound<'py, PyAny>,
    star: bool,
    chunk: u32,
    on_error: u8,
    on_success: Option<Py<PyAny>>,
    on_failure: Option<Py<PyAny>>,
    policy: Policy,
    base: u32,
) -> PyResult<Bound<'py, Outcome>> {
    let (py, this) = (desk.py(), desk.get());
    this.check_process()?;
    let count = u32::try_from(items.len()?)?;
    let stored = match this.function(function, false) {
        Err(error) if !error.is_instance_of::<PyException>(py) => return Err(error),
        other => other,
    };
    let style = if star { style::STAR } else { style::ITEM };
    let calls = callbacks(on_success, on_failure);
    let (stored, error) = match stored {
        Ok(stored) => (stored, None),
        Err(error) => (None, Some(error.into_value(py).into_any())),
    };
    let kept = items.clone().unbind();
    let job = this.enter(|number| {
        let mut job = Job::new(number, Shape::List, count, stored, calls, Some(kept), policy, style);
        job.base = base;
        job
    });
    match error {
        Some(error) => {
            let left = job.settle_rest(|| Raw::Failed(Python::attach(|py| error.clone_ref(py))));
            if left {
                this.close_job(&mut this.books(), &job);
            }
        }
        None if count > 0 => {
            let items = Some(items.clone().unbind());
            this.push(Pending::Items { job: Arc::clone(&job), items, style, next: 0, count, chunk });
        }
        None => {}
    }
    this.nudge(py)?;
    Outcome::new(desk, job, on_error)
}

#[allow(clippy::too_many_arguments)]
pub fn stream<'py>(
    desk: &Bound<'py, Desk>,
    function: &Bound<'py, PyAny>,
    iterator: &Bound<'py, PyAny>,
    ordered: bool,
    chunk: u32,
    window: u32,
    fixed: bool,
    on_error: u8,
    policy: Policy,
) -> PyResult<Bound<'py, Stream>> {
    let (py, this) = (desk.py(), desk.get());
    this.check_process()?;
    let stored = this.function(function, false)?;
    let job =
        this.enter(|number| Job::new(number, Shape::Stream { ordered }, 0, stored, None, None, policy, style::ITEM));
    let core = Arc::new(StreamCore::new(job, iterator.clone().unbind(), chunk, window, fixed));
    core.draw(py, this)?;
    this.books().streams.push(Arc::clone(&core));
    this.nudge(py)?;
    Stream::new(desk, core, on_error)
}

//! A job: one call of `apply`, `map` or `imap`, its tasks numbered from zero, and what has come of each.
//!
//! A task's number in the ledger is `job << 32 | index`. Results stay as they came until somebody asks for them.

use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use polyproc_engine::channel::Envelope;
use polyproc_engine::pool::{Ended, Terms};
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::function::Function;
use super::results::{Results, Run};

/// What has come of a task.
pub enum Raw {
    /// The verdict, the kind, the payload.
    Small(Box<[u8]>),
    /// The same, the payload in blocks.
    Large(Box<Envelope>),
    /// Its worker died in it; the task's record, if it was kept.
    Died(Arc<Ended>, Option<Box<[u8]>>),
    /// It could not be sent, or the iterable raised: the exception.
    Failed(Py<PyAny>),
    /// It was cancelled before it began.
    Cancelled,
    /// The pool was terminated first.
    Terminated,
    /// The pool cannot start workers.
    Broken,
}

/// How a job's tasks are treated.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// How long one may run, in nanoseconds.
    pub timeout: Option<u64>,
    /// How often one is done again whose worker died in it.
    pub retries: u32,
    /// How often one is done again that raised.
    pub error_retries: u32,
    /// The higher goes first.
    pub priority: i32,
    /// How much more memory than it found one may take, in bytes.
    pub memory: Option<u64>,
}

impl Policy {
    pub fn terms(&self, begins_unit: bool, weight: u32) -> Terms {
        Terms { begins_unit, weight, priority: self.priority, memory: self.memory }
    }
}

/// The policy of a job: there are many jobs, and few ask for anything.
pub struct Rules(Option<Box<Policy>>);

impl Deref for Rules {
    type Target = Policy;

    #[inline]
    fn deref(&self) -> &Policy {
        static USUAL: Policy = Policy { timeout: None, retries: 0, error_retries: 0, priority: 0, memory: None };
        self.0.as_deref().unwrap_or(&USUAL)
    }
}

/// What a job is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One task.
    Single,
    /// A list of tasks, whose results are a list.
    List,
    /// Tasks that are drawn as their results are consumed, in order or as they come.
    Stream { ordered: bool },
}

/// By task: after a death, and after an error.
type Attempts = HashMap<u32, (u32, u32)>;

pub struct Job {
    pub number: u32,
    pub shape: Shape,
    /// Stored for all workers; None if each task brings its own.
    pub function: Option<Arc<Function>>,
    body: Mutex<Body>,
    /// Every task is settled.
    settled: AtomicBool,
    /// The same, and the callbacks have run.
    over: AtomicBool,
    pub callbacks: Option<Box<Callbacks>>,
    pub policy: Rules,
    /// The place of its first task, where it is a part of more.
    pub base: u32,
    /// How its function is called.
    pub style: u8,
}

pub struct Callbacks {
    pub on_success: Option<Py<PyAny>>,
    pub on_error: Option<Py<PyAny>>,
    /// What they are called with, and whether it is a value: made once, before they are called.
    pub made: Mutex<Option<(Py<PyAny>, bool)>>,
}

/// What has come of the tasks and was not taken.
pub enum Kept {
    /// Of a single task.
    One(Option<Raw>),
    /// Of a list.
    List(Box<Results>),
    /// Of a stream, with their tasks: from `first` on, or as they came.
    Stream(VecDeque<Option<(u32, Raw)>>),
    /// Somebody has taken them, and makes an object of them.
    Taken,
    /// Somebody has asked: the value, or else the exception.
    Opened(Py<PyAny>, bool),
}

struct Body {
    results: Kept,
    first: u32,
    /// Tasks that there are so far, and whether that is all.
    count: u32,
    complete: bool,
    settled: u32,
    /// Nobody will ask for the results.
    forgotten: bool,
    /// How often a task was done again, after a death and after an error.
    attempts: Option<Box<Attempts>>,
    /// The items of a list, or the argument of a single task that may be done again, for whoever sends them and for errors
    /// that name one.
    items: Option<Py<PyAny>>,
}

impl Job {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        number: u32,
        shape: Shape,
        count: u32,
        function: Option<Arc<Function>>,
        callbacks: Option<Box<Callbacks>>,
        items: Option<Py<PyAny>>,
        policy: Policy,
        style: u8,
    ) -> Job {
        let is_stream = matches!(shape, Shape::Stream { .. });
        let results = match shape {
            Shape::Single => Kept::One(None),
            Shape::List => Kept::List(Box::new(Results::new(count))),
            Shape::Stream { .. } => Kept::Stream(VecDeque::new()),
        };
        let body = Body {
            results,
            first: 0,
            count,
            complete: !is_stream,
            settled: 0,
            forgotten: false,
            attempts: None,
            items,
        };
        Job {
            number,
            shape,
            function,
            body: Mutex::new(body),
            settled: AtomicBool::new(!is_stream && count == 0),
            over: AtomicBool::new(!is_stream && count == 0),
            callbacks,
            policy: Rules((policy != Policy::default()).then(|| Box::new(policy))),
            base: 0,
            style,
        }
    }

    fn body(&self) -> MutexGuard<'_, Body> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn id(&self, index: u32) -> u64 {
        (u64::from(self.number) << 32) | u64::from(index)
    }

    /// Every task is settled and the callbacks have run.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    #[inline]
    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    pub fn set_over(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Notes what has come of a task. True if it was the last one.
    pub fn settle(&self, index: u32, raw: Raw) -> bool {
        let mut body = self.body();
        let (first, forgotten) = (body.first, body.forgotten);
        // What is replaced is dropped without the lock.
        let old = match &mut body.results {
            _ if forgotten => Ok(Some(raw)),
            Kept::One(place) if place.is_none() => Ok(place.replace(raw)),
            Kept::One(_) | Kept::Taken | Kept::Opened(..) => Err(raw),
            Kept::List(results) => results.put(index, raw).map(|()| None),
            Kept::Stream(results) if self.shape == (Shape::Stream { ordered: false }) => {
                results.push_back(Some((index, raw)));
                Ok(None)
            }
            Kept::Stream(results) => {
                let at = index.wrapping_sub(first) as usize;
                if at > 1 << 30 {
                    Err(raw)
                } else {
                    if results.len() <= at {
                        results.resize_with(at + 1, || None);
                    }
                    match &mut results[at] {
                        place @ None => {
                            *place = Some((index, raw));
                            Ok(None)
                        }
                        Some(_) => Err(raw),
                    }
                }
            }
        };
        body.settled += u32::from(old.is_ok());
        let last = self.look(&body);
        drop(body);
        drop(old);
        last
    }

    /// As [`Job::settle`], for tasks of a list that lie side by side.
    pub fn settle_run(&self, first: u32, run: Run) -> bool {
        let mut body = self.body();
        let count = run.count;
        if let Kept::List(results) = &mut body.results
            && results.put_run(first, run)
        {
            body.settled += count;
        }
        self.look(&body)
    }

    /// The first task of these that is not settled.
    pub fn first_unsettled(&self, tasks: std::ops::Range<u32>) -> Option<u32> {
        match &self.body().results {
            Kept::List(results) => results.first_missing(tasks),
            _ => None,
        }
    }

    fn look(&self, body: &Body) -> bool {
        let last = body.complete && body.settled >= body.count && !self.is_settled();
        if last {
            self.settled.store(true, Ordering::Release);
            if self.callbacks.is_none() {
                self.set_over();
            }
        }
        last
    }

    /// Settles whatever is not. True if anything was left.
    pub fn settle_rest(&self, raw: impl Fn() -> Raw) -> bool {
        if self.is_settled() {
            return false;
        }
        let mut body = self.body();
        body.complete = true;
        let (forgotten, first, count) = (body.forgotten, body.first, body.count);
        match &mut body.results {
            Kept::One(place) => *place = Some(raw()),
            Kept::List(results) => results.fill(raw),
            Kept::Stream(results) if self.shape == (Shape::Stream { ordered: true }) => {
                let gap = results.iter().position(Option::is_none).unwrap_or(results.len());
                results.truncate(gap);
                results.push_back(Some((first.wrapping_add(gap as u32), raw())));
            }
            // One error tells it; the others are not worth a line each.
            Kept::Stream(results) if !forgotten => results.push_back(Some((count, raw()))),
            Kept::Stream(_) | Kept::Taken | Kept::Opened(..) => {}
        }
        body.settled = body.count;
        self.look(&body);
        true
    }

    /// A number for one more task of a stream.
    pub fn add_task(&self) -> u32 {
        let mut body = self.body();
        body.count += 1;
        body.count - 1
    }

    /// There will be no more tasks. True if all are settled by now.
    pub fn complete(&self) -> bool {
        let mut body = self.body();
        body.complete = true;
        self.look(&body)
    }

    /// Nobody will ask for the results of this stream.
    pub fn forget(&self) {
        let results = {
            let mut body = self.body();
            body.forgotten = true;
            std::mem::replace(&mut body.results, Kept::Stream(VecDeque::new()))
        };
        drop(results);
    }

    /// The next result of a stream, if it is there, and its task's place.
    pub fn pop(&self) -> Option<(u32, Raw)> {
        let mut body = self.body();
        let Kept::Stream(results) = &mut body.results else { return None };
        if !matches!(results.front(), Some(Some(_))) {
            return None;
        }
        let next = results.pop_front().flatten();
        body.first = body.first.wrapping_add(1);
        next
    }

    /// True if the next result of a stream is there.
    pub fn has_next(&self) -> bool {
        matches!(&self.body().results, Kept::Stream(results) if matches!(results.front(), Some(Some(_))))
    }

    /// True once a stream has given out everything.
    pub fn is_spent(&self) -> bool {
        let body = self.body();
        let empty = matches!(&body.results, Kept::Stream(results) if results.is_empty());
        body.complete && body.settled >= body.count && empty
    }

    /// Takes all results of a job that is not a stream. Gives what was made of them, if somebody has taken them before;
    /// [`Kept::Taken`] while another thread makes an object of them.
    pub fn take_results(&self, py: Python<'_>) -> Kept {
        let mut body = self.body();
        match &body.results {
            Kept::Opened(object, is_value) => Kept::Opened(object.clone_ref(py), *is_value),
            _ => std::mem::replace(&mut body.results, Kept::Taken),
        }
    }

    /// After [`Job::take_results`]: they came to nothing.
    pub fn lose_results(&self) {
        self.body().results = Kept::One(None);
    }

    /// Keeps what was found.
    pub fn set_opened(&self, object: Py<PyAny>, is_value: bool) {
        let old = std::mem::replace(&mut self.body().results, Kept::Opened(object, is_value));
        drop(old);
    }

    /// How many tasks are not settled.
    pub fn left(&self) -> u32 {
        let body = self.body();
        body.count.saturating_sub(body.settled)
    }

    /// The items of a list.
    pub fn items(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.body().items.as_ref().map(|items| items.clone_ref(py))
    }

    /// True if the task is to be done once more: counts that as an attempt.
    pub fn may_retry(&self, after_death: bool, index: u32, has_record: bool) -> bool {
        let most = if after_death { self.policy.retries } else { self.policy.error_retries };
        let mut body = self.body();
        if most == 0 || !(has_record || body.items.is_some()) {
            return false;
        }
        let (deaths, errors) = body.attempts.get_or_insert_default().entry(index).or_default();
        let count = if after_death { deaths } else { errors };
        *count += 1;
        *count <= most
    }

    /// The tasks that are not settled.
    pub fn unsettled(&self) -> Vec<u32> {
        let body = self.body();
        match &body.results {
            Kept::One(None) => vec![0],
            Kept::List(results) => results.missing(0..body.count),
            _ => Vec::new(),
        }
    }

    /// Shows the collector what the job holds, if nobody else has the job: as long as the pool does, all of it is in use.
    pub fn traverse(self: &Arc<Job>, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        if Arc::strong_count(self) > 1 {
            return Ok(());
        }
        if let Some(callbacks) = &self.callbacks {
            visit.call(&callbacks.on_success)?;
            visit.call(&callbacks.on_error)?;
            if let Ok(made) = callbacks.made.try_lock()
                && let Some((object, _)) = &*made
            {
                visit.call(object)?;
            }
        }
        let Ok(body) = self.body.try_lock() else { return Ok(()) };
        visit.call(&body.items)?;
        match &body.results {
            Kept::Opened(object, _) => visit.call(object),
            _ => Ok(()),
        }
    }

    /// Lets go of the items. To be dropped where Python may run.
    pub fn take_items(&self) -> Option<Py<PyAny>> {
        self.body().items.take()
    }
}

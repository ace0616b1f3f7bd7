//! The ledger with its jobs, and who does the work.
//!
//! Three things have to be done: results collected, tasks sent, workers replaced. Whoever waits for a result does all three
//! (it is the *leader*; others who wait follow); so a round trip has no thread between. While nobody waits, the pool's own
//! thread does it ([`Desk::pump`]), a millisecond after it was last seen that somebody did.
//!
//! ```text
//!  get() ─▶ leader? ── yes ─▶ collect ─▶ feed ─▶ keep ─▶ wait for news ─┐
//!              │                ▲                                       │
//!              no               └───────────────────────────────────────┘
//!              └─▶ sleep until the result is there or there is no leader
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use polyproc_engine::Deadline;
use polyproc_engine::pool::{Backlog, Ended, Ledger, Life};
use polyproc_engine::sync::signal;
use polyproc_engine::sys::{clock, fork};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::function::Stored;
use super::job::{Job, Policy, Raw};
use super::jobs::Jobs;
use super::outcome::StreamCore;
use super::seat::Seat;
use super::worker;
use crate::errors;

/// So many workers may be killed one after another before they are ready, and for so long, in nanoseconds: on a busy machine
/// a worker may take seconds to begin.
const SLAIN: u32 = 200;
const SLAUGHTER: u64 = 60_000_000_000;

/// Ends of workers that are judged only when it is known how they ended.
const UNKNOWN: usize = 64;

/// A task that has not been sent.
pub enum Pending {
    /// Encoded already: its record.
    Ready { job: Arc<Job>, index: u32, record: Box<[u8]> },
    /// To be encoded when it is sent, since it is large: about `size` bytes.
    Object { job: Arc<Job>, index: u32, style: u8, object: Py<PyAny>, size: usize },
    /// To be done once more, from the job's items.
    Again { job: Arc<Job>, index: u32 },
    /// The items of a list from `next` on.
    Items { job: Arc<Job>, items: Option<Py<PyAny>>, style: u8, next: u32, count: u32, chunk: u32 },
}

impl Pending {
    pub fn job(&self) -> &Arc<Job> {
        match self {
            Pending::Ready { job, .. }
            | Pending::Object { job, .. }
            | Pending::Again { job, .. }
            | Pending::Items { job, .. } => job,
        }
    }
}

/// See [`Books::crowd`].
const CROWD: u32 = 32;

#[derive(Default)]
pub struct Books {
    pub jobs: Jobs,
    pub backlog: Backlog<Pending>,
    /// Those in the backlog that are large.
    pub large: u32,
    /// So many more may come before it is worth looking again whether there is room for some: there was none just now.
    crowd: u32,
    pub streams: Vec<Arc<StreamCore>>,
    /// Jobs whose callbacks have to be run.
    pub calls: VecDeque<Arc<Job>>,
    next: u32,
    /// What a worker said of its initializer, and how the last one ended.
    pub note: Option<Box<[u8]>>,
    last_end: Option<Arc<Ended>>,
    /// Exit codes of workers that are not children of this process, as the pool has heard of them.
    exits: HashMap<i32, i32>,
    /// Workers that have ended, and of which nobody has judged yet whether that says something of all.
    pub ends: Vec<Arc<Ended>>,
    /// Workers that ended before they were ready, one after another: of themselves, and because somebody killed them.
    failures: u32,
    slain: u32,
    slain_since: u64,
}

/// The ledger of a pool, with its jobs.
#[pyclass(module = "polyproc._polyproc", frozen)]
pub struct Desk {
    pub ledger: Arc<Ledger>,
    books: Mutex<Books>,
    pub stored: Mutex<Stored>,
    /// One while a thread leads.
    pub leader: AtomicU32,
    /// Followers sleep here.
    pub follow: AtomicU32,
    pub followers: AtomicU32,
    /// The pool's own threads sleep here.
    pub pump_word: Arc<AtomicU32>,
    pub calls_word: AtomicU32,
    /// Threads that wait; how often any has, or has come with tasks.
    pub users: AtomicU32,
    pub visits: AtomicU32,
    /// A worker has ended and was not replaced.
    pub vacant: AtomicBool,
    pub broken: AtomicBool,
    pub closing: AtomicBool,
    pub terminated: AtomicBool,
    pub stopped: AtomicBool,
    /// A task sends nothing twice while another thread feeds.
    pub feeding: AtomicBool,
    keeper: OnceLock<Py<PyAny>>,
    /// How many workers there may be.
    pub most: AtomicUsize,
    /// After how many nanoseconds without a task a worker is not wanted any more, and how many stay all the same.
    pub idle: OnceLock<(u64, usize)>,
    /// Jobs whose tasks may run only so long.
    pub timed: AtomicU32,
    tolerance: u32,
    born_in: i32,
}

impl Books {
    /// The lanes were full when last looked at, or else there was nothing to send.
    pub fn set_crowded(&mut self) {
        self.crowd = if self.backlog.is_empty() { 0 } else { CROWD };
    }

    /// Back to where it was taken from.
    pub fn put_back(&mut self, pending: Pending) {
        self.backlog.push_front(pending.job().policy.priority, pending);
    }
}

impl Desk {
    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A forked child has the object, and neither the workers nor the locks.
    pub fn check_process(&self) -> PyResult<()> {
        if self.born_in == fork::count() {
            return Ok(());
        }
        Err(PyRuntimeError::new_err("this pool belongs to the process that made it: make one in the child"))
    }

    /// Enters a job. False if it was settled at once, because there will be no workers.
    pub fn enter(&self, make: impl FnOnce(u32) -> Job) -> Arc<Job> {
        let mut books = self.books();
        books.next = books.next.wrapping_add(1).max(1);
        let job = Arc::new(make(books.next));
        if !job.is_over() {
            self.timed.fetch_add(u32::from(job.policy.timeout.is_some()), Ordering::SeqCst);
            books.jobs.insert(job.number, Arc::clone(&job));
        }
        drop(books);
        if self.terminated.load(Ordering::SeqCst) {
            self.settle_all(|| Raw::Terminated);
        } else if self.broken.load(Ordering::SeqCst) {
            self.settle_all(|| Raw::Broken);
        }
        job
    }

    /// Adds what is to be sent. True if it is worth looking whether there is room for it.
    pub fn push(&self, pending: Pending) -> bool {
        let mut books = self.books();
        if self.terminated.load(Ordering::SeqCst) || self.broken.load(Ordering::SeqCst) {
            return true;
        }
        let priority = pending.job().policy.priority;
        // Whoever found no room will look again: as long as something is left, there is somebody.
        let crowded = books.crowd > 0 && books.backlog.priority().is_some_and(|highest| highest >= priority);
        books.crowd = if crowded { books.crowd - 1 } else { 0 };
        books.large += u32::from(matches!(pending, Pending::Object { .. }));
        books.backlog.push_back(priority, pending);
        !crowded
    }

    /// Notes the outcome of a task that never was sent.
    pub fn settle(&self, job: &Arc<Job>, index: u32, raw: Raw) {
        if job.settle(index, raw) {
            let mut books = self.books();
            self.close_job(&mut books, job);
            drop(books);
            self.wake_followers();
        }
    }

    /// A job is settled: out of the books, and to its callbacks.
    pub fn close_job(&self, books: &mut Books, job: &Arc<Job>) {
        if books.jobs.remove(job.number).is_some() {
            self.timed.fetch_sub(u32::from(job.policy.timeout.is_some()), Ordering::SeqCst);
        }
        if job.callbacks.is_some() && !job.is_over() {
            books.calls.push_back(Arc::clone(job));
            signal::notify(&self.calls_word, u32::MAX);
        }
    }

    pub fn settle_all(&self, raw: impl Fn() -> Raw) {
        let (jobs, backlog) = {
            let mut books = self.books();
            books.large = 0;
            (books.jobs.iter().map(|(_, job)| Arc::clone(job)).collect::<Vec<_>>(), std::mem::take(&mut books.backlog))
        };
        for job in jobs {
            if job.settle_rest(&raw) {
                self.close_job(&mut self.books(), &job);
            }
        }
        self.wake_followers();
        drop(backlog);
    }

    pub fn wake_followers(&self) {
        if self.followers.load(Ordering::SeqCst) > 0 {
            signal::notify(&self.follow, u32::MAX);
        }
    }

    /// Has workers replaced, if that is needed. The keeper may start processes.
    pub fn keep(&self, py: Python<'_>) -> PyResult<()> {
        if self.vacant.load(Ordering::SeqCst)
            && !self.broken.load(Ordering::SeqCst)
            && !self.terminated.load(Ordering::SeqCst)
            && self.vacant.swap(false, Ordering::SeqCst)
        {
            self.judge(py)?;
            if !self.broken.load(Ordering::SeqCst)
                && let Some(keeper) = self.keeper.get()
            {
                keeper.call0(py)?;
            }
        }
        Ok(())
    }

    /// Gives up where workers end before they are ready, one after another. What is killed from outside says little of the
    /// others, unless the kernel did it for want of memory.
    fn judge(&self, py: Python<'_>) -> PyResult<()> {
        let ends = std::mem::take(&mut self.books().ends);
        for ended in ends {
            let code = if ended.was_ready { None } else { self.exit_of(py, &ended)? };
            if !ended.was_ready && code.is_none() && self.books().ends.len() < UNKNOWN {
                // The fork server has not told yet; it will have when the next one ends.
                self.books().ends.push(ended);
                continue;
            }
            let slain = ended.kills.is_none() && code == Some(-9);
            let mut books = self.books();
            match (ended.was_ready, slain) {
                (true, _) => (books.failures, books.slain) = (0, 0),
                (_, true) => {
                    if books.slain == 0 {
                        books.slain_since = clock::now();
                    }
                    books.slain += 1;
                }
                (_, false) => books.failures += 1,
            }
            let slaughter = books.slain > SLAIN && clock::now().saturating_sub(books.slain_since) > SLAUGHTER;
            let breaks = books.failures > self.tolerance || slaughter;
            books.last_end = Some(ended);
            drop(books);
            if breaks && !self.broken.swap(true, Ordering::SeqCst) {
                self.settle_all(|| Raw::Broken);
            }
        }
        Ok(())
    }

    /// The exit code of a worker, also of one of whom the supervisor cannot tell.
    pub fn exit_of(&self, py: Python<'_>, ended: &Ended) -> PyResult<Option<i32>> {
        let (pid, code) = (ended.pid, ended.status.code());
        if code.is_some() {
            return Ok(code);
        }
        // The keeper hears of it when it collects the worker.
        let known = || self.books().exits.get(&pid).copied();
        if known().is_none()
            && let Some(keeper) = self.keeper.get()
        {
            keeper.call0(py)?;
        }
        Ok(known())
    }

    /// Why there will be no workers.
    pub fn why_broken(&self, py: Python<'_>) -> PyResult<(Py<PyAny>, Option<Arc<Ended>>)> {
        let (note, ended) = {
            let books = self.books();
            (books.note.clone(), books.last_end.clone())
        };
        let note = match note {
            Some(note) => worker::read_note(py, &note)?.unbind(),
            None => py.None(),
        };
        Ok((note, ended))
    }
}

#[pymethods]
impl Desk {
    /// There may be `most` workers, and `tolerance` of them may end in a row before they are ready.
    #[new]
    fn new(most: usize, tolerance: u32) -> PyResult<Desk> {
        Ok(Desk {
            ledger: Ledger::new().map_err(errors::raise)?,
            books: Mutex::default(),
            stored: Mutex::default(),
            leader: AtomicU32::new(0),
            follow: AtomicU32::new(0),
            followers: AtomicU32::new(0),
            pump_word: Arc::default(),
            calls_word: AtomicU32::new(0),
            users: AtomicU32::new(0),
            visits: AtomicU32::new(0),
            vacant: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            terminated: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            feeding: AtomicBool::new(false),
            keeper: OnceLock::new(),
            most: AtomicUsize::new(most),
            idle: OnceLock::new(),
            timed: AtomicU32::new(0),
            tolerance,
            born_in: fork::count(),
        })
    }

    /// Who replaces workers: called without arguments, by whatever thread notices.
    fn set_keeper(&self, keeper: Py<PyAny>) -> PyResult<()> {
        self.keeper.set(keeper).map_err(|_| PyValueError::new_err("this pool has a keeper"))
    }

    /// A place for a worker that may be sent `tasks` tasks, and is replaced once it has more than `memory` bytes.
    #[pyo3(signature = (tasks = None, memory = None))]
    fn open_seat(&self, tasks: Option<u32>, memory: Option<u64>) -> PyResult<Seat> {
        let seat = self.ledger.open_seat(Life { tasks, memory }).map_err(errors::raise)?;
        Ok(Seat { ledger: Arc::clone(&self.ledger), pump: Arc::clone(&self.pump_word), seat, child: OnceLock::new() })
    }

    /// From now on there may be `most` workers. Those that are too many are told to end when they have done what they are in.
    fn resize(&self, most: usize) {
        self.most.store(most, Ordering::SeqCst);
        let open = self.ledger.open_seats();
        self.ledger.retire(open.saturating_sub(most));
    }

    /// Has workers end that have had no task for `seconds`, as long as more than `least` are left.
    fn set_idle(&self, seconds: f64, least: usize) {
        let _ = self.idle.set(((seconds.max(0.0) * 1e9) as u64, least));
    }

    /// The seats of workers that were told to end because fewer are wanted, and have not ended yet.
    fn retiring(&self) -> Vec<u32> {
        self.ledger.retiring()
    }

    /// How many tasks it is worth to have at hand, at the pace so far.
    fn appetite(&self) -> usize {
        self.ledger.appetite()
    }

    /// How many tasks wait for a worker, up to `most`.
    fn waiting(&self, most: u32) -> u32 {
        let books = self.books();
        let tasks = books.backlog.iter().map(|pending| match pending {
            Pending::Items { next, count, .. } => count - next,
            _ => 1,
        });
        let mut waiting = 0;
        for count in tasks {
            waiting += count;
            if waiting >= most {
                return most;
            }
        }
        waiting
    }

    /// Notes how a worker ended.
    fn note_exit(&self, pid: i32, code: i32) {
        let mut books = self.books();
        if books.exits.len() >= 4096 {
            books.exits.clear();
        }
        books.exits.insert(pid, code);
    }

    /// The numbers of the jobs that are not settled.
    fn jobs(&self) -> Vec<u32> {
        self.books().jobs.iter().map(|(number, _)| number).collect()
    }

    /// For those who wonder: tasks that were sent and are not settled, entries of the backlog, tasks that are not settled.
    fn census(&self) -> (usize, usize, u32) {
        let sent = self.ledger.unsettled();
        let books = self.books();
        (sent, books.backlog.len(), books.jobs.iter().map(|(_, job)| job.left()).sum())
    }

    /// Sends what there is room for, and has workers replaced.
    fn attend(&self, py: Python<'_>) -> PyResult<()> {
        self.check_process()?;
        self.nudge(py)
    }

    /// No more tasks will come: workers end when those that there are have been done.
    fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        if self.is_idle() {
            self.ledger.stop();
        } else {
            signal::notify(&*self.pump_word, u32::MAX);
        }
    }

    /// Waits until every job is settled, and has the workers end.
    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        self.check_process()?;
        // What is left of iterables is drawn now: nobody may come back for it.
        loop {
            let streams = std::mem::take(&mut self.books().streams);
            for stream in &streams {
                stream.draw_all(py, self)?;
            }
            let over = || self.is_idle() && self.books().calls.is_empty();
            match self.wait_until(py, Deadline::Never, over)? {
                Ok(()) if self.books().streams.is_empty() => break,
                Ok(()) => {}
                Err(error) => return Err(errors::raise(error)),
            }
        }
        self.ledger.stop();
        Ok(())
    }

    /// Settles every job with the news that the pool was terminated, and forgets the workers.
    fn terminate(&self) -> Vec<u32> {
        if self.born_in != fork::count() || self.terminated.swap(true, Ordering::SeqCst) {
            return Vec::new();
        }
        self.collect();
        let streams = std::mem::take(&mut self.books().streams);
        self.settle_all(|| Raw::Terminated);
        let idle = self.ledger.abandon();
        drop(streams);
        self.stop_threads();
        idle
    }

    /// Ends the pool's own threads, the one that runs callbacks after the last of them.
    fn stop_threads(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        for word in [&*self.pump_word, &self.calls_word] {
            signal::wake_all(word);
        }
        self.ledger.tell();
    }

    /// Nothing will be done any more.
    #[getter]
    fn is_over(&self) -> bool {
        self.broken.load(Ordering::SeqCst) || self.terminated.load(Ordering::SeqCst)
    }

    /// Waits until any of these has its result.
    fn wait_any(&self, py: Python<'_>, outcomes: Vec<Bound<'_, super::outcome::Outcome>>) -> PyResult<()> {
        let jobs: Vec<_> = outcomes.iter().map(|outcome| outcome.get().job()).collect();
        let any = || jobs.iter().any(|job| job.is_over());
        self.wait_until(py, Deadline::Never, any)?.map_err(errors::raise)
    }

    #[getter]
    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// The pool's own thread: does the work while nobody waits.
    fn run_pump(&self, py: Python<'_>) -> PyResult<()> {
        self.pump(py)
    }

    /// The thread that runs callbacks. `run` is called with the callback and its argument.
    fn run_calls(&self, py: Python<'_>, run: &Bound<'_, PyAny>) -> PyResult<()> {
        self.call_back(py, run)
    }

    /// `function(*args, **kwds)` in a worker.
    #[pyo3(signature = (function, args, kwds, callback = None, error_callback = None, policy = (None, 0, 0, 0, None)))]
    #[allow(clippy::too_many_arguments)]
    fn apply<'py>(
        slf: &Bound<'py, Self>,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyAny>,
        kwds: &Bound<'py, PyDict>,
        callback: Option<Py<PyAny>>,
        error_callback: Option<Py<PyAny>>,
        policy: Terms,
    ) -> PyResult<Bound<'py, super::outcome::Outcome>> {
        super::feed::apply(slf, function, args, kwds, callback, error_callback, self::policy(policy))
    }

    /// `function(item)` for each of `items`, a list or a tuple; with `star`, `function(*item)`.
    /// `base` is the place of the first, where they are a part of more.
    #[pyo3(signature = (function, items, star, chunk, on_error, callback = None, error_callback = None, policy = (None, 0, 0, 0, None), base = 0))]
    #[allow(clippy::too_many_arguments)]
    fn map<'py>(
        slf: &Bound<'py, Self>,
        function: &Bound<'py, PyAny>,
        items: &Bound<'py, PyAny>,
        star: bool,
        chunk: u32,
        on_error: u8,
        callback: Option<Py<PyAny>>,
        error_callback: Option<Py<PyAny>>,
        policy: Terms,
        base: u32,
    ) -> PyResult<Bound<'py, super::outcome::Outcome>> {
        let policy = self::policy(policy);
        super::feed::map(slf, function, items, star, chunk, on_error, callback, error_callback, policy, base)
    }

    /// `function(item)` for what `iterator` gives, at most `window` ahead of what is consumed; the window grows while the
    /// consumer has to wait, unless it is `fixed`.
    #[pyo3(signature = (function, iterator, ordered, chunk, window, fixed, on_error, policy = (None, 0, 0, 0, None)))]
    #[allow(clippy::too_many_arguments)]
    fn stream<'py>(
        slf: &Bound<'py, Self>,
        function: &Bound<'py, PyAny>,
        iterator: &Bound<'py, PyAny>,
        ordered: bool,
        chunk: u32,
        window: u32,
        fixed: bool,
        on_error: u8,
        policy: Terms,
    ) -> PyResult<Bound<'py, super::outcome::Stream>> {
        super::feed::stream(slf, function, iterator, ordered, chunk, window, fixed, on_error, self::policy(policy))
    }
}

/// What Python asks for: seconds, two counts, a priority, and bytes.
type Terms = (Option<f64>, u32, u32, i32, Option<u64>);

pub fn policy((timeout, retries, error_retries, priority, memory): Terms) -> Policy {
    let timeout = timeout.map(|seconds| (seconds.max(0.0) * 1e9) as u64);
    Policy { timeout, retries, error_retries, priority, memory }
}

/// A tuple of anything that can be iterated over.
pub fn tuple<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
    match object.cast_exact::<PyTuple>() {
        Ok(tuple) => Ok(tuple.clone()),
        Err(_) => PyTuple::new(object.py(), object.try_iter()?.collect::<PyResult<Vec<_>>>()?),
    }
}

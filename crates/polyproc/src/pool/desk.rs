//! The pool's books: tasks that wait, tasks that are out, results that nobody has taken, and who does the work.

use super::Builder;
use super::worker::{self, LaneName, SMALL, verdict};
use crate::process::{self, Process};
use crate::wire::{self, Arrived, Luggage};
use crate::{Identity, Result, TaskError};
use polyproc_engine::channel::Envelope;
use polyproc_engine::pool::{Because, Ledger, Life, Outcome, Settled, Terms, Withdrawn};
use polyproc_engine::process::Status;
use polyproc_engine::sys::{cpu, proc};
use polyproc_engine::{Deadline, Error as EngineError};
use serde::de::DeserializeOwned;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// While somebody waits, the pool's own thread looks after what is left to it at this interval.
const GRACE: Duration = Duration::from_millis(1);
/// The longest that a waiter sleeps before it looks for itself, in nanoseconds.
const LOOK: u64 = 200_000_000;
/// So many workers may end, one after another, before they are ready for a task.
const FAILURES: u32 = 8;

/// A task that was not sent yet.
pub(super) struct Waiting {
    /// Room for its number, the place of its function, and its arguments.
    pub record: Vec<u8>,
    /// Where the arguments begin.
    pub begins: usize,
    pub luggage: Luggage,
    pub attempts: u32,
}

/// What came of a task.
enum Raw {
    Small(Box<[u8]>),
    Large(Box<Envelope>),
    Died(Identity, Status),
    TimedOut(Identity),
    Refused(String),
}

#[derive(Default)]
struct Job {
    raw: Option<Raw>,
    /// To be sent again, if its worker dies.
    again: Option<Waiting>,
    /// Nobody wants its result.
    forgotten: bool,
    /// Those who wait for any of several.
    group: Option<Arc<Group>>,
}

/// Tasks of which any may be waited for: those that are settled, by their numbers.
#[derive(Default)]
pub(super) struct Group {
    settled: Mutex<VecDeque<u64>>,
}

impl Group {
    fn settled(&self) -> MutexGuard<'_, VecDeque<u64>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker: its handle gives what it ended with.
type Worker = Process<std::result::Result<(), String>>;

#[derive(Default)]
struct Books {
    jobs: HashMap<u64, Job>,
    backlog: VecDeque<(u64, Waiting)>,
    seats: HashMap<u32, Worker>,
    next: u64,
    failures: u32,
    made: u32,
}

/// The state of a pool.
pub(super) struct Desk {
    ledger: Arc<Ledger>,
    books: Mutex<Books>,
    count: usize,
    timeout: Option<Duration>,
    retries: u32,
    recycle_after: Option<u32>,
    /// Threads that wait for a result.
    users: AtomicU32,
    /// Grows with every result, so that who waits knows to look.
    settled: AtomicU64,
    closing: AtomicBool,
}

pub(super) fn this_process() -> Identity {
    Identity { pid: proc::pid(), name: "this process".to_owned() }
}

impl Desk {
    pub(super) fn open(plan: Builder) -> Result<Arc<Desk>> {
        let desk = Arc::new(Desk {
            ledger: Ledger::new()?,
            books: Mutex::default(),
            count: plan.workers.unwrap_or(cpu::usable() as usize),
            timeout: plan.timeout,
            retries: plan.retries,
            recycle_after: plan.recycle_after,
            users: AtomicU32::new(0),
            settled: AtomicU64::new(0),
            closing: AtomicBool::new(false),
        });
        for _ in 0..desk.count {
            if let Err(error) = desk.hire() {
                desk.close();
                return Err(error);
            }
        }
        let keeper = Arc::clone(&desk);
        polyproc_engine::sys::thread::spawn_without_signals("polyproc-pool", move || keeper.keep())?;
        Ok(desk)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn workers(&self) -> usize {
        self.count
    }

    /// Starts a worker.
    fn hire(&self) -> Result<()> {
        let seat = self.ledger.open_seat(Life { tasks: self.recycle_after, ..Life::default() })?;
        let number = seat.number;
        let ledger = Arc::clone(&self.ledger);
        let pid = Arc::new(AtomicU32::new(0));
        let known = Arc::clone(&pid);
        let told = move |status: Status| ledger.ended(number, known.load(Ordering::Acquire) as i32, status);
        // Under the lock, so that the end of a worker is never dealt with before its seat is taken.
        let mut books = self.books();
        books.made += 1;
        let name = format!("pool-{}", books.made);
        let give = |child| self.ledger.share_seat(number, child);
        let spawned = Process::builder().name(name.clone()).spawn_with(
            worker::serve,
            (LaneName::of(seat.handle), name),
            give,
            Some(Box::new(told)),
        );
        match spawned {
            Ok(worker) => {
                pid.store(worker.pid() as u32, Ordering::Release);
                self.ledger.seated(number, worker.child());
                books.seats.insert(number, worker);
                Ok(())
            }
            Err(error) => {
                self.ledger.close_seat(number);
                Err(error)
            }
        }
    }

    /// Enters a task, and sends it if a worker has room for it.
    pub(super) fn submit(&self, waiting: Waiting, group: Option<Arc<Group>>) -> u64 {
        let mut books = self.books();
        books.next += 1;
        let id = books.next;
        books.jobs.insert(id, Job { group, ..Job::default() });
        books.backlog.push_back((id, waiting));
        let broken = books.seats.is_empty() && books.failures >= FAILURES;
        drop(books);
        if broken {
            self.give_up("its workers end before they can begin");
        } else {
            self.feed();
        }
        id
    }

    /// Sends what waits to workers that have room.
    fn feed(&self) {
        while let Some(room) = self.ledger.room() {
            let mut sent = 0;
            while sent < room.tasks {
                let mut books = self.books();
                let Some((id, waiting)) = books.backlog.pop_front() else { break };
                // Sent under the lock: its result must not come before it is known what to keep.
                match self.send(room.seat, id, waiting, &mut books) {
                    Ok(true) => sent += 1,
                    Ok(false) => break,
                    Err(()) => {}
                }
            }
            if sent == 0 {
                return;
            }
            self.ledger.wake(room.seat);
        }
    }

    /// False if the seat takes no more: the task is back in the backlog. An error if the task is settled by it.
    fn send(&self, seat: u32, id: u64, mut waiting: Waiting, books: &mut Books) -> std::result::Result<bool, ()> {
        waiting.record[..8].copy_from_slice(&id.to_le_bytes());
        let (record, begins) = (&mut waiting.record, waiting.begins);
        let large = record.len() > SMALL;
        if large {
            record[begins - 1] = worker::place::IN_BLOCK;
        }
        let (inline, arguments) =
            if large { (&record[..begins], Some(&record[begins..])) } else { (&record[..], None) };
        let handles = waiting.luggage.handles();
        let sent = worker::beside(inline, arguments, &mut waiting.luggage, &handles)
            .and_then(|mut parcel| self.ledger.send(seat, id, &mut parcel, &mut None, Terms::default()));
        match sent {
            Ok(true) => {
                if waiting.attempts < self.retries
                    && let Some(job) = books.jobs.get_mut(&id)
                {
                    job.again = Some(waiting);
                }
                Ok(true)
            }
            Ok(false) => {
                books.backlog.push_front((id, waiting));
                Ok(false)
            }
            Err(error) => {
                self.settle(books, id, Raw::Refused(format!("the arguments could not be sent: {error}")));
                Err(())
            }
        }
    }

    fn settle(&self, books: &mut Books, id: u64, raw: Raw) {
        let Some(job) = books.jobs.get_mut(&id) else { return };
        if job.forgotten {
            books.jobs.remove(&id);
        } else {
            job.again = None;
            job.raw = Some(raw);
            if let Some(group) = job.group.take() {
                group.settled().push_back(id);
            }
        }
        self.settled.fetch_add(1, Ordering::SeqCst);
    }

    /// Collects what came from the workers, replaces those that have ended, and sends more.
    fn collect(&self) {
        let mut settled = Vec::new();
        loop {
            let more = self.ledger.drain(&mut settled);
            let any = !settled.is_empty();
            let mut vacant = 0;
            if any {
                let mut books = self.books();
                for Settled { id, outcome, .. } in settled.drain(..) {
                    vacant += usize::from(self.book(&mut books, id, outcome));
                }
            }
            if any && self.users.load(Ordering::SeqCst) > 1 {
                self.ledger.tell();
            }
            for _ in 0..vacant {
                self.replace();
            }
            if !more {
                break;
            }
        }
        self.feed();
        if self.books().backlog.is_empty() {
            self.ledger.balance();
        }
    }

    /// Books one outcome. True if a place has become vacant.
    fn book(&self, books: &mut Books, id: u64, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Done(bytes) => self.settle(books, id, Raw::Small(bytes)),
            Outcome::Large(envelope) => self.settle(books, id, Raw::Large(Box::new(envelope))),
            Outcome::Died(ended) => {
                let worker = books.seats.get(&ended.seat);
                let name = worker.map_or_else(|| "pool".to_owned(), |worker| worker.name().to_owned());
                let process = Identity { pid: ended.pid, name };
                let again = books.jobs.get_mut(&id).and_then(|job| job.again.take());
                match again {
                    _ if ended.because == Some(Because::TimedOut) => self.settle(books, id, Raw::TimedOut(process)),
                    Some(mut waiting) => {
                        waiting.attempts += 1;
                        log::warn!("polyproc: {process} died in a task, which is tried again");
                        books.backlog.push_front((id, waiting));
                    }
                    None => self.settle(books, id, Raw::Died(process, ended.status)),
                }
            }
            Outcome::Left(ended) => {
                books.seats.remove(&ended.seat);
                books.failures = if ended.was_ready { 0 } else { books.failures + 1 };
                return true;
            }
            // Notes, and what only the other face asks for.
            _ => {}
        }
        false
    }

    fn replace(&self) {
        if self.closing.load(Ordering::SeqCst) {
            return;
        }
        if self.books().failures >= FAILURES {
            if self.books().seats.is_empty() {
                self.give_up("its workers end before they can begin");
            }
            return;
        }
        if let Err(error) = self.hire() {
            log::error!("polyproc: a worker that has ended cannot be replaced: {error}");
            if self.books().seats.is_empty() {
                self.give_up(&format!("there is no worker left, and none can be started: {error}"));
            }
        }
    }

    /// Settles everything: nothing more will be done.
    fn give_up(&self, why: &str) {
        let mut books = self.books();
        books.backlog.clear();
        let left: Vec<u64> = books.jobs.iter().filter(|(_, job)| job.raw.is_none()).map(|(&id, _)| id).collect();
        for id in left {
            self.settle(&mut books, id, Raw::Refused(format!("the pool has given up: {why}")));
        }
        drop(books);
        self.ledger.tell();
    }

    /// Waits for a task, doing the pool's work meanwhile. True if it is settled.
    pub(super) fn wait(&self, id: u64, deadline: Deadline) -> bool {
        self.wait_for(deadline, |books| books.jobs.get(&id).is_none_or(|job| job.raw.is_some()))
    }

    /// Waits for any of a group, and gives its number.
    pub(super) fn wait_any(&self, group: &Group) -> u64 {
        loop {
            if let Some(id) = group.settled().pop_front() {
                return id;
            }
            self.wait_for(Deadline::Never, |_| !group.settled().is_empty());
        }
    }

    fn wait_for(&self, deadline: Deadline, done: impl Fn(&Books) -> bool) -> bool {
        if done(&self.books()) {
            return true;
        }
        self.users.fetch_add(1, Ordering::SeqCst);
        let outcome = loop {
            let seen = self.settled.load(Ordering::SeqCst);
            self.collect();
            if done(&self.books()) {
                break true;
            }
            if deadline.passed() {
                break false;
            }
            if self.settled.load(Ordering::SeqCst) == seen {
                // Interrupted, or too early: it looks again.
                let _ = self.ledger.wait(deadline.within(LOOK), || self.settled.load(Ordering::SeqCst) != seen);
            }
        };
        self.users.fetch_sub(1, Ordering::SeqCst);
        outcome
    }

    /// Takes what came of a task.
    pub(super) fn take<R: DeserializeOwned>(
        &self,
        id: u64,
        deadline: Deadline,
        after: Duration,
    ) -> Result<R, TaskError> {
        let mut books = self.books();
        let raw = match books.jobs.get_mut(&id) {
            None => {
                let detail = "it was given by an earlier call".to_owned();
                return Err(TaskError::Lost { process: this_process(), detail });
            }
            Some(job) => job.raw.take(),
        };
        let Some(raw) = raw else {
            debug_assert!(deadline != Deadline::Never);
            return Err(TaskError::TimedOut { process: this_process(), after });
        };
        books.jobs.remove(&id);
        drop(books);
        self.open_raw(raw)
    }

    fn open_raw<R: DeserializeOwned>(&self, raw: Raw) -> Result<R, TaskError> {
        match raw {
            Raw::Small(bytes) => match &bytes[..] {
                [verdict, place, payload @ ..] => {
                    let open = |payload: &[u8], arrived| open(*verdict, payload, arrived);
                    worker::unpack(*place, payload, Vec::new(), open).unwrap_or_else(|| Err(damaged()))
                }
                _ => Err(damaged()),
            },
            Raw::Large(mut envelope) => {
                let blocks = std::mem::take(&mut envelope.buffers);
                let Some([verdict, place, payload @ ..]) = envelope.inline.get(8..) else { return Err(damaged()) };
                let open = |payload: &[u8], arrived| open(*verdict, payload, arrived);
                worker::unpack(*place, payload, blocks, open).unwrap_or_else(|| Err(damaged()))
            }
            Raw::Died(process, status) => Err(process::ended(process, status)),
            Raw::TimedOut(process) => Err(TaskError::TimedOut { process, after: self.timeout.unwrap_or_default() }),
            Raw::Refused(detail) => Err(TaskError::Codec { process: this_process(), detail }),
        }
    }

    /// Nobody will ask for this task any more.
    pub(super) fn forget(&self, id: u64) {
        let mut books = self.books();
        if let Some(job) = books.jobs.get_mut(&id) {
            if job.raw.is_some() {
                let job = books.jobs.remove(&id);
                drop(books);
                // Its result may hold what others wait for.
                drop(job);
            } else {
                job.forgotten = true;
            }
        }
    }

    /// Nobody wants this task: it does not begin, or its worker is ended.
    pub(super) fn cancel(&self, id: u64) {
        let mut books = self.books();
        if let Some(at) = books.backlog.iter().position(|(waiting, _)| *waiting == id) {
            books.backlog.remove(at);
            books.jobs.remove(&id);
            return;
        }
        let Some(job) = books.jobs.get_mut(&id) else { return };
        job.again = None;
        job.forgotten = true;
        if job.raw.is_some() || self.ledger.withdraw(id) == Withdrawn::Unbegun {
            let job = books.jobs.remove(&id);
            drop(books);
            drop(job);
        }
    }

    /// Ends the workers of tasks that take too long. Gives when to look again.
    fn check_late(&self) -> Deadline {
        let Some(timeout) = self.timeout else { return Deadline::Never };
        let timeout = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        // A task that is sent while nobody looks is seen in time.
        self.ledger.expire(|_| Some(timeout)).within((timeout / 4).clamp(1_000_000, LOOK))
    }

    /// The pool's own thread.
    fn keep(&self) {
        while !self.closing.load(Ordering::SeqCst) {
            let next = self.check_late();
            if self.users.load(Ordering::SeqCst) > 0 {
                std::thread::sleep(GRACE);
                continue;
            }
            self.collect();
            let or = || self.closing.load(Ordering::SeqCst) || self.users.load(Ordering::SeqCst) > 0;
            let _ = self.ledger.wait(next, or);
        }
    }

    /// Waits until everything is done, and ends the workers.
    pub(super) fn finish(&self) {
        self.wait_for(Deadline::Never, |books| books.jobs.values().all(|job| job.raw.is_some()));
        self.closing.store(true, Ordering::SeqCst);
        self.ledger.stop();
        self.wait_for(Deadline::after(Some(Duration::from_secs(10))), |books| books.seats.is_empty());
    }

    /// Ends the workers now.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        let seats = std::mem::take(&mut self.books().seats);
        for worker in seats.values() {
            let _ = worker.kill();
        }
        self.give_up("it was dropped");
        for worker in seats.into_values() {
            // It was killed: that is how it ends.
            let _ = worker.join();
        }
        self.ledger.abandon();
    }
}

fn open<R: DeserializeOwned>(verdict: u8, payload: &[u8], arrived: Arrived) -> Result<R, TaskError> {
    match verdict {
        verdict::RETURNED => wire::decode(payload, arrived)
            .map_err(|error| TaskError::Codec { process: this_process(), detail: error.to_string() }),
        verdict::PANICKED => {
            let (pid, name, message, location) = wire::decode(payload, arrived).map_err(|_| damaged())?;
            Err(TaskError::Panicked { process: Identity { pid, name }, message, location })
        }
        _ => {
            let (pid, name, detail) = wire::decode(payload, arrived).map_err(|_| damaged())?;
            Err(TaskError::Codec { process: Identity { pid, name }, detail })
        }
    }
}

fn damaged() -> TaskError {
    let detail = EngineError::Damaged { what: "pool", detail: "a result does not parse" }.to_string();
    TaskError::Codec { process: this_process(), detail }
}

//! The pool's desk: takes tasks in, sends them, and collects what came of them.

use super::books::{Books, Group, Job, Policy, Waiting, Worker};
use super::builder::{Builder, Hook};
use super::outcome::{Raw, this_process};
use super::staff::FAILURES;
use super::worker::{self, SMALL};
use crate::{Identity, Result, TaskError};
use polyproc_engine::Deadline;
use polyproc_engine::channel::duplicate;
use polyproc_engine::pool::{Because, Ledger, Life, Outcome, Settled, Terms, Withdrawn};
use polyproc_engine::process::Ending;
use polyproc_engine::sys::{cpu, event};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
#[cfg(feature = "async")]
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

/// While somebody waits, the pool's own thread looks after what is left to it at this interval.
const GRACE: Duration = Duration::from_millis(1);
/// The longest that a waiter sleeps before it looks for itself, in nanoseconds.
const LOOK: u64 = 200_000_000;
/// The state of a pool.
pub(super) struct Desk {
    pub(super) ledger: Arc<Ledger>,
    pub(super) books: Mutex<Books>,
    /// How many workers there are to be.
    pub(super) count: AtomicUsize,
    /// Whoever starts a worker, or has some end, because there are to be so many.
    pub(super) staffing: Mutex<()>,
    pub(super) policy: Policy,
    pub(super) life: Life,
    pub(super) process: crate::process::Builder,
    pub(super) on_start: Option<Hook>,
    pub(super) on_exit: Option<Hook>,
    /// By the number of a task that was sent: how long it may take, in nanoseconds. Whoever has this lock takes no other.
    pub(super) limits: Mutex<HashMap<u64, u64>>,
    /// The shortest that a task was ever given.
    pub(super) shortest: AtomicU64,
    /// Threads that wait for a result.
    pub(super) users: AtomicU32,
    /// Grows with every result, so that who waits knows to look.
    pub(super) settled: AtomicU64,
    pub(super) closing: AtomicBool,
}

impl Desk {
    pub(super) fn open(plan: Builder) -> Result<Arc<Desk>> {
        let desk = Arc::new(Desk {
            ledger: Ledger::new()?,
            books: Mutex::default(),
            count: AtomicUsize::new(plan.workers.unwrap_or(cpu::usable() as usize)),
            staffing: Mutex::default(),
            policy: plan.policy,
            life: plan.life,
            process: plan.process,
            on_start: plan.on_start,
            on_exit: plan.on_exit,
            limits: Mutex::default(),
            shortest: AtomicU64::new(u64::MAX),
            users: AtomicU32::new(0),
            settled: AtomicU64::new(0),
            closing: AtomicBool::new(false),
        });
        for _ in 0..desk.workers() {
            if let Err(error) = desk.hire() {
                desk.close();
                return Err(error);
            }
        }
        let keeper = Arc::clone(&desk);
        polyproc_engine::sys::thread::spawn_without_signals("polyproc-pool", move || keeper.keep())?;
        Ok(desk)
    }

    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn limits(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn workers(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    pub(super) fn policy(&self) -> Policy {
        self.policy
    }

    /// How many bytes wait to be sent.
    pub(super) fn weight(&self) -> usize {
        self.books().weight
    }

    /// Enters a task, and sends it if a worker has room for it.
    pub(super) fn submit(&self, waiting: Waiting, group: Option<Arc<Group>>) -> u64 {
        let mut books = self.books();
        books.next += 1;
        let id = books.next;
        let Policy { timeout, memory, .. } = waiting.policy;
        books.jobs.insert(id, Job { group, timeout, memory, ..Job::default() });
        books.push_back(id, waiting);
        let broken = books.seats.is_empty() && books.failures >= FAILURES;
        drop(books);
        if broken {
            self.give_up_on_workers();
        } else {
            self.feed();
        }
        id
    }

    /// Sends what waits to workers that have room.
    fn feed(&self) {
        loop {
            let Some(priority) = self.books().backlog.priority() else { break };
            let Some(room) = self.ledger.room_for(priority) else { break };
            let mut sent = 0;
            while sent < room.tasks {
                let mut books = self.books();
                if books.backlog.priority() != Some(priority) {
                    // What is less urgent waits behind what the ledger has of its priority.
                    break;
                }
                let Some((id, waiting)) = books.pop() else { break };
                // Sent under the lock: its result must not come before it is known what to keep.
                match self.send(room.seat, id, waiting, &mut books) {
                    Ok(true) => sent += 1,
                    Ok(false) => break,
                    Err(()) => {}
                }
            }
            if sent == 0 {
                break;
            }
            self.ledger.wake(room.seat);
        }
        self.ring();
    }

    /// Wakes those who awaited what was settled.
    pub(super) fn ring(&self) {
        let wakers = std::mem::take(&mut self.books().wakers);
        wakers.into_iter().for_each(Waker::wake);
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
        let again = waiting.attempts < waiting.policy.retries;
        // Whoever gets them first has them for itself.
        let copied = if again { &waiting.luggage.blocks[..] } else { &[] };
        let copies = copied.iter().map(duplicate).collect::<polyproc_engine::Result<Vec<_>>>();
        if let Some(timeout) = waiting.policy.timeout {
            let timeout = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
            self.limits().insert(id, timeout);
            if self.shortest.fetch_min(timeout, Ordering::SeqCst) > timeout {
                // The pool's own thread is to look more often.
                self.ledger.tell();
            }
        }
        let terms = Terms { memory: waiting.policy.memory, priority: waiting.policy.priority, ..Terms::default() };
        let handles = waiting.luggage.handles();
        let sent = copies.and_then(|copies| {
            let mut parcel = worker::beside(inline, arguments, &mut waiting.luggage, &handles)?;
            let sent = self.ledger.send(seat, id, &mut parcel, &mut None, terms)?;
            waiting.luggage.blocks = if sent { copies } else { worker::blocks_of(parcel, large) };
            Ok(sent)
        });
        match sent {
            Ok(true) => {
                if again && let Some(job) = books.jobs.get_mut(&id) {
                    job.again = Some(waiting);
                }
                Ok(true)
            }
            Ok(false) => {
                books.push_front(id, waiting);
                Ok(false)
            }
            Err(error) => {
                self.settle(books, id, Raw::Refused(format!("the arguments could not be sent: {error}")));
                Err(())
            }
        }
    }

    pub(super) fn settle(&self, books: &mut Books, id: u64, raw: Raw) {
        let Some(job) = books.jobs.get_mut(&id) else { return };
        if job.timeout.is_some() {
            self.limits().remove(&id);
        }
        if job.forgotten {
            books.jobs.remove(&id);
        } else {
            job.again = None;
            job.raw = Some(raw);
            let wakers = job.announce(id);
            books.wakers.extend(wakers);
        }
        self.settled.fetch_add(1, Ordering::SeqCst);
    }

    /// Collects what came from the workers, replaces those that have ended, and sends more.
    pub(super) fn collect(&self) {
        let mut settled = Vec::new();
        loop {
            let more = self.ledger.drain(&mut settled);
            let any = !settled.is_empty();
            let mut left = Vec::new();
            if any {
                let mut books = self.books();
                for Settled { id, outcome, .. } in settled.drain(..) {
                    left.extend(self.book(&mut books, id, outcome));
                }
            }
            if any && self.users.load(Ordering::SeqCst) > 1 {
                self.ledger.tell();
            }
            for (worker, was_ready) in left {
                self.replace(worker, was_ready);
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

    /// Books one outcome. Gives the worker that has left, and whether it had been ready for tasks.
    fn book(&self, books: &mut Books, id: u64, outcome: Outcome) -> Option<(Worker, bool)> {
        match outcome {
            Outcome::Done(bytes) => self.settle(books, id, Raw::Small(bytes)),
            Outcome::Large(envelope) => self.settle(books, id, Raw::Large(Box::new(envelope))),
            Outcome::Died(ended) => {
                let worker = books.seats.get(&ended.seat);
                let name = worker.map_or_else(|| "pool".to_owned(), |worker| worker.name().to_owned());
                let mut process = Identity::new(ended.pid, name);
                process.last_lines = worker.map(Worker::last_lines).unwrap_or_default();
                let ending = worker.and_then(Worker::ending);
                let ending = ending.unwrap_or(Ending { status: ended.status, cause: None, usage: None });
                let again = books.jobs.get_mut(&id).and_then(|job| job.again.take());
                let job = books.jobs.get(&id);
                match (ended.because, again) {
                    (Some(Because::TimedOut), _) => {
                        let after = job.and_then(|job| job.timeout).unwrap_or_default();
                        self.settle(books, id, Raw::TimedOut(process, after));
                    }
                    (Some(Because::TookTooMuch(used)), _) => {
                        let limit = job.and_then(|job| job.memory).unwrap_or_default();
                        self.settle(books, id, Raw::TookTooMuch(process, limit, used));
                    }
                    (_, Some(mut waiting)) => {
                        waiting.attempts += 1;
                        log::warn!("polyproc: {process} died in a task, which is tried again");
                        books.push_front(id, waiting);
                    }
                    (_, None) => self.settle(books, id, Raw::Died(process, ending)),
                }
            }
            Outcome::Left(ended) => {
                return books.seats.remove(&ended.seat).map(|worker| (worker, ended.was_ready));
            }
            // Notes, and what only the other face asks for.
            _ => {}
        }
        None
    }

    /// Waits for a task, doing the pool's work meanwhile. True if it is settled.
    pub(super) fn wait(&self, id: u64, deadline: Deadline) -> bool {
        self.wait_for(deadline, |books| books.jobs.get(&id).is_none_or(|job| job.raw.is_some()))
    }

    /// True if a task is settled; otherwise `waker` is woken when it is.
    pub(super) fn watch(&self, id: u64, waker: &Waker) -> bool {
        let mut books = self.books();
        match books.jobs.get_mut(&id) {
            Some(job) if job.raw.is_none() => {
                job.waker = Some(waker.clone());
                false
            }
            _ => true,
        }
    }

    /// A descriptor that becomes readable when a task is settled, made when it is first asked for.
    pub(super) fn bell<'a>(&self, id: u64, bell: &'a OnceLock<Arc<OwnedFd>>) -> Result<BorrowedFd<'a>> {
        if let Some(bell) = bell.get() {
            return Ok(bell.as_fd());
        }
        // Under the lock: only one is made, and it is hung up before the task can be settled.
        let mut books = self.books();
        if let Some(bell) = bell.get() {
            return Ok(bell.as_fd());
        }
        let fresh = Arc::new(event::create()?);
        match books.jobs.get_mut(&id) {
            Some(job) if job.raw.is_none() => job.bell = Some(Arc::clone(&fresh)),
            _ => event::raise(&*fresh),
        }
        Ok(bell.get_or_init(|| fresh).as_fd())
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

    /// The number of any of a group that is settled; otherwise `waker` is woken when one is.
    #[cfg(feature = "async")]
    pub(super) fn poll_any(&self, group: &Group, waker: &Waker) -> Poll<u64> {
        // Under the lock: none is settled between looking and leaving the waker.
        let books = self.books();
        let id = group.settled().pop_front();
        if id.is_none() {
            *group.waker() = Some(waker.clone());
        }
        drop(books);
        id.map_or(Poll::Pending, Poll::Ready)
    }

    pub(super) fn wait_for(&self, deadline: Deadline, done: impl Fn(&Books) -> bool) -> bool {
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
        raw.open()
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

    /// Nobody wants this task: if it was not sent, it does not begin.
    pub(super) fn take_back(&self, id: u64) {
        let mut books = self.books();
        // Most have been joined by now: not looked for among those that wait.
        if books.jobs.contains_key(&id) {
            let taken = books.take_back(id);
            drop(books);
            if taken.is_none() {
                self.forget(id);
            }
        }
    }

    /// Nobody wants this task: it does not begin, or its worker is ended.
    pub(super) fn cancel(&self, id: u64) {
        let mut books = self.books();
        let taken = books.take_back(id);
        if taken.is_some() {
            drop(books);
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
        let shortest = self.shortest.load(Ordering::SeqCst);
        if shortest == u64::MAX {
            return Deadline::Never;
        }
        // A task that is sent while nobody looks is seen in time.
        self.ledger.expire(|id| self.limits().get(&id).copied()).within((shortest / 4).clamp(1_000_000, LOOK))
    }

    /// The pool's own thread.
    fn keep(&self) {
        while !self.closing.load(Ordering::SeqCst) {
            let shortest = self.shortest.load(Ordering::SeqCst);
            let next = self.check_late();
            if self.users.load(Ordering::SeqCst) > 0 {
                std::thread::sleep(GRACE);
                continue;
            }
            self.collect();
            let or = || {
                self.closing.load(Ordering::SeqCst)
                    || self.users.load(Ordering::SeqCst) > 0
                    || self.shortest.load(Ordering::SeqCst) != shortest
            };
            let _ = self.ledger.wait(next, or);
        }
    }
}

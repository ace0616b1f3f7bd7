//! The pool's books: tasks that wait, tasks that are out, and results that nobody has taken.

use super::outcome::Raw;
use crate::process::Process;
use crate::wire::Luggage;
use polyproc_engine::pool::Backlog;
use polyproc_engine::shm::Lease;
use polyproc_engine::sys::event;
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

/// On what terms a task is done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Policy {
    pub(super) timeout: Option<Duration>,
    pub(super) retries: u32,
    pub(super) memory: Option<u64>,
    /// The higher goes first, among those that have not begun.
    pub(super) priority: i32,
}

/// A task that was not sent yet.
pub(super) struct Waiting {
    /// Room for its number, the place of its function, and its arguments.
    pub(super) record: Vec<u8>,
    /// Where the arguments begin.
    pub(super) begins: usize,
    pub(super) luggage: Luggage,
    pub(super) attempts: u32,
    pub(super) policy: Policy,
}

impl Waiting {
    /// Bytes.
    pub(super) fn weight(&self) -> usize {
        self.record.len() + self.luggage.blocks.iter().map(Lease::len).sum::<usize>()
    }
}

#[derive(Default)]
pub(super) struct Job {
    pub(super) raw: Option<Raw>,
    /// To be sent again, if its worker dies.
    pub(super) again: Option<Waiting>,
    /// Nobody wants its result.
    pub(super) forgotten: bool,
    pub(super) timeout: Option<Duration>,
    pub(super) memory: Option<u64>,
    /// Those who wait for any of several.
    pub(super) group: Option<Arc<Group>>,
    /// Who awaits it.
    pub(super) waker: Option<Waker>,
    /// A descriptor that somebody waits for: to be made readable.
    pub(super) bell: Option<Arc<OwnedFd>>,
}

/// Tasks of which any may be waited for: those that are settled, by their numbers.
#[derive(Default)]
pub(super) struct Group {
    pub(super) settled: Mutex<VecDeque<u64>>,
    /// Who awaits any of them.
    pub(super) waker: Mutex<Option<Waker>>,
}

impl Group {
    pub(super) fn settled(&self) -> MutexGuard<'_, VecDeque<u64>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker: its handle gives what it ended with.
pub(super) type Worker = Process<std::result::Result<(), String>>;

#[derive(Default)]
pub(super) struct Books {
    pub(super) jobs: HashMap<u64, Job>,
    pub(super) backlog: Backlog<(u64, Waiting)>,
    /// The bytes of the backlog.
    pub(super) weight: usize,
    pub(super) seats: HashMap<u32, Worker>,
    pub(super) next: u64,
    pub(super) failures: u32,
    /// Why the last of them failed.
    pub(super) failure: String,
    pub(super) made: u32,
    /// Those who awaited what is settled now: to be woken without the lock.
    pub(super) wakers: Vec<Waker>,
}

impl Job {
    /// It is settled: gives whom to wake, without the lock.
    pub(super) fn announce(&mut self, id: u64) -> impl Iterator<Item = Waker> + use<> {
        let group = self.group.take();
        if let Some(group) = &group {
            group.settled().push_back(id);
        }
        if let Some(bell) = self.bell.take() {
            event::raise(&*bell);
        }
        self.waker.take().into_iter().chain(group.and_then(|group| group.waker().take()))
    }
}

impl Books {
    pub(super) fn pop(&mut self) -> Option<(u64, Waiting)> {
        let (_, (id, waiting)) = self.backlog.pop_front()?;
        self.weight -= waiting.weight();
        Some((id, waiting))
    }

    pub(super) fn push_back(&mut self, id: u64, waiting: Waiting) {
        self.weight += waiting.weight();
        self.backlog.push_back(waiting.policy.priority, (id, waiting));
    }

    pub(super) fn push_front(&mut self, id: u64, waiting: Waiting) {
        self.weight += waiting.weight();
        self.backlog.push_front(waiting.policy.priority, (id, waiting));
    }

    /// Takes out a task that was not sent.
    pub(super) fn take_back(&mut self, id: u64) -> Option<(Job, Waiting)> {
        let (_, waiting) = self.backlog.take_first(|(waiting, _)| *waiting == id)?;
        self.weight -= waiting.weight();
        Some((self.jobs.remove(&id).unwrap_or_default(), waiting))
    }
}

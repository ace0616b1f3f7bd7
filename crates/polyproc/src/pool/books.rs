//! The pool's books: tasks that wait, tasks that are out, and results that nobody has taken.

use super::outcome::Raw;
use crate::process::Process;
use crate::wire::Luggage;
use polyproc_engine::shm::Lease;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

/// On what terms a task is done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Policy {
    pub(super) timeout: Option<Duration>,
    pub(super) retries: u32,
    pub(super) memory: Option<u64>,
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
}

/// Tasks of which any may be waited for: those that are settled, by their numbers.
#[derive(Default)]
pub(super) struct Group {
    pub(super) settled: Mutex<VecDeque<u64>>,
}

impl Group {
    pub(super) fn settled(&self) -> MutexGuard<'_, VecDeque<u64>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker: its handle gives what it ended with.
pub(super) type Worker = Process<std::result::Result<(), String>>;

#[derive(Default)]
pub(super) struct Books {
    pub(super) jobs: HashMap<u64, Job>,
    pub(super) backlog: VecDeque<(u64, Waiting)>,
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

impl Books {
    pub(super) fn pop(&mut self) -> Option<(u64, Waiting)> {
        let (id, waiting) = self.backlog.pop_front()?;
        self.weight -= waiting.weight();
        Some((id, waiting))
    }

    pub(super) fn push_front(&mut self, id: u64, waiting: Waiting) {
        self.weight += waiting.weight();
        self.backlog.push_front((id, waiting));
    }

    /// Takes out a task that was not sent.
    pub(super) fn take_back(&mut self, id: u64) -> Option<(Job, Waiting)> {
        let at = self.backlog.iter().position(|(waiting, _)| *waiting == id)?;
        let (_, waiting) = self.backlog.remove(at)?;
        self.weight -= waiting.weight();
        Some((self.jobs.remove(&id).unwrap_or_default(), waiting))
    }
}

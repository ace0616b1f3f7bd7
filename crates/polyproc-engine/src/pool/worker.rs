//! The worker's side of a lane: take a task, do it, commit its result.

use super::lane::{Lane, Progress, SCRATCH};
use super::{number_of, record};
use crate::channel::{Envelope, Parcel};
use crate::shm::{self, Handle};
use crate::sys::clock::{self, Deadline};
use crate::sys::memory;
use crate::{Error, Result, fault};
use std::cell::Cell;
use std::sync::atomic::Ordering;

/// Results that have been committed without waking the parent are told of after this time, in nanoseconds; at once, if there
/// is nothing more to do. Each waking takes some microseconds of a processor that another worker could use.
const UNTOLD: u64 = 700_000;

/// What came down the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A task; the envelope begins with its number.
    Task(u64),
    /// The worker is to end: nothing more will come, or it has more memory than it may.
    Stop,
}

/// The worker's end of a lane.
#[derive(Debug)]
pub struct Worker {
    lane: Lane,
    /// When the task that runs was taken, and when the parent was last told of results.
    began: u64,
    told: u64,
    untold: bool,
    progress: Progress,
}

impl Worker {
    /// Takes the worker's end of the lane that [`super::Ledger::open_seat`] made.
    ///
    /// # Errors
    /// [`crate::Error::Stale`] if the ledger is gone.
    pub fn attach(handle: Handle) -> Result<Worker> {
        let lane = Lane::open(handle)?;
        lane.state().worker.store(shm::me().bits(), Ordering::Release);
        fault!("pool.attached");
        Ok(Worker { lane, began: 0, told: 0, untold: false, progress: Progress::default() })
    }

    /// Says that this worker is about to take its first task.
    pub fn ready(&self) {
        self.lane.state().ready.store(1, Ordering::Release);
        self.lane.tell_hub();
    }

    /// Takes the next task, waiting for it. From here on its number stands in the lane as the one that runs.
    ///
    /// # Errors
    /// [`crate::Error::TimedOut`], [`crate::Error::Interrupted`], [`crate::Error::Damaged`].
    pub fn take(&mut self, envelope: &mut Envelope, deadline: Deadline) -> Result<Taken> {
        let state = self.lane.state();
        if self.is_full() {
            // What lies in the lane goes to others: it never began.
            return Ok(Taken::Stop);
        }
        let began = Cell::new(0);
        loop {
            let note = |envelope: &Envelope| {
                if envelope.kind == record::TASK
                    && let Some(number) = number_of(&envelope.inline)
                {
                    // First since when, then what: a ledger that finds the task running must not find the time of the last
                    // one, and take it for late.
                    began.set(clock::now());
                    state.since.store(began.get(), Ordering::Relaxed);
                    if state.weighs.load(Ordering::Acquire) != 0 {
                        state.base.store(memory::own(None).unwrap_or(0), Ordering::Relaxed);
                    }
                    // DEATH between here and the ring's commit: the task is still in the lane, so it never began.
                    state.progress.store(0, Ordering::Release);
                    state.running.store(number, Ordering::Release);
                    fault!("pool.taken");
                }
            };
            if self.lane.tasks.try_get_noting(envelope, Deadline::Never, note)? {
                break;
            }
            if deadline == Deadline::Now {
                return Err(Error::TimedOut);
            }
            self.tell();
            self.lane.tasks.wait(deadline)?;
        }
        self.began = began.get();
        self.progress = Progress::default();
        fault!("pool.begun");
        match number_of(&envelope.inline) {
            Some(number) if envelope.kind == record::TASK => Ok(Taken::Task(number)),
            _ => Ok(Taken::Stop),
        }
    }

    /// It has done a task, and has more memory of its own than a worker may.
    fn is_full(&self) -> bool {
        let state = self.lane.state();
        let limit = state.limit.load(Ordering::Relaxed);
        limit != 0 && state.done.load(Ordering::Relaxed) != 0 && memory::own(None).is_some_and(|own| own > limit)
    }

    /// Commits the result of the task that runs. `result` begins with the task's number.
    ///
    /// # Errors
    /// [`crate::Error::BudgetExhausted`]: then the task still runs, and a smaller result can be committed.
    pub fn commit(&mut self, result: &mut Parcel<'_>) -> Result<()> {
        let state = self.lane.state();
        result.kind = record::RESULT;
        self.lane.results.try_put_quietly(result, Deadline::Never)?;
        // DEATH between the two stores: the result is there, so what runs does not matter.
        fault!("pool.committed");
        state.running.store(0, Ordering::Release);
        fault!("pool.cleared");
        let now = clock::now();
        let spent = now.saturating_sub(self.began);
        state.busy.store(state.busy.load(Ordering::Relaxed).wrapping_add(spent), Ordering::Relaxed);
        let tasks = u64::from(self.progress.first + self.progress.count).max(1);
        state.done.store(state.done.load(Ordering::Relaxed).wrapping_add(tasks), Ordering::Relaxed);
        self.untold = true;
        if now.saturating_sub(self.told) >= UNTOLD {
            self.told = now;
            self.tell();
        }
        Ok(())
    }

    /// In a bundle: notes the result of the next of its tasks where the parent finds it should this process die in the one
    /// after. False if there is no room: then [`Worker::flush`] first.
    #[inline]
    pub fn add(&mut self, entry: &[u8]) -> bool {
        let Progress { first, count, bytes } = self.progress;
        let end = bytes as usize + entry.len();
        if end > SCRATCH.min(self.lane.scratch.len()) {
            return false;
        }
        // SAFETY: the scratch memory has at least `end` bytes, and nobody else writes there while this process lives.
        unsafe {
            let target = self.lane.scratch.as_ptr().add(bytes as usize);
            std::ptr::copy_nonoverlapping(entry.as_ptr(), target, entry.len());
        }
        self.progress = Progress { first, count: count + 1, bytes: end as u32 };
        self.lane.state().progress.store(self.progress.bits(), Ordering::Release);
        fault!("pool.added");
        true
    }

    /// In a bundle: whether the parent wants back what has not begun of it. The worker then commits what it has.
    #[inline]
    pub fn is_asked(&self) -> bool {
        let state = self.lane.state();
        // ORDER: Relaxed: sooner or later is soon enough.
        state.asked.load(Ordering::Relaxed) == state.running.load(Ordering::Relaxed)
    }

    /// In a bundle: sends the results of some of its tasks, up to the `done`-th. The record begins with the bundle's number.
    ///
    /// # Errors
    /// [`crate::Error::BudgetExhausted`].
    pub fn flush(&mut self, part: &mut Parcel<'_>, done: u32) -> Result<()> {
        part.kind = record::PART;
        self.lane.results.try_put_quietly(part, Deadline::Never)?;
        // DEATH between the two stores: some results are found twice, which the parent takes once.
        fault!("pool.flushed");
        self.progress = Progress { first: done, count: 0, bytes: 0 };
        self.lane.state().progress.store(self.progress.bits(), Ordering::Release);
        self.untold = true;
        Ok(())
    }

    /// Sends word that belongs to no task.
    ///
    /// # Errors
    /// [`crate::Error::BudgetExhausted`].
    pub fn note(&mut self, note: &mut Parcel<'_>) -> Result<()> {
        note.kind = record::NOTE;
        self.lane.results.try_put_quietly(note, Deadline::Never)?;
        self.untold = true;
        self.tell();
        Ok(())
    }

    /// Tells the parent of what was committed.
    pub fn tell(&mut self) {
        if self.untold {
            self.untold = false;
            self.lane.tell_hub();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.tell();
    }
}

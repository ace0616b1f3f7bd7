//! Who does the pool's work: the leader among those who wait, or the pool's own thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use polyproc_engine::pool::Withdrawn;
use polyproc_engine::sync::signal;
use polyproc_engine::sys::clock;
use polyproc_engine::{Deadline, Error};
use pyo3::prelude::*;

use super::desk::{Desk, Pending};
use super::job::{Job, Raw};
use crate::{errors, waiting};

/// After somebody waited or came with tasks, the pool's own thread keeps out for this time, in nanoseconds.
const GRACE: u64 = 1_000_000;

/// The lead, given back also when an exception ends it.
struct Lead<'a>(&'a Desk);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.0.leader.store(0, Ordering::SeqCst);
        self.0.wake_followers();
    }
}

impl Desk {
    /// Waits until `over()`, doing the pool's work meanwhile. Inner error: not in time.
    pub fn wait_until(
        &self,
        py: Python<'_>,
        deadline: Deadline,
        over: impl Fn() -> bool + Sync,
    ) -> PyResult<Result<(), Error>> {
        if over() {
            return Ok(Ok(()));
        }
        self.check_process()?;
        self.users.fetch_add(1, Ordering::SeqCst);
        self.visits.fetch_add(1, Ordering::SeqCst);
        let result = self.wait_as_user(py, deadline, &over);
        if self.users.fetch_sub(1, Ordering::SeqCst) == 1 {
            signal::notify(&*self.pump_word, u32::MAX);
        }
        result
    }

    fn wait_as_user(
        &self,
        py: Python<'_>,
        deadline: Deadline,
        over: &(impl Fn() -> bool + Sync),
    ) -> PyResult<Result<(), Error>> {
        loop {
            if over() {
                return Ok(Ok(()));
            }
            if self.leader.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                let lead = Lead(self);
                let result = self.lead(py, deadline, over);
                drop(lead);
                return result;
            }
            self.followers.fetch_add(1, Ordering::SeqCst);
            let come = || over() || self.leader.load(Ordering::SeqCst) == 0;
            // If it is the pool's own thread that leads, it is to make room.
            let result = waiting::wait_detached(py, deadline, |deadline| {
                self.ledger.tell();
                signal::wait(&self.follow, deadline, come)
            });
            self.followers.fetch_sub(1, Ordering::SeqCst);
            if let Err(error) = result? {
                return Ok(if over() { Ok(()) } else { Err(error) });
            }
        }
    }

    /// Does the pool's work until `over()`.
    fn lead(
        &self,
        py: Python<'_>,
        deadline: Deadline,
        over: &(impl Fn() -> bool + Sync),
    ) -> PyResult<Result<(), Error>> {
        loop {
            self.collect();
            if over() {
                return Ok(Ok(()));
            }
            self.step(py)?;
            if over() {
                return Ok(Ok(()));
            }
            let next = earlier(self.expire(), self.dismiss());
            let until = earlier(deadline, next);
            match waiting::wait_detached(py, until, |until| self.ledger.wait(until, over))? {
                Err(Error::TimedOut) if until != deadline && !deadline.passed() => {}
                Err(Error::TimedOut) => return Ok(if over() { Ok(()) } else { Err(Error::TimedOut) }),
                Err(error) => return Err(errors::raise(error)),
                Ok(()) => {}
            }
        }
    }

    /// What the leader does besides collecting: workers replaced, tasks sent.
    fn step(&self, py: Python<'_>) -> PyResult<()> {
        if !self.supply(py)? {
            self.ledger.balance();
        }
        if self.closing.load(Ordering::SeqCst) && self.is_idle() {
            self.ledger.stop();
        }
        Ok(())
    }

    /// Workers replaced, and started where there is more to do than those can that there are; tasks sent. True if something
    /// is left to be sent.
    fn supply(&self, py: Python<'_>) -> PyResult<bool> {
        self.keep(py)?;
        let left = self.feed(py)?;
        if !left || self.idle.get().is_none() || self.ledger.open_seats() >= self.most.load(Ordering::SeqCst) {
            return Ok(left);
        }
        self.vacant.store(true, Ordering::SeqCst);
        self.keep(py)?;
        self.feed(py)
    }

    /// Has workers end that have had nothing to do for long enough; tells when to look again.
    fn dismiss(&self) -> Deadline {
        self.idle.get().map_or(Deadline::Never, |&(time, least)| self.ledger.retire_idle(time, least))
    }

    /// Ends the workers whose tasks have run too long; tells when to look again.
    fn expire(&self) -> Deadline {
        if self.timed.load(Ordering::SeqCst) == 0 {
            return Deadline::Never;
        }
        self.ledger.expire(|id| self.books().jobs.get((id >> 32) as u32).and_then(|job| job.policy.timeout))
    }

    /// Gives up what of a job is not done. True if there was anything.
    pub fn cancel(&self, py: Python<'_>, job: &Arc<Job>) -> PyResult<bool> {
        self.collect();
        let mut unsent = Vec::new();
        let gone = {
            let mut books = self.books();
            let gone = books.backlog.take_if(|pending| Arc::ptr_eq(pending.job(), job));
            for pending in &gone {
                match pending {
                    Pending::Object { .. } => books.large = books.large.saturating_sub(1),
                    Pending::Items { next, count, .. } => unsent.push(*next..*count),
                    Pending::Ready { .. } | Pending::Again { .. } => {}
                }
            }
            gone
        };
        let mut any = !gone.is_empty();
        let mut cancelled: Vec<u32> = gone
            .iter()
            .filter_map(|pending| match pending {
                Pending::Ready { index, .. } | Pending::Again { index, .. } | Pending::Object { index, .. } => {
                    Some(*index)
                }
                Pending::Items { .. } => None,
            })
            .collect();
        for index in job.unsettled() {
            if unsent.iter().any(|range| range.contains(&index)) {
                cancelled.push(index);
            } else if !cancelled.contains(&index) {
                let weight = self.ledger.weight(job.id(index));
                match py.detach(|| self.ledger.withdraw(job.id(index))) {
                    Withdrawn::Unbegun => cancelled.extend(index..index + weight),
                    Withdrawn::Running => any = true,
                    Withdrawn::Unknown => {}
                }
            }
        }
        any |= !cancelled.is_empty();
        for index in cancelled {
            self.settle(job, index, Raw::Cancelled);
        }
        drop(gone);
        self.nudge(py)?;
        Ok(any)
    }

    pub fn is_idle(&self) -> bool {
        self.books().jobs.is_empty()
    }

    /// For those who came with tasks and do not wait: sends what there is room for.
    pub fn nudge(&self, py: Python<'_>) -> PyResult<()> {
        // While somebody comes often, the pool's own thread keeps out: both would do the same, and wait for each other.
        self.visits.fetch_add(1, Ordering::SeqCst);
        if self.ledger.has_news() {
            self.collect();
        }
        self.step(py)?;
        self.expire();
        if self.users.load(Ordering::SeqCst) == 0 {
            signal::notify(&*self.pump_word, u32::MAX);
        }
        Ok(())
    }

    /// The pool's own thread: does the work while nobody waits.
    pub fn pump(&self, py: Python<'_>) -> PyResult<()> {
        let stopped = || self.stopped.load(Ordering::SeqCst);
        let alone = || self.users.load(Ordering::SeqCst) == 0;
        let idle = || self.is_idle() && !self.vacant.load(Ordering::SeqCst) && !self.ledger.has_news();
        let wanted = || stopped() || (alone() && !idle());
        let grace = AtomicU32::new(0);
        while !stopped() {
            let seen = py.detach(|| {
                while let Err(Error::TimedOut) = signal::wait(&*self.pump_word, self.dismiss(), wanted) {}
                let seen = self.visits.load(Ordering::SeqCst);
                let _ = signal::wait(&grace, Deadline::At(clock::now() + GRACE), stopped);
                seen
            });
            if stopped() || self.visits.load(Ordering::SeqCst) != seen || !wanted() {
                continue;
            }
            if self.leader.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                let lead = Lead(self);
                let visited = || self.visits.load(Ordering::SeqCst) != seen;
                let enough = || stopped() || !alone() || visited() || idle();
                let result = self.lead(py, Deadline::Never, &enough);
                drop(lead);
                // The keeper could not start a worker, or an argument could not be encoded: whoever asks is told.
                if let Err(error) = result {
                    error.write_unraisable(py, None);
                }
            }
        }
        Ok(())
    }

    /// The thread that runs callbacks. `run` is called with the callback and its argument.
    pub fn call_back(&self, py: Python<'_>, run: &Bound<'_, PyAny>) -> PyResult<()> {
        loop {
            let next = || self.books().calls.front().cloned();
            let come = || self.stopped.load(Ordering::SeqCst) || !self.books().calls.is_empty();
            py.detach(|| {
                let _ = signal::wait(&self.calls_word, Deadline::Never, come);
            });
            let Some(job) = next() else {
                if self.stopped.load(Ordering::SeqCst) {
                    return Ok(());
                }
                continue;
            };
            let outcome = super::outcome::run_callback(py, self, &job, run);
            self.books().calls.pop_front();
            job.set_over();
            signal::notify(&self.follow, u32::MAX);
            self.ledger.tell();
            outcome?;
        }
    }
}

/// The earlier of two deadlines.
fn earlier(one: Deadline, other: Deadline) -> Deadline {
    match (one, other) {
        (Deadline::Never, other) => other,
        (one, Deadline::Never) => one,
        (Deadline::At(one), Deadline::At(other)) => Deadline::At(one.min(other)),
        (Deadline::Now, _) | (_, Deadline::Now) => Deadline::Now,
    }
}

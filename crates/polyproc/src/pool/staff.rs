//! The workers of a pool: begun, replaced, ended.

use super::books::Worker;
use super::builder::Hook;
use super::desk::Desk;
use super::outcome::Raw;
use super::worker::{self, LaneName};
use crate::Result;
use polyproc_engine::Deadline;
use polyproc_engine::pool::Backlog;
use polyproc_engine::process::Status;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

/// So many workers may end, one after another, before they are ready for a task.
pub(super) const FAILURES: u32 = 8;

impl Desk {
    /// Starts a worker.
    pub(super) fn hire(&self) -> Result<()> {
        let seat = self.ledger.open_seat(self.life)?;
        let number = seat.number;
        let ledger = Arc::clone(&self.ledger);
        let pid = Arc::new(AtomicU32::new(0));
        let known = Arc::clone(&pid);
        let told = move |status: Status| ledger.ended(number, known.load(Ordering::Acquire) as i32, status);
        // Under the lock, so that the end of a worker is never dealt with before its seat is taken.
        let mut books = self.books();
        books.made += 1;
        let name = format!("pool-{}", books.made);
        let hooks = [&self.on_start, &self.on_exit];
        let give = |child| {
            self.ledger.share_seat(number, child);
            hooks.into_iter().flatten().flat_map(|hook| &hook.luggage.holds).for_each(|hold| hold.share_with(child));
        };
        let [on_start, on_exit] = hooks.map(|hook| hook.as_ref().map(Hook::call));
        let spawned = self.process.clone().name(name.clone()).spawn_with(
            worker::serve,
            (LaneName::of(seat.handle), name, on_start, on_exit),
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

    fn staffing(&self) -> MutexGuard<'_, ()> {
        self.staffing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on there are to be so many workers.
    pub(super) fn resize(&self, count: usize) -> Result<()> {
        let staffing = self.staffing();
        self.count.store(count, Ordering::SeqCst);
        let open = self.ledger.open_seats();
        self.ledger.retire(open.saturating_sub(count));
        let hired = (open..count).try_for_each(|_| self.hire());
        drop(staffing);
        // Tasks that lie before others are theirs now.
        self.collect();
        hired
    }

    /// Puts another in the place of a worker that has ended, unless there are enough.
    pub(super) fn replace(&self, worker: Worker, was_ready: bool) {
        if self.closing.load(Ordering::SeqCst) {
            return;
        }
        if was_ready {
            self.books().failures = 0;
        } else {
            // It has ended: this does not wait.
            let failure = match worker.join() {
                Ok(Ok(())) => "it had nothing to do".to_owned(),
                Ok(Err(why)) => why,
                Err(error) => error.to_string(),
            };
            log::error!("polyproc: a worker has ended before its first task: {failure}");
            let mut books = self.books();
            books.failures += 1;
            books.failure = failure;
            if books.failures >= FAILURES {
                let last = books.seats.is_empty();
                drop(books);
                if last {
                    self.give_up_on_workers();
                }
                return;
            }
        }
        let staffing = self.staffing();
        if self.ledger.open_seats() >= self.workers() {
            return;
        }
        let hired = self.hire();
        drop(staffing);
        if let Err(error) = hired {
            log::error!("polyproc: a worker that has ended cannot be replaced: {error}");
            if self.books().seats.is_empty() {
                self.give_up(&format!("there is no worker left, and none can be started: {error}"));
            }
        }
    }

    pub(super) fn give_up_on_workers(&self) {
        let why = format!("its workers end before they can begin: {}", self.books().failure);
        self.give_up(&why);
    }

    /// Settles everything: nothing more will be done.
    pub(super) fn give_up(&self, why: &str) {
        let mut books = self.books();
        books.backlog = Backlog::default();
        books.weight = 0;
        let left: Vec<u64> = books.jobs.iter().filter(|(_, job)| job.raw.is_none()).map(|(&id, _)| id).collect();
        for id in left {
            self.settle(&mut books, id, Raw::NotDone(format!("the pool has given up: {why}")));
        }
        drop(books);
        self.ring();
        self.ledger.tell();
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

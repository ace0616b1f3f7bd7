//! A condition to wait for under a lock of the caller's choice.
//!
//! The engine's part knows nothing of that lock: its holder *enqueues* (still holding the lock), releases the lock, *waits*,
//! and takes the lock again. A notification gives permits to those who were enqueued before it, never to later ones: each
//! waiter has a ticket, and a permit is good for tickets below the limit that the last notification set.
//!
//! DEATH of a waiter: it is struck off the count of sleepers. A permit that was meant for it goes to another waiter that was
//! enqueued before that notification, or lies until the next notification and counts for that one: nothing is lost, and at
//! most one waiter too many wakes.

use super::monitor::Monitor;
use super::signal;
use crate::shm::{self, CellState, Death, Handle, Hold, Kind};
use crate::sys::clock::Deadline;
use crate::{Error, Result};

const SLEEPING: usize = 0;
const PERMITS: usize = 1;
const NEXT: usize = 2;
const LIMIT: usize = 3;

/// Words: waiters that are enqueued, permits that were given and not used, the next ticket, the first ticket for which no
/// permit is good. A process's count: its waiters.
#[repr(C)]
struct ConditionState {
    monitor: Monitor<4>,
}

// SAFETY: plain atomics, 48 bytes.
unsafe impl CellState for ConditionState {
    const KIND: Kind = Kind::Condition;
}

/// A place in a condition's queue. It must be waited for, or cancelled.
#[derive(Debug)]
#[must_use = "a ticket that is neither waited for nor cancelled swallows a notification"]
pub struct Ticket(u32);

/// A condition between processes.
#[derive(Clone, Debug)]
pub struct Condition {
    hold: Hold,
}

impl Condition {
    /// A new condition that nobody waits for.
    pub fn new() -> Result<Condition> {
        Ok(Condition { hold: shm::create::<ConditionState>(|_| {})? })
    }

    /// The condition of a handle.
    pub fn from_handle(handle: Handle) -> Result<Condition> {
        Ok(Condition { hold: Hold::take(handle, Kind::Condition)? })
    }

    /// This process's hold on it.
    pub fn hold(&self) -> &Hold {
        &self.hold
    }

    fn monitor(&self) -> &'static Monitor<4> {
        &self.hold.state::<ConditionState>().monitor
    }

    fn change<R>(&self, change: impl FnOnce(&mut [u32; 4], &mut u32) -> R) -> R {
        self.monitor().change(self.hold.handle().cell, change)
    }

    /// Takes a place in the queue. The caller holds its lock, releases it after this, and then calls [`Condition::wait`].
    pub fn enqueue(&self) -> Ticket {
        self.change(|words, count| {
            words[SLEEPING] += 1;
            *count += 1;
            let ticket = words[NEXT];
            words[NEXT] = ticket.wrapping_add(1);
            Ticket(ticket)
        })
    }

    /// Waits to be notified. True if that came before the deadline; the ticket is used up in both cases.
    ///
    /// # Errors
    /// [`Error::Interrupted`]: the ticket is still good; call again, or [`Condition::cancel`].
    pub fn wait(&self, ticket: &Ticket, deadline: Deadline) -> Result<bool> {
        let monitor = self.monitor();
        let ticket = ticket.0;
        let good = |permits: u32, limit: u32| permits > 0 && (limit.wrapping_sub(ticket) as i32) > 0;
        loop {
            let outcome = signal::wait(&monitor.signal, deadline, || good(monitor.peek(PERMITS), monitor.peek(LIMIT)));
            let timed_out = match outcome {
                Ok(()) => false,
                Err(Error::TimedOut) => true,
                Err(error) => return Err(error),
            };
            let taken = self.change(|words, count| {
                let notified = good(words[PERMITS], words[LIMIT]);
                if notified {
                    words[PERMITS] -= 1;
                }
                if notified || timed_out {
                    words[SLEEPING] = words[SLEEPING].saturating_sub(1);
                    *count = count.saturating_sub(1);
                }
                notified
            });
            if taken || timed_out {
                return Ok(taken);
            }
        }
    }

    /// Gives a place in the queue up.
    pub fn cancel(&self, ticket: Ticket) {
        // Waiting for no time at all uses the ticket up.
        while self.wait(&ticket, Deadline::Now).is_err() {}
    }

    /// Wakes at most `count` of those who are enqueued now, and tells how many. The caller holds its lock.
    pub fn notify(&self, count: u32) -> u32 {
        let (added, permits) = self.change(|words, _| {
            let added = count.min(words[SLEEPING].saturating_sub(words[PERMITS]));
            words[PERMITS] += added;
            words[LIMIT] = words[NEXT];
            (added, words[PERMITS])
        });
        if permits > 0 {
            signal::notify(&self.monitor().signal, permits);
        }
        added
    }

    /// How many are enqueued, those included that were notified and have not gone on yet.
    pub fn waiters(&self) -> u32 {
        self.monitor().peek(SLEEPING)
    }

    /// How many were notified and have not gone on yet.
    pub fn notified(&self) -> u32 {
        self.monitor().peek(PERMITS)
    }
}

pub(crate) fn on_death(cell: u32, _count: u32, death: &Death) {
    let monitor = &shm::cell(cell).state::<ConditionState>().monitor;
    monitor.change_for_dead(cell, death.participant, |words, count| {
        words[SLEEPING] = words[SLEEPING].saturating_sub(*count);
        words[PERMITS] = words[PERMITS].min(words[SLEEPING]);
        *count = 0;
    });
}

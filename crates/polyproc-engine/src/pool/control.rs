//! What is done about tasks and workers from outside: limits of time and memory, giving up, fewer workers.
//!
//! A worker is ended for the sake of the task that it runs, and never for another: it is stopped first, and goes on if that
//! task is done by then.
//!
//! **Memory** of tasks is measured from outside, every [`GLANCE`], by a thread of the engine that needs nothing of the
//! program: how much more of its own ([`memory::own`]) the worker has than it had when the task began. A limit that the kernel
//! enforces (RLIMIT_DATA, RLIMIT_AS) would act at once, but counts addresses and not memory (thread stacks, arenas and
//! reserved ranges that nobody touches), belongs to the process and not to the task, and shows as a failed allocation that
//! a library may survive, or crash at. What grows between two glances is the price: some tens of megabytes.

use super::book::LONG;
use super::ledger::Ledger;
use super::settled::{Because, Withdrawn};
use crate::Result;
use crate::sys::clock::{self, Deadline};
use crate::sys::{fork, memory, thread};
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often the memory of tasks is looked at.
const GLANCE: Duration = Duration::from_millis(5);
/// How often it is looked for such tasks in vain, before the thread ends.
const VAIN: u32 = 200;

impl Ledger {
    /// Ends the workers whose task runs longer than `limit` gives for it, in nanoseconds. Tells when to look again: the
    /// earliest moment at which another can have run too long.
    pub fn expire(&self, limit: impl Fn(u64) -> Option<u64>) -> Deadline {
        let now = clock::now();
        let mut next = u64::MAX;
        for place in &mut self.book().places {
            let running = place.running();
            for flight in &place.flight {
                let Some(limit) = limit(flight.id) else { continue };
                // What has not begun begins now at the earliest.
                let since = running.filter(|&(id, _)| id == flight.id).map_or(now, |(_, since)| since);
                let end = since.saturating_add(limit);
                if end > now {
                    next = next.min(end);
                } else if place.condemned.is_none() && !place.condemn(flight.id, Because::TimedOut) {
                    next = next.min(now + LONG);
                }
                // Those behind it cannot expire before it.
                break;
            }
        }
        if next == u64::MAX { Deadline::Never } else { Deadline::At(next) }
    }

    /// Takes back a task that was sent: out of its lane, or, if it runs, by ending its worker.
    pub fn withdraw(&self, id: u64) -> Withdrawn {
        let mut book = self.book();
        if book.take_again(id).is_some() {
            return Withdrawn::Unbegun;
        }
        let Some(at) = book.places.iter().position(|place| place.flight.iter().any(|flight| flight.id == id)) else {
            return Withdrawn::Unknown;
        };
        if book.places[at].running().is_some_and(|(running, _)| running == id) {
            let condemned = book.places[at].condemn(id, Because::Cancelled);
            return if condemned { Withdrawn::Running } else { Withdrawn::Unknown };
        }
        // Out of the lane with all that lies before it; the others go back to the queue.
        book.take_back(at, usize::MAX);
        let taken = book.take_again(id);
        book.dispatch_again();
        if taken.is_some() { Withdrawn::Unbegun } else { Withdrawn::Unknown }
    }

    /// Has this many workers end once they have done what they are in, those first that have the least to do. What they have
    /// not begun goes to others. Gives their seats; fewer, if there are not so many.
    pub fn retire(&self, count: usize) -> Vec<u32> {
        let mut book = self.book();
        let mut retired = Vec::new();
        while retired.len() < count {
            let open = book.places.iter().enumerate().filter(|(_, place)| place.is_open());
            let Some((at, _)) = open.min_by_key(|(_, place)| place.load) else { break };
            book.take_back(at, usize::MAX);
            if !book.places[at].retire() {
                break;
            }
            retired.push(book.places[at].number);
        }
        book.dispatch_again();
        retired
    }

    /// Retires the workers that have had nothing to do for `time` nanoseconds since somebody first looked, as long as more
    /// than `keep` are left. Tells when to look again.
    pub fn retire_idle(&self, time: u64, keep: usize) -> Deadline {
        let now = clock::now();
        let mut book = self.book();
        let mut open = book.places.iter().filter(|place| place.is_open()).count();
        let mut next = u64::MAX;
        for place in book.places.iter_mut().filter(|place| place.is_open() && place.flight.is_empty()) {
            if open <= keep {
                break;
            }
            if place.idle_since == 0 {
                place.idle_since = now;
            }
            let end = place.idle_since.saturating_add(time);
            if end > now {
                next = next.min(end);
                continue;
            }
            open -= usize::from(place.retire());
        }
        if next == u64::MAX { Deadline::Never } else { Deadline::At(next) }
    }

    /// The seats of retired workers that have not ended yet.
    pub fn retiring(&self) -> Vec<u32> {
        self.book().places.iter().filter(|place| place.retired).map(|place| place.number).collect()
    }

    /// How many workers may be sent tasks.
    pub fn open_seats(&self) -> usize {
        self.book().places.iter().filter(|place| place.is_open()).count()
    }

    /// Ends the workers whose task has taken more memory than it may. False if no task has such a limit.
    fn oversee(&self) -> bool {
        let mut any = false;
        for place in &mut self.book().places {
            any |= place.flight.iter().any(|flight| flight.memory.is_some());
            if place.condemned.is_some() || place.ended.is_some() {
                continue;
            }
            let (Some((id, _)), Some(child)) = (place.running(), &place.child) else { continue };
            let limit = place.flight.iter().find(|flight| flight.id == id).and_then(|flight| flight.memory);
            let (Some(limit), Some(own)) = (limit, memory::own(Some(child.pid()))) else { continue };
            let took = own.saturating_sub(place.lane.state().base.load(Ordering::Relaxed));
            if took > limit {
                place.condemn(id, Because::TookTooMuch(took));
            }
        }
        any
    }

    /// Sees to it that there is a thread that oversees.
    pub(super) fn have_overseen(&self) -> Result<()> {
        if self.overseen.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let me = Weak::clone(&self.me);
        let started = thread::spawn_without_signals("polyproc-memory", move || oversee_on(&me));
        if started.is_err() {
            self.overseen.store(false, Ordering::SeqCst);
        }
        started
    }
}

fn oversee_on(ledger: &Weak<Ledger>) {
    let mut vain = 0;
    loop {
        let Some(ledger) = ledger.upgrade() else { return };
        if ledger.born_in != fork::count() {
            return;
        }
        vain = if ledger.oversee() { 0 } else { vain + 1 };
        if vain >= VAIN {
            ledger.overseen.store(false, Ordering::SeqCst);
            // A task that was sent meanwhile has found a thread, and relies on it.
            if !ledger.oversee() || ledger.overseen.swap(true, Ordering::SeqCst) {
                return;
            }
            vain = 0;
        }
        drop(ledger);
        std::thread::sleep(GLANCE);
    }
}

//! A worker as its ledger sees it: the lane, and the tasks that are in it, in their order.

use super::lane::{Lane, Progress};
use super::settled::{Because, Ended, Outcome, Settled, Terms};
use super::{number_of, record};
use crate::Error;
use crate::channel::{Body, Envelope, Parcel};
use crate::process::Child;
use crate::sys::clock::{self, Deadline};
use crate::sys::{cpu, proc, signal};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How long a worker may take to stop, before we look whether it is in the task that it is to be ended in.
const STOPPING: u64 = 20_000_000;

#[derive(Debug)]
pub(super) struct Flight {
    pub(super) id: u64,
    pub(super) kept: Option<Box<[u8]>>,
    /// How many tasks it is.
    pub(super) weight: u32,
    pub(super) priority: i32,
    /// How much more memory than it found it may take.
    pub(super) memory: Option<u64>,
}

impl Flight {
    pub(super) fn new(id: u64, kept: Option<Box<[u8]>>, terms: Terms) -> Flight {
        Flight { id, kept, weight: terms.weight, priority: terms.priority, memory: terms.memory }
    }
}

#[derive(Debug)]
pub(super) struct Place {
    pub(super) number: u32,
    pub(super) lane: Lane,
    pub(super) flight: VecDeque<Flight>,
    /// How many tasks are in the lane.
    pub(super) load: usize,
    /// How many more units it may get.
    pub(super) left: u32,
    pub(super) stopped: bool,
    pub(super) ended: Option<Arc<Ended>>,
    /// The worker's process, where it is known.
    pub(super) child: Option<Arc<Child>>,
    /// The task for whose sake the worker is being ended.
    pub(super) condemned: Option<(u64, Because)>,
    /// What its worker had counted when we last looked: nanoseconds and tasks.
    pub(super) measured: (u64, u64),
    /// No task in the lane has a lower priority.
    pub(super) least: i32,
    /// It was told to end because fewer workers are wanted.
    pub(super) retired: bool,
    /// When somebody first saw that it has nothing to do; zero if it has, or nobody looked.
    pub(super) idle_since: u64,
}

impl Place {
    pub(super) fn new(number: u32, lane: Lane, most: Option<u32>) -> Place {
        Place {
            number,
            lane,
            flight: VecDeque::new(),
            load: 0,
            left: most.unwrap_or(u32::MAX),
            stopped: false,
            ended: None,
            child: None,
            condemned: None,
            measured: (0, 0),
            least: i32::MAX,
            retired: false,
            idle_since: 0,
        }
    }

    /// It may be sent more.
    pub(super) fn is_open(&self) -> bool {
        !self.stopped && self.ended.is_none() && self.left > 0
    }

    /// True once the worker has come to where it takes tasks.
    pub(super) fn is_ready(&self) -> bool {
        self.lane.state().ready.load(Ordering::Acquire) != 0
    }

    /// The task that the worker is in, and since when.
    pub(super) fn running(&self) -> Option<(u64, u64)> {
        let state = self.lane.state();
        let (id, since) = (state.running.load(Ordering::Acquire), state.since.load(Ordering::Relaxed));
        (id != 0).then_some((id, since))
    }

    /// Its tasks come in bundles.
    pub(super) fn is_bundled(&self) -> bool {
        self.flight.back().is_none_or(|flight| flight.weight > 1)
    }

    /// Asks the worker for what it has not begun of the bundle that it is in.
    pub(super) fn ask_back(&self) {
        if let Some((id, _)) = self.running() {
            self.lane.state().asked.store(id, Ordering::Relaxed);
        }
    }

    /// Ends the worker for the sake of the task that it runs, and only in that task: it is stopped first, and goes on if it
    /// was in another by then.
    pub(super) fn condemn(&mut self, id: u64, because: Because) -> bool {
        let Some(child) = self.child.clone() else { return false };
        if child.send_signal(signal::STOP).is_err() {
            return false;
        }
        let still = clock::now() + STOPPING;
        while !proc::is_stopped(child.pid()) && clock::now() < still {
            cpu::give_way();
        }
        // Committed, though its number still stands there: then it is done.
        let results = self.lane.results.len() as usize;
        let done = self.flight.iter().take(results).any(|flight| flight.id == id);
        let condemned = !done && self.running().is_some_and(|(running, _)| running == id);
        if condemned {
            self.condemned = Some((id, because));
            let _ = child.send_signal(signal::KILL);
        } else {
            let _ = child.send_signal(signal::CONTINUE);
        }
        condemned
    }

    /// What the worker had added to its scratch memory, for a place whose worker has ended.
    pub(super) fn added(&self) -> Outcome {
        let progress = Progress::of(self.lane.state().progress.load(Ordering::Acquire));
        let length = (progress.bytes as usize).min(self.lane.scratch.len());
        let mut bytes = vec![0; length];
        // SAFETY: the scratch memory is mapped for its length; it is copied once, and checked afterwards.
        unsafe { std::ptr::copy_nonoverlapping(self.lane.scratch.as_ptr(), bytes.as_mut_ptr(), length) };
        Outcome::Added(progress.first, progress.count, bytes.into_boxed_slice())
    }

    /// Takes a task out of the middle of the flight.
    pub(super) fn take(&mut self, id: u64) -> Option<Flight> {
        let index = self.flight.iter().position(|flight| flight.id == id)?;
        let flight = self.flight.remove(index)?;
        self.load = self.load.saturating_sub(flight.weight as usize);
        Some(flight)
    }

    /// Puts a task into the lane. Gives it back with the error, if there is no memory for it.
    pub(super) fn put(
        &mut self,
        flight: Flight,
        parcel: &mut Parcel<'_>,
        begins_unit: bool,
    ) -> std::result::Result<(), (Error, Flight)> {
        parcel.kind = record::TASK;
        if flight.memory.is_some() {
            // Before the worker can take it: it notes what it begins with.
            self.lane.state().weighs.store(1, Ordering::Release);
        }
        if let Err(error) = self.lane.tasks.try_put_quietly(parcel, Deadline::Never) {
            return Err((error, flight));
        }
        self.least = if self.flight.is_empty() { flight.priority } else { self.least.min(flight.priority) };
        self.idle_since = 0;
        self.load += flight.weight as usize;
        self.flight.push_back(flight);
        if begins_unit && self.left != u32::MAX {
            self.left = self.left.saturating_sub(1);
        }
        Ok(())
    }

    /// A worker that may not be sent more ends after what it has.
    pub(super) fn stop_if_spent(&mut self) {
        if self.left == 0 {
            self.stop();
        }
    }

    /// Has the worker end once it has done what it has: fewer are wanted. True if it was told.
    pub(super) fn retire(&mut self) -> bool {
        self.stop();
        self.retired = self.stopped;
        self.retired
    }

    pub(super) fn stop(&mut self) {
        if !self.stopped && self.ended.is_none() {
            let mut parcel = Parcel { kind: record::STOP, ..Parcel::default() };
            self.stopped = self.lane.tasks.try_put_quietly(&mut parcel, Deadline::Never).is_ok();
            self.lane.tasks.tell();
        }
    }

    /// Takes results out of the lane. True if some were left because there are enough.
    pub(super) fn drain(&mut self, envelope: &mut Envelope, settled: &mut Vec<Settled>, most: usize) -> bool {
        loop {
            if self.lane.results.is_empty() {
                return false;
            }
            if settled.len() >= most {
                return true;
            }
            match self.lane.results.try_get(envelope, Deadline::Never) {
                Ok(true) => {}
                Ok(false) => return false,
                // Its worker has written over it: what it was to bring will be missed at its end.
                Err(_) => continue,
            }
            if envelope.kind == record::NOTE {
                let note = envelope.inline.as_slice().into();
                settled.push(Settled { id: 0, outcome: Outcome::Note(note), kept: None, weight: 0 });
                continue;
            }
            // Results come in the order of the tasks; what does not is the work of a process that breaks the rules.
            let expected = self.flight.front().map(|flight| flight.id);
            if number_of(&envelope.inline) != expected || expected.is_none() {
                continue;
            }
            let small =
                envelope.buffers.is_empty() && matches!(envelope.body, Body::Inline) && envelope.names_nothing();
            if envelope.kind == record::PART {
                let outcome = if small {
                    Outcome::Part(envelope.inline[8..].into())
                } else {
                    Outcome::LargePart(std::mem::take(envelope))
                };
                settled.push(Settled { id: expected.unwrap_or(0), outcome, kept: None, weight: 0 });
                continue;
            }
            let Some(flight) = self.flight.pop_front() else { continue };
            self.load = self.load.saturating_sub(flight.weight as usize);
            let outcome = if small {
                Outcome::Done(envelope.inline[8..].into())
            } else {
                Outcome::Large(std::mem::take(envelope))
            };
            settled.push(Settled { id: flight.id, outcome, kept: flight.kept, weight: flight.weight });
        }
    }

    /// Follows the pace: down at once, up slowly, since a first task often has to import what it needs.
    pub(super) fn measure(&mut self, pace: &mut u64) {
        let state = self.lane.state();
        let now = (state.busy.load(Ordering::Relaxed), state.done.load(Ordering::Relaxed));
        let tasks = now.1.wrapping_sub(self.measured.1);
        if tasks == 0 || tasks > u64::from(u32::MAX) {
            return;
        }
        let sample = (now.0.wrapping_sub(self.measured.0) / tasks).max(1);
        self.measured = now;
        *pace = match *pace {
            0 => sample,
            known if sample < known => known / 4 + sample / 4 * 3,
            known => known / 4 * 3 + sample / 4,
        }
        .max(1);
    }
}

//! The parent's side: which task is in which lane, what came back, and what to do about a worker that died.
//!
//! ```text
//!  send ─▶ lane of the seat with the least to do ─▶ … ─▶ drain ─▶ Settled { id, Done }
//!              ▲                                      └─▶ bury  ─▶ Settled { id, Died }     the one that ran
//!              └── again: what a dead worker never began, and what an idle worker takes over
//! ```
//!
//! Nothing here waits for a worker: lanes grow. How much lies in a lane is bounded all the same, by the pace at which tasks
//! have been done so far, so that little has to be moved when a worker dies or gets stuck: one task where tasks take a
//! millisecond or more, some hundreds where they take microseconds.
//!
//! **Invariant:** a task that was sent is settled exactly once.
//!
//! The lock is held for bookkeeping and copies only. A forked child has a copy of the ledger that it must not use.

use super::lane::{self, Lane, LaneState};
use super::place::{Flight, Place};
use super::settled::{Because, Ended, Outcome, Room, Seat, Settled, Withdrawn};
use super::{number_of, record};
use crate::channel::{Envelope, Parcel};
use crate::process::{Child, Status};
use crate::shm::{Hold, Participant};
use crate::sync::signal;
use crate::sync::spin::Spin;
use crate::sys::clock::{self, Deadline};
use crate::sys::fork;
use crate::{Error, Result};
use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How much work a lane may hold, in nanoseconds at the pace so far.
const AHEAD: u64 = 2_000_000;
/// Tasks that take longer than this are handed out one by one.
const LONG: u64 = 1_000_000;
/// The most tasks in a lane.
const DEEPEST: u64 = 1024;
/// The most tasks that are handed out to one worker before the next one gets some.
const ROUND: usize = 64;
/// How many results are taken at once, so that who waits for them can begin.
const GULP: usize = 2048;
/// While lanes hold more than one task, workers may not tell of each result: look after this time.
const SLICE: u64 = 1_000_000;

#[derive(Debug)]
struct Again {
    id: u64,
    envelope: Envelope,
    kept: Option<Box<[u8]>>,
    weight: u32,
}

#[derive(Debug, Default)]
struct Book {
    places: Vec<Place>,
    again: VecDeque<Again>,
    next: u32,
    /// Nanoseconds that a task takes; zero while nobody knows.
    pace: u64,
    envelope: Envelope,
}

/// A ledger of tasks over workers. See [the module](super).
#[derive(Debug)]
pub struct Ledger {
    book: ManuallyDrop<Mutex<Book>>,
    hub: ManuallyDrop<Hold>,
    /// There are ends that nobody has dealt with.
    ends: AtomicBool,
    spin: Spin,
    born_in: i32,
}

impl Ledger {
    /// A ledger without workers.
    ///
    /// # Errors
    /// [`Error::TooMany`] if the session has no room for its words.
    pub fn new() -> Result<Ledger> {
        let hub = lane::new_hub()?;
        Ok(Ledger {
            book: ManuallyDrop::new(Mutex::default()),
            hub: ManuallyDrop::new(hub),
            ends: AtomicBool::new(false),
            spin: Spin::new(),
            born_in: fork::count(),
        })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a place for a worker, which may be sent `most` units in its life.
    ///
    /// # Errors
    /// [`Error::TooMany`] if the session has no room for its lane.
    pub fn open_seat(&self, most: Option<u32>) -> Result<Seat> {
        let lane = Lane::new(&self.hub)?;
        let handle = lane.hold.handle();
        let mut book = self.book();
        book.next += 1;
        let number = book.next;
        book.places.push(Place {
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
        });
        Ok(Seat { number, handle })
    }

    /// Takes back a place whose worker was not started.
    pub fn close_seat(&self, seat: u32) {
        let mut book = self.book();
        let place = book.places.iter().position(|place| place.number == seat).map(|at| book.places.swap_remove(at));
        drop(book);
        drop(place);
    }

    /// Lets a worker that will be exec'd find its lane.
    pub fn share_seat(&self, seat: u32, child: Participant) {
        if let Some(place) = self.book().places.iter().find(|place| place.number == seat) {
            place.lane.share_with(child);
        }
    }

    /// Says that a worker has ended and that what it held was swept. May be called from any thread.
    pub fn ended(&self, seat: u32, pid: i32, status: Status) {
        if let Some(place) = self.book().places.iter_mut().find(|place| place.number == seat) {
            let was_ready = place.lane.state().ready.load(Ordering::Acquire) != 0;
            let because = place.condemned.map(|(_, because)| because);
            place.ended.get_or_insert_with(|| Arc::new(Ended { seat, pid, status, was_ready, because }));
            self.ends.store(true, Ordering::SeqCst);
        }
        self.tell();
    }

    /// Says which process has the seat, so that it can be ended for the sake of a task.
    pub fn seated(&self, seat: u32, child: &Arc<Child>) {
        if let Some(place) = self.book().places.iter_mut().find(|place| place.number == seat) {
            place.child = Some(Arc::clone(child));
        }
    }

    /// Wakes all who [`Ledger::wait`].
    pub fn tell(&self) {
        signal::wake_all(&self.hub.state::<LaneState>().news);
    }

    /// Where tasks should go now; `None` while every worker has enough to do, or there is none. What waits to be done again
    /// goes first.
    pub fn room(&self) -> Option<Room> {
        self.book().room()
    }

    /// Puts a task into the lane of a seat, waking nobody ([`Ledger::wake`] does). The parcel's inline bytes begin with
    /// `id`, which is not zero. `kept` comes back when it is settled. `begins_unit` counts against what the worker may be
    /// sent. False if the seat is gone or may not be sent more; the parcel is then as it was, and `kept` is given back.
    ///
    /// # Errors
    /// [`Error::BudgetExhausted`].
    pub fn send(
        &self,
        seat: u32,
        id: u64,
        parcel: &mut Parcel<'_>,
        kept: &mut Option<Box<[u8]>>,
        begins_unit: bool,
    ) -> Result<bool> {
        debug_assert!(number_of(parcel.inline) == Some(id) && id != 0);
        let mut book = self.book();
        let Some(place) = book.places.iter_mut().find(|place| place.number == seat) else { return Ok(false) };
        if place.stopped || place.ended.is_some() {
            return Ok(false);
        }
        place.put(id, parcel, kept, begins_unit, 1)?;
        Ok(true)
    }

    /// As [`Ledger::send`], for a bundle of `weight` tasks, whose record is kept.
    ///
    /// # Errors
    /// [`Error::BudgetExhausted`].
    pub fn send_bundle(&self, seat: u32, id: u64, record: &[u8], weight: u32) -> Result<bool> {
        let mut parcel = Parcel::new(record::TASK, record)?;
        let mut book = self.book();
        let Some(place) = book.places.iter_mut().find(|place| place.number == seat) else { return Ok(false) };
        if place.stopped || place.ended.is_some() {
            return Ok(false);
        }
        place.put(id, &mut parcel, &mut Some(record.into()), true, weight)?;
        Ok(true)
    }

    /// As [`Ledger::send`], for a task that is all in its record, which is kept until it is settled. Gives the record back
    /// if the seat is gone or may not be sent more.
    ///
    /// # Errors
    /// [`Error::BudgetExhausted`].
    pub fn send_record(&self, seat: u32, id: u64, record: Box<[u8]>) -> Result<Option<Box<[u8]>>> {
        let mut parcel = Parcel::new(record::TASK, &record)?;
        let sent = self.send(seat, id, &mut parcel, &mut None, true)?;
        drop(parcel);
        if !sent {
            return Ok(Some(record));
        }
        if let Some(place) = self.book().places.iter_mut().find(|place| place.number == seat)
            && let Some(flight) = place.flight.iter_mut().rev().find(|flight| flight.id == id)
        {
            flight.kept = Some(record);
        }
        Ok(None)
    }

    /// Wakes the worker of a seat that was sent tasks.
    pub fn wake(&self, seat: u32) {
        if let Some(place) = self.book().places.iter_mut().find(|place| place.number == seat) {
            place.lane.tasks.tell();
            place.stop_if_spent();
        }
    }

    /// Collects what has come from the workers, and deals with those that have ended. True if there is more.
    pub fn drain(&self, settled: &mut Vec<Settled>) -> bool {
        let ends = self.ends.swap(false, Ordering::SeqCst);
        let mut book = self.book();
        let most = settled.len() + GULP;
        let (mut envelope, mut pace) = (std::mem::take(&mut book.envelope), book.pace);
        let mut more = false;
        for place in &mut book.places {
            more |= place.drain(&mut envelope, settled, most);
            place.measure(&mut pace);
        }
        book.pace = pace;
        if ends {
            more |= book.bury(&mut envelope, settled, most);
            if book.places.iter().any(|place| place.ended.is_some()) {
                self.ends.store(true, Ordering::SeqCst);
            }
        }
        book.envelope = envelope;
        if !book.again.is_empty() {
            book.dispatch_again();
        }
        more
    }

    /// Moves tasks from a worker that is stuck in a long one to one that has nothing to do. For when nothing else is left to
    /// be sent.
    pub fn balance(&self) {
        self.book().balance();
    }

    /// True if there is something to [`Ledger::drain`].
    pub fn has_news(&self) -> bool {
        self.ends.load(Ordering::SeqCst) || self.book().places.iter().any(|place| !place.lane.results.is_empty())
    }

    /// Waits for something to drain, or for `or`; may come back early.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Interrupted`].
    pub fn wait(&self, deadline: Deadline, or: impl Fn() -> bool) -> Result<()> {
        let come = || or() || self.has_news();
        if self.spin.until(come) {
            return Ok(());
        }
        let batched = self.book().places.iter().any(|place| place.flight.len() > 1);
        let until = if batched { deadline.within(SLICE) } else { deadline };
        match signal::wait(&self.hub.state::<LaneState>().news, until, come) {
            Err(Error::TimedOut) if !deadline.passed() => Ok(()),
            result => result,
        }
    }

    /// How many tasks were sent and are not settled, with those that wait to be sent again.
    pub fn unsettled(&self) -> usize {
        let book = self.book();
        book.again.len() + book.places.iter().map(|place| place.flight.len()).sum::<usize>()
    }

    /// Tells every worker to end once it has done what it has.
    pub fn stop(&self) {
        for place in &mut self.book().places {
            place.stop();
        }
    }

    /// Forgets every task and every worker: nothing is settled after this.
    pub fn abandon(&self) {
        let book = std::mem::take(&mut *self.book());
        drop(book);
        self.tell();
    }

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

    /// How many tasks this one is: more than one for a bundle.
    pub fn weight(&self, id: u64) -> u32 {
        let book = self.book();
        let flights = book.places.iter().flat_map(|place| &place.flight);
        let found = flights.filter(|flight| flight.id == id).map(|flight| flight.weight).next();
        found.or_else(|| book.again.iter().find(|task| task.id == id).map(|task| task.weight)).unwrap_or(1)
    }

    /// Takes back a task that was sent: out of its lane, or, if it runs, by ending its worker.
    pub fn withdraw(&self, id: u64) -> Withdrawn {
        let mut book = self.book();
        if let Some(at) = book.again.iter().position(|task| task.id == id) {
            book.again.remove(at);
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
        match book.again.iter().position(|task| task.id == id) {
            Some(at) => {
                book.again.remove(at);
                book.dispatch_again();
                Withdrawn::Unbegun
            }
            None => {
                book.dispatch_again();
                Withdrawn::Unknown
            }
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // A forked child has no part in it: neither in the lanes nor, perhaps, in the lock.
        if self.born_in == fork::count() {
            // SAFETY: dropped once, here.
            unsafe {
                ManuallyDrop::drop(&mut self.book);
                ManuallyDrop::drop(&mut self.hub);
            }
        }
    }
}

impl Book {
    fn depth(&self) -> usize {
        match self.pace {
            0 => 1,
            pace if pace >= LONG => 1,
            pace => (AHEAD / pace).clamp(2, DEEPEST) as usize,
        }
    }

    /// The seat with the least to do, if it may get more.
    fn shortest(&self) -> Option<usize> {
        let open = |place: &Place| !place.stopped && place.ended.is_none() && place.left > 0;
        let shortest = self.places.iter().enumerate().filter(|(_, place)| open(place));
        let (at, place) = shortest.min_by_key(|(_, place)| place.load)?;
        (place.load < self.depth()).then_some(at)
    }

    fn room(&mut self) -> Option<Room> {
        if !self.again.is_empty() {
            self.dispatch_again();
        }
        let place = &self.places[self.shortest()?];
        let depth = self.depth();
        let tasks = depth.saturating_sub(place.load).min(ROUND).min(place.left as usize);
        Some(Room {
            seat: place.number,
            tasks,
            ahead: place.flight.len(),
            depth: depth.saturating_sub(place.load),
            pace: self.pace,
        })
    }

    fn dispatch_again(&mut self) {
        while let Some(at) = self.shortest() {
            let Some(mut task) = self.again.pop_front() else { return };
            let place = &mut self.places[at];
            let mut parcel = task.envelope.as_parcel();
            if place.put(task.id, &mut parcel, &mut task.kept, true, task.weight).is_err() {
                // No memory for its lane now: it waits for another time.
                let (blocks, body_in_block) = (std::mem::take(&mut parcel.blocks), parcel.body_in_block);
                task.envelope.take_back(blocks, body_in_block);
                self.again.push_front(task);
                return;
            }
            place.lane.tasks.tell();
            place.stop_if_spent();
        }
    }

    /// Deals with the workers that have ended. True if there are results of theirs left to drain first.
    fn bury(&mut self, envelope: &mut Envelope, settled: &mut Vec<Settled>, most: usize) -> bool {
        let mut more = false;
        let mut at = 0;
        while at < self.places.len() {
            if self.places[at].ended.is_none() {
                at += 1;
                continue;
            }
            if self.places[at].drain(envelope, settled, most) {
                more = true;
                at += 1;
                continue;
            }
            let mut place = self.places.swap_remove(at);
            let Some(ended) = place.ended.take() else { continue };
            let mut envelope = Envelope::new();
            let mut unbegun = VecDeque::new();
            // What lies in its lane never began.
            while let Ok(true) = place.lane.tasks.try_get(&mut envelope, Deadline::Never) {
                if envelope.kind == record::TASK
                    && let Some(id) = number_of(&envelope.inline)
                    && let Some(Flight { kept, weight, .. }) = place.take(id)
                {
                    unbegun.push_back(Again { id, envelope: std::mem::take(&mut envelope), kept, weight });
                }
            }
            // What is in neither ring, it died in. There is at most one.
            let running = place.running().map_or(0, |(id, _)| id);
            for flight in std::mem::take(&mut place.flight) {
                if flight.weight > 1 && flight.id == running {
                    let (first, bytes) = place.added();
                    settled.push(Settled { id: flight.id, outcome: Outcome::Added(first, bytes), kept: None });
                }
                settled.push(Settled { id: flight.id, outcome: Outcome::Died(Arc::clone(&ended)), kept: flight.kept });
            }
            while let Some(task) = unbegun.pop_back() {
                self.again.push_front(task);
            }
            settled.push(Settled { id: 0, outcome: Outcome::Left(ended), kept: None });
        }
        more
    }

    fn balance(&mut self) {
        if !self.again.is_empty() {
            return self.dispatch_again();
        }
        let Some(idle) = self.shortest() else { return };
        if !self.places[idle].flight.is_empty() {
            return;
        }
        let now = clock::now();
        let stuck = |place: &Place| {
            let state = place.lane.state();
            place.flight.len() > 1
                && !place.stopped
                && place.ended.is_none()
                && state.running.load(Ordering::Acquire) != 0
                && now.saturating_sub(state.since.load(Ordering::Relaxed)) > LONG
        };
        let busiest = self.places.iter().filter(|place| stuck(place)).max_by_key(|place| place.flight.len());
        let Some(number) = busiest.map(|place| place.number) else { return };
        let Some(at) = self.places.iter().position(|place| place.number == number) else { return };
        let most = self.places[at].flight.len().div_ceil(2);
        self.take_back(at, most);
        self.dispatch_again();
    }

    /// Takes tasks that have not begun out of a lane, to be sent again.
    fn take_back(&mut self, at: usize, most: usize) {
        let place = &mut self.places[at];
        let mut envelope = Envelope::new();
        for _ in 0..most {
            // With Deadline::Now: the worker itself may be at it, even stopped there.
            if !matches!(place.lane.tasks.try_get(&mut envelope, Deadline::Now), Ok(true)) {
                break;
            }
            if envelope.kind == record::STOP {
                place.stopped = false;
                break;
            }
            let id = number_of(&envelope.inline).unwrap_or(0);
            if let Some(Flight { kept, weight, .. }) = place.take(id) {
                place.left = place.left.saturating_add(1);
                self.again.push_back(Again { id, envelope: std::mem::take(&mut envelope), kept, weight });
            }
        }
    }
}

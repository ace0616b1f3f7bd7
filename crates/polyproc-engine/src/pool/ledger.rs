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

use super::book::Book;
use super::lane::{self, Lane, LaneState};
use super::place::{Flight, Place};
use super::settled::{Ended, Life, Room, Seat, Settled, Terms};
use super::{number_of, record};
use crate::channel::Parcel;
use crate::process::{Child, Status};
use crate::shm::{Hold, Participant};
use crate::sync::signal;
use crate::sync::spin::Spin;
use crate::sys::clock::Deadline;
use crate::sys::{fork, memory};
use crate::{Error, Result};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// While every lane holds this much work, in nanoseconds, who waits sleeps at once: its processor is wanted.
const PLENTY: u64 = 100_000;
/// How many results are taken at once, so that who waits for them can begin.
const GULP: usize = 2048;
/// While lanes hold more than one task, workers may not tell of each result: look after this time.
const SLICE: u64 = 1_000_000;

/// A ledger of tasks over workers. See [the module](super).
#[derive(Debug)]
pub struct Ledger {
    book: ManuallyDrop<Mutex<Book>>,
    hub: ManuallyDrop<Hold>,
    /// There are ends that nobody has dealt with.
    ends: AtomicBool,
    spin: Spin,
    pub(super) born_in: i32,
    /// For the thread that looks after the memory of tasks, and whether there is one.
    pub(super) me: Weak<Ledger>,
    pub(super) overseen: AtomicBool,
    /// How often the kernel had killed for memory in our cgroup, when we last looked.
    kills: AtomicU64,
}

impl Ledger {
    /// A ledger without workers.
    ///
    /// # Errors
    /// [`Error::TooMany`] if the session has no room for its words.
    pub fn new() -> Result<Arc<Ledger>> {
        let hub = lane::new_hub()?;
        Ok(Arc::new_cyclic(|me| Ledger {
            book: ManuallyDrop::new(Mutex::default()),
            hub: ManuallyDrop::new(hub),
            ends: AtomicBool::new(false),
            spin: Spin::new(),
            born_in: fork::count(),
            me: Weak::clone(me),
            overseen: AtomicBool::new(false),
            kills: AtomicU64::new(memory::kills().unwrap_or(0)),
        }))
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a place for a worker, and says when it is to be replaced.
    ///
    /// # Errors
    /// [`Error::TooMany`] if the session has no room for its lane.
    pub fn open_seat(&self, life: Life) -> Result<Seat> {
        let lane = Lane::new(&self.hub, life.memory.unwrap_or(0))?;
        let handle = lane.hold.handle();
        let mut book = self.book();
        book.next += 1;
        let number = book.next;
        book.places.push(Place::new(number, lane, life.tasks));
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
            let was_ready = place.is_ready();
            let because = place.condemned.map(|(_, because)| because);
            let killed = matches!(status.code(), None | Some(-9)) && because.is_none();
            let kills = if killed { self.new_kills() } else { None };
            place.ended.get_or_insert_with(|| Arc::new(Ended { seat, pid, status, was_ready, because, kills }));
            // Its descriptor is of no more use.
            place.child = None;
            self.ends.store(true, Ordering::SeqCst);
        }
        self.tell();
    }

    /// How often the kernel has killed for memory in our cgroup: when we last looked, and now, if that is more.
    fn new_kills(&self) -> Option<(u64, u64)> {
        let now = memory::kills()?;
        let before = self.kills.fetch_max(now, Ordering::SeqCst);
        (now > before).then_some((before, now))
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
        self.room_for(0)
    }

    /// The same, for a task of this priority: what is less urgent and has not begun, is taken back, and waits.
    pub fn room_for(&self, priority: i32) -> Option<Room> {
        self.book().room(priority)
    }

    /// How many tasks all lanes together should hold at the pace so far: who draws tasks from somewhere need not draw more.
    pub fn appetite(&self) -> usize {
        let book = self.book();
        book.places.iter().filter(|place| place.is_open()).count() * book.depth()
    }

    /// Puts a task into the lane of a seat, waking nobody ([`Ledger::wake`] does). The parcel's inline bytes begin with
    /// `id`, which is not zero. `kept` comes back when it is settled. False if the seat is gone or may not be sent more; the parcel is then as it was, and `kept` is given back.
    ///
    /// # Errors
    /// [`Error::BudgetExhausted`].
    pub fn send(
        &self,
        seat: u32,
        id: u64,
        parcel: &mut Parcel<'_>,
        kept: &mut Option<Box<[u8]>>,
        terms: Terms,
    ) -> Result<bool> {
        debug_assert!(number_of(parcel.inline) == Some(id) && id != 0);
        let mut book = self.book();
        let Some(place) = book.places.iter_mut().find(|place| place.number == seat) else { return Ok(false) };
        if place.stopped || place.ended.is_some() {
            return Ok(false);
        }
        let flight = Flight::new(id, kept.take(), terms);
        if let Err((error, flight)) = place.put(flight, parcel, terms.begins_unit) {
            *kept = flight.kept;
            return Err(error);
        }
        drop(book);
        if terms.memory.is_some() {
            self.have_overseen()?;
        }
        Ok(true)
    }

    /// As [`Ledger::send`], for a bundle of tasks: its weight says how many there are.
    ///
    /// # Errors
    /// [`Error::BudgetExhausted`].
    pub fn send_bundle(&self, seat: u32, id: u64, record: &[u8], terms: Terms) -> Result<bool> {
        let mut parcel = Parcel::new(record::TASK, record)?;
        self.send(seat, id, &mut parcel, &mut None, terms)
    }

    /// As [`Ledger::send`], for a task that is all in its record, which is kept until it is settled. Gives the record back
    /// if the seat is gone or may not be sent more.
    ///
    /// # Errors
    /// [`Error::BudgetExhausted`].
    pub fn send_record(&self, seat: u32, id: u64, record: Box<[u8]>, terms: Terms) -> Result<Option<Box<[u8]>>> {
        let mut book = self.book();
        let place = book.places.iter_mut().find(|place| place.number == seat);
        let Some(place) = place.filter(|place| !place.stopped && place.ended.is_none()) else {
            return Ok(Some(record));
        };
        let mut parcel = Parcel::new(record::TASK, &record)?;
        place.put(Flight::new(id, None, terms), &mut parcel, terms.begins_unit).map_err(|(error, _)| error)?;
        drop(parcel);
        if let Some(flight) = place.flight.back_mut() {
            flight.kept = Some(record);
        }
        drop(book);
        if terms.memory.is_some() {
            self.have_overseen()?;
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

    /// Moves tasks from a worker that is stuck in a long one to one that has nothing to do; of a bundle, the worker is asked
    /// to give back what it has not begun. For when nothing else is left to be sent.
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
        let (plenty, batched) = {
            let book = self.book();
            let plenty = |place: &Place| place.load as u64 * book.pace > PLENTY;
            let batched = |place: &Place| place.load > 1;
            (!book.places.is_empty() && book.places.iter().all(plenty), book.places.iter().any(batched))
        };
        if !plenty && self.spin.until(come) {
            return Ok(());
        }
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

    /// Forgets every task and every worker: nothing is settled after this. Workers that have nothing to do are told to
    /// end: gives their seats.
    pub fn abandon(&self) -> Vec<u32> {
        let mut book = std::mem::take(&mut *self.book());
        let idle = book.places.iter_mut().filter(|place| place.flight.is_empty() && place.is_ready());
        let seats = idle.map(|place| {
            place.stop();
            place.number
        });
        let seats = seats.collect();
        drop(book);
        self.tell();
        seats
    }

    /// How many tasks this one is: more than one for a bundle.
    pub fn weight(&self, id: u64) -> u32 {
        let book = self.book();
        let flights = book.places.iter().flat_map(|place| &place.flight);
        let found = flights.filter(|flight| flight.id == id).map(|flight| flight.weight).next();
        found
            .or_else(|| book.again.values().find(|task| task.flight.id == id).map(|task| task.flight.weight))
            .unwrap_or(1)
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

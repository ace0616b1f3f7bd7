//! The ring: records of any size, many producers, many consumers, and no state that a death could leave half done.
//!
//! ```text
//!   cell:  put lock │ tail = items:32 | position:32 │ put segment        get lock │ head = items:32 | position:32 │ get segment
//!
//!   segment (a block)                                 next segment, twice as large
//!  ┌──────────────────────────────┬────────┬──────┐   ┌─────────────────────────────
//!  │ record │ record │ … (a ring) │ record │ link ├──▶│ record │ …
//!  └──────────────────────────────┴────────┴──────┘   └─────────────────────────────
//!   record = length:32 kind:8 blocks:8 flags:8 │ blocks × 16 │ body │ padding to 8
//! ```
//!
//! Positions count units of 8 bytes and only grow (they wrap at 2³²); a segment knows the position at which it begins. A
//! record is contiguous; a *wrap* record fills the end of a segment. When a ring that may grow has no room, a *link* record
//! names the next segment, so a producer never waits for space and never keeps an item in its own memory.
//!
//! **Invariant:** what lies between head and tail is complete records. Everything else is scratch.
//!
//! A put is: lock, copy, **one store of tail**, unlock; a get the same with head. Items and position are in one word, so the
//! number of items is exact. It is not lock-free: a lock-free queue whose producer dies between claiming a place and filling
//! it is stuck for ever, one whose lock names its owner is not.
//!
//! DEATH before the store of tail: nothing happened; the next producer writes over it. After it: the item is in. What else a
//! producer or consumer was about to do stands in `pending` (a segment that is being added) or `retired` (one that is being
//! left), which the next owner of the lock settles. A block that was tagged for an item which was never committed is found by
//! the sweep, while the dead still owns the lock.
//!
//! Two positions may lie outside of their segment, by one link record: after a death between the store of a segment's number
//! and that of the cursor. They are then taken as the segment's beginning ([`Segment::normal`]).

mod ends;
mod segment;
mod state;

use super::parcel::{Envelope, INLINE_MAX, Parcel};
use crate::shm::{self, Directory, Handle, Hold, Kind, Lease, Participant, Taken, Transit};
use crate::sync::signal;
use crate::sync::spin::{Linger, Spin};
use crate::sys::clock::Deadline;
use crate::sys::cpu;
use crate::{Error, Result, fault};
use segment::{BODY_IN_BLOCK, LINK, NAMES_IN_BLOCK, RecordHead, SEGMENT_HEAD, Segment, UNIT, WRAP, read};
use state::{Cursor, growth, len};
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) use ends::{carries, destroy, on_death};
pub(crate) use state::RingState;

/// The first segment of a ring that may grow: 64 KiB.
const FIRST_UNITS: u32 = 1 << 13;
/// The first segment of a ring that is expected to carry little: with its head it fits into one page.
const MODEST_UNITS: u32 = 1 << 8;
/// The largest segment that is made without need: 1 MiB.
const LARGEST_UNITS: u32 = 1 << 17;
/// The one segment of a ring that may not grow: 128 KiB, so that two of the largest records fit.
const FIXED_UNITS: u32 = 1 << 14;

/// How often a call that is not to wait looks whether a lock has become free.
const MOMENT: u32 = 50;

/// A ring, and this process's hold on it.
#[derive(Debug)]
pub(crate) struct Ring {
    hold: Hold,
    getting: Spin,
    putting: Spin,
    lingering: Linger,
    /// What the creator has set once, to be had without the other side's cache line.
    most: u32,
    fixed: bool,
}

impl Ring {
    /// A new ring of at most `most` items (0: any number). A `fixed` one does not grow.
    pub(crate) fn new(most: u32, fixed: bool) -> Result<Ring> {
        Ring::with_growth(most, if fixed { growth::NONE } else { growth::USUAL })
    }

    /// A new ring for any number of items that begins with one page.
    pub(crate) fn modest() -> Result<Ring> {
        Ring::with_growth(0, growth::MODEST)
    }

    fn with_growth(most: u32, growth: u32) -> Result<Ring> {
        let hold = shm::create::<RingState>(|state| {
            state.most.store(most, Ordering::Relaxed);
            state.growth.store(growth, Ordering::Relaxed);
        })?;
        Ok(Ring::of(hold))
    }

    pub(crate) fn from_handle(handle: Handle) -> Result<Ring> {
        Ok(Ring::of(Hold::take(handle, Kind::Ring)?))
    }

    fn of(hold: Hold) -> Ring {
        let state = hold.state::<RingState>();
        let (most, fixed) = (state.most.load(Ordering::Relaxed), state.growth.load(Ordering::Relaxed) == growth::NONE);
        Ring { hold, getting: Spin::new(), putting: Spin::new(), lingering: Linger::new(), most, fixed }
    }

    pub(crate) fn hold(&self) -> &Hold {
        &self.hold
    }

    #[inline]
    pub(crate) fn state(&self) -> &'static RingState {
        self.hold.state()
    }

    fn index(&self) -> u32 {
        self.hold.handle().cell
    }

    /// How many items it holds.
    pub(crate) fn len(&self) -> u32 {
        len(self.state())
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state();
        // ORDER: SeqCst: the second look of a sleeper, see `sync::signal`.
        Cursor::of(state.head.load(Ordering::SeqCst)).items == Cursor::of(state.tail.load(Ordering::SeqCst)).items
    }

    /// The most items it may hold; 0 means any number.
    pub(crate) fn most(&self) -> u32 {
        self.most
    }

    pub(crate) fn is_full(&self) -> bool {
        let most = self.most();
        most > 0 && self.len() >= most
    }

    /// Puts a parcel in.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if it stayed full, [`Error::Interrupted`], [`Error::BudgetExhausted`] if it cannot grow;
    /// [`Error::Busy`] only with [`Deadline::Now`]: another producer was at it.
    pub(crate) fn put(&self, parcel: &mut Parcel<'_>, deadline: Deadline, give_up: &dyn Fn() -> bool) -> Result<()> {
        loop {
            if self.try_put(parcel, deadline)? {
                return Ok(());
            }
            if give_up() {
                return Err(Error::BrokenPipe);
            }
            if deadline == Deadline::Now {
                return Err(Error::TimedOut);
            }
            let before = self.state().head.load(Ordering::SeqCst);
            let come = || self.state().head.load(Ordering::SeqCst) != before || give_up();
            if !self.is_full() && !self.fixed {
                continue;
            }
            if !self.putting.until(come) {
                signal::wait(&self.state().space, deadline, come)?;
            }
        }
    }

    /// Puts a parcel in if there is room now. It waits for other producers to be done, but not with [`Deadline::Now`].
    fn try_put(&self, parcel: &mut Parcel<'_>, deadline: Deadline) -> Result<bool> {
        let put = self.try_put_quietly(parcel, deadline)?;
        if put {
            self.tell();
        }
        Ok(put)
    }

    /// Wakes a consumer that sleeps, if there is something for it.
    #[inline]
    pub(crate) fn tell(&self) {
        let state = self.state();
        let watched = state.watched.load(Ordering::Relaxed) != 0;
        signal::notify(&state.items, if watched { u32::MAX } else { 1 });
    }

    /// Puts a parcel in if there is room now, and wakes nobody: the caller will [`Ring::tell`].
    pub(crate) fn try_put_quietly(&self, parcel: &mut Parcel<'_>, deadline: Deadline) -> Result<bool> {
        let state = self.state();
        let names = parcel.name_references()?;
        let head = RecordHead {
            length: parcel.inline.len() as u32,
            kind: parcel.kind,
            blocks: parcel.blocks.len() as u8,
            flags: if parcel.body_in_block { BODY_IN_BLOCK } else { 0 } | if names { NAMES_IN_BLOCK } else { 0 },
        };
        debug_assert!(parcel.inline.len() <= INLINE_MAX && parcel.kind <= Parcel::MOST_KIND);
        let locked = PutLock::take(self, deadline)?;
        fault!("ring.put_locked");
        let tail = Cursor::of(state.tail.load(Ordering::Relaxed));
        let most = self.most;
        // ORDER: Acquire, partner of the consumer's Release of head: it has read what we are going to write over.
        if most > 0 && tail.items.wrapping_sub(Cursor::of(state.head.load(Ordering::Acquire)).items) >= most {
            return Ok(false);
        }
        let Some((segment, position)) = self.room(tail.position, head.units())? else { return Ok(false) };
        let start = segment.at(position);
        // SAFETY: `room` has found head.units() contiguous units at this position, which no consumer reads before tail passes
        // them. Peers that break the rules can tear what is written here, which readers check.
        unsafe {
            let mut at = start.add(UNIT);
            for lease in &parcel.blocks {
                let handle = lease.handle();
                at.cast::<u32>().write(handle.cell);
                at.add(4).cast::<u32>().write(handle.generation);
                at.add(8).cast::<u64>().write(lease.len() as u64);
                at = at.add(16);
            }
            std::ptr::copy_nonoverlapping(parcel.inline.as_ptr(), at, parcel.inline.len());
        }
        segment.write_head(position, head);
        fault!("ring.after_copy");
        if !parcel.blocks.is_empty() {
            // The blocks are the ring's from here: tagged first, then no longer ours. If we die before the commit, the sweep
            // finds them by their tag, which names the item that this ring would have had next.
            for lease in parcel.blocks.drain(..) {
                lease.tag(Transit { ring: self.index(), item: tail.items });
                fault!("ring.tagged");
                lease.hand_over();
            }
        }
        let next = Cursor { items: tail.items.wrapping_add(1), position: position.wrapping_add(head.units()) };
        // ORDER: Release: who sees the new tail sees the record. This is the one store that commits.
        state.tail.store(next.bits(), Ordering::Release);
        fault!("ring.put_committed");
        if state.pending.load(Ordering::Relaxed) != 0 {
            state.pending.store(0, Ordering::Relaxed);
        }
        drop(locked);
        Ok(true)
    }

    /// Finds room for a record of `units`, adding a segment if need be. Under the put lock.
    fn room(&self, tail: u32, units: u32) -> Result<Option<(Segment, u32)>> {
        let state = self.state();
        let current = state.put_segment.load(Ordering::Relaxed);
        let fixed = self.fixed;
        if current == 0 {
            let least = if state.growth.load(Ordering::Relaxed) == growth::MODEST { MODEST_UNITS } else { FIRST_UNITS };
            let size = if fixed { FIXED_UNITS } else { least.max((units + 1).next_power_of_two()) };
            let segment = self.add_segment(tail, size, None)?;
            return Ok(Some((segment, tail)));
        }
        let segment = Segment::of(current)?;
        let tail = segment.normal(tail);
        let to_end = segment.to_end(tail);
        // What a producer has seen of head is seen by the next through the put lock. It can only be too low, and each look at
        // head itself would take the consumers' cache line away from them.
        let mut head = state.known_head.load(Ordering::Relaxed);
        for fresh in [false, true] {
            if fresh {
                head = Cursor::of(state.head.load(Ordering::Acquire)).position;
                state.known_head.store(head, Ordering::Relaxed);
            }
            // One unit always stays free, for the link.
            let free = segment.units.saturating_sub(tail.wrapping_sub(segment.normal(head))).saturating_sub(1);
            if units <= to_end && units <= free {
                return Ok(Some((segment, tail)));
            }
            if units > to_end && to_end + units <= free {
                segment.write_head(tail, RecordHead { length: 0, kind: WRAP, blocks: 0, flags: 0 });
                return Ok(Some((segment, tail.wrapping_add(to_end))));
            }
        }
        if fixed {
            return Ok(None);
        }
        let wanted = segment.units.saturating_mul(2).min(LARGEST_UNITS).max((units + 1).next_power_of_two());
        let next = self.add_segment(tail.wrapping_add(1), wanted, Some((segment, tail)))?;
        Ok(Some((next, next.base)))
    }

    /// Adds a segment that begins at position `base`, linked from `from`. Under the put lock.
    fn add_segment(&self, base: u32, units: u32, from: Option<(Segment, u32)>) -> Result<Segment> {
        let state = self.state();
        let lease = Lease::allocate(SEGMENT_HEAD + units as usize * UNIT)?;
        let handle = lease.handle();
        Segment::found(lease.as_ptr(), base, units);
        state.pending_generation.store(handle.generation, Ordering::Relaxed);
        state.pending.store(handle.cell, Ordering::Release);
        fault!("ring.segment_pending");
        lease.become_segment(self.index());
        fault!("ring.segment_owned");
        match from {
            Some((old, at)) => {
                let head = RecordHead { length: handle.cell, kind: LINK, blocks: 0, flags: 0 };
                old.write_head(at, head);
            }
            None => state.get_segment.store(handle.cell, Ordering::Release),
        }
        fault!("ring.segment_linked");
        state.put_segment.store(handle.cell, Ordering::Release);
        Segment::of(handle.cell)
    }

    /// Takes the oldest item out.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if it stayed empty, [`Error::Interrupted`], [`Error::Damaged`]; [`Error::Busy`] only with
    /// [`Deadline::Now`]: another consumer was at it.
    pub(crate) fn get(&self, envelope: &mut Envelope, deadline: Deadline) -> Result<()> {
        loop {
            if self.try_get(envelope, deadline)? {
                return Ok(());
            }
            if deadline == Deadline::Now {
                return Err(Error::TimedOut);
            }
            self.wait(deadline)?;
        }
    }

    /// As [`Ring::get`], from the one process that puts; [`Error::EndOfFile`] if that is dead and there is nothing.
    pub(crate) fn get_from(&self, producer: Participant, envelope: &mut Envelope, deadline: Deadline) -> Result<()> {
        let mut gone = false;
        loop {
            if self.try_get(envelope, deadline)? {
                return Ok(());
            }
            if gone {
                return Err(Error::EndOfFile);
            }
            if deadline == Deadline::Now {
                return Err(Error::TimedOut);
            }
            if !self.getting.until(|| !self.is_empty()) {
                fault!("ring.before_sleep");
                // Whether it lives is asked first: what it has put before it died is seen after.
                signal::wait(&self.state().items, deadline, || {
                    gone = shm::is_dead(producer);
                    gone || !self.is_empty()
                })?;
            }
        }
    }

    /// Spins for an item for as long as that has paid so far. True if there is one.
    pub(crate) fn spin_for_item(&self, or: impl Fn() -> bool) -> bool {
        self.getting.until(|| !self.is_empty() || or())
    }

    /// Waits for an item, and leaves it in.
    pub(crate) fn wait(&self, deadline: Deadline) -> Result<()> {
        if self.getting.until(|| !self.is_empty()) {
            self.lingering.linger(|| self.len());
            return Ok(());
        }
        fault!("ring.before_sleep");
        signal::wait(&self.state().items, deadline, || !self.is_empty())
    }

    /// Takes the oldest item out if there is one. It waits for other consumers to be done, but not with [`Deadline::Now`].
    pub(crate) fn try_get(&self, envelope: &mut Envelope, deadline: Deadline) -> Result<bool> {
        self.try_get_noting(envelope, deadline, |_| ())
    }

    /// As [`Ring::try_get`]; `note` sees the item before it counts as taken out, so that what it writes down is never
    /// missing for an item that is gone.
    #[inline]
    pub(crate) fn try_get_noting(
        &self,
        envelope: &mut Envelope,
        deadline: Deadline,
        note: impl FnOnce(&Envelope),
    ) -> Result<bool> {
        let state = self.state();
        let known = state.known_tail.load(Ordering::Relaxed);
        if Cursor::of(state.head.load(Ordering::Relaxed)).items == known && self.is_empty() {
            return Ok(false);
        }
        envelope.clear();
        let locked = GetLock::take(self, deadline)?;
        fault!("ring.get_locked");
        let head = Cursor::of(state.head.load(Ordering::Relaxed));
        if head.items == state.known_tail.load(Ordering::Relaxed) {
            // ORDER: Acquire, partner of the producer's Release of tail: the records are there. To other consumers this is
            // passed on by the get lock.
            let items = Cursor::of(state.tail.load(Ordering::Acquire)).items;
            if head.items == items {
                return Ok(false);
            }
            state.known_tail.store(items, Ordering::Relaxed);
        }
        let found = self.next_record(head.position).and_then(|(segment, position, record)| {
            read(segment, position, record, envelope)?;
            Ok(position.wrapping_add(record.units()))
        });
        let (next, outcome) = match found {
            Ok(position) => (Cursor { items: head.items.wrapping_add(1), position }, Ok(true)),
            // Nothing after a record that makes no sense can be trusted either.
            Err(error) => {
                let tail = Cursor::of(state.tail.load(Ordering::Acquire));
                state.known_tail.store(tail.items, Ordering::Relaxed);
                (tail, Err(error))
            }
        };
        if outcome.is_ok() {
            note(envelope);
        }
        fault!("ring.blocks_held");
        // ORDER: Release: we have read what a producer may now write over. This is the one store that commits.
        state.head.store(next.bits(), Ordering::Release);
        fault!("ring.get_committed");
        envelope.leases().for_each(Lease::untag);
        fault!("ring.tags_cleared");
        drop(locked);
        let watched = state.watched_too.load(Ordering::Relaxed) != 0;
        if watched {
            signal::notify(&state.space, u32::MAX);
        } else if self.most != 0 {
            signal::notify(&state.space, 1);
        } else if self.fixed {
            signal::notify(&state.space, u32::MAX);
        }
        outcome
    }

    /// The next record with an item, past wraps and links. Under the get lock.
    fn next_record(&self, position: u32) -> Result<(Segment, u32, RecordHead)> {
        let state = self.state();
        let mut segment = Segment::of(state.get_segment.load(Ordering::Acquire))?;
        let mut position = segment.normal(position);
        // No ring has more segments than this; a damaged one might have a circle of links.
        for _ in 0..1 << 20 {
            let record = segment.read_head(position);
            match record.kind {
                WRAP => position = position.wrapping_add(segment.to_end(position)),
                LINK => {
                    let (old, next) = (state.get_segment.load(Ordering::Relaxed), record.length);
                    segment = Segment::of(next)?;
                    position = segment.base;
                    state.retired_generation.store(shm::generation(old), Ordering::Relaxed);
                    state.retired.store(old, Ordering::Release);
                    fault!("ring.segment_retired");
                    state.get_segment.store(next, Ordering::Release);
                    fault!("ring.segment_passed");
                    self.settle_retired();
                }
                _ if record.units() <= segment.to_end(position) => return Ok((segment, position, record)),
                _ => return Err(Error::Damaged { what: "queue", detail: "a record is longer than its segment" }),
            }
        }
        Err(Error::Damaged { what: "queue", detail: "its segments form a circle" })
    }

    /// Gives the segment that was left back; after a death, finds out whether it was left. Under the get lock.
    fn settle_retired(&self) {
        let state = self.state();
        let retired = state.retired.load(Ordering::Acquire);
        if retired == 0 {
            return;
        }
        let handle = Handle { cell: retired, generation: state.retired_generation.load(Ordering::Relaxed) };
        if state.get_segment.load(Ordering::Relaxed) != retired {
            shm::free_segment(&Directory::open(), handle);
        }
        state.retired.store(0, Ordering::Release);
    }

    /// After a death under the put lock: gives a segment back that was not added. Under the put lock.
    fn settle_pending(&self) {
        let state = self.state();
        let pending = state.pending.load(Ordering::Acquire);
        if pending == 0 {
            return;
        }
        let handle = Handle { cell: pending, generation: state.pending_generation.load(Ordering::Relaxed) };
        if state.put_segment.load(Ordering::Relaxed) != pending {
            if state.get_segment.load(Ordering::Relaxed) == pending {
                state.get_segment.store(0, Ordering::Release);
            }
            shm::free_segment(&Directory::open(), handle);
        }
        state.pending.store(0, Ordering::Release);
    }

    /// From now on whoever puts or gets tells all who sleep, bells included.
    pub(crate) fn watch(&self) {
        self.state().watched.store(1, Ordering::SeqCst);
        self.state().watched_too.store(1, Ordering::SeqCst);
    }

    /// Says that one item which was taken out is finished.
    ///
    /// # Errors
    /// [`Error::ReleasedTooOften`] if all items are finished already.
    pub(crate) fn finish_one(&self) -> Result<()> {
        let state = self.state();
        let finished = state.done.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |done| {
            (done != Cursor::of(state.tail.load(Ordering::SeqCst)).items).then(|| done.wrapping_add(1))
        });
        match finished {
            Err(_) => Err(Error::ReleasedTooOften { what: "task" }),
            Ok(_) => {
                signal::notify(&state.finished, u32::MAX);
                Ok(())
            }
        }
    }

    /// How many items are not finished: those in the ring and those taken out.
    pub(crate) fn unfinished(&self) -> u32 {
        let state = self.state();
        let done = state.done.load(Ordering::SeqCst);
        Cursor::of(state.tail.load(Ordering::SeqCst)).items.wrapping_sub(done)
    }

    /// Waits until all items are finished.
    pub(crate) fn wait_finished(&self, deadline: Deadline) -> Result<()> {
        signal::wait(&self.state().finished, deadline, || self.unfinished() == 0)
    }
}

/// Takes one of the two locks. Only what happens under it is waited for, which is short, so the deadline does not count,
/// but for [`Deadline::Now`]: then it is waited for no longer than a spin.
#[inline]
fn take(word: &AtomicU32, deadline: Deadline) -> Result<Taken> {
    if let Some(taken) = shm::try_take(word, shm::me()) {
        return Ok(taken);
    }
    if deadline == Deadline::Now {
        for _ in 0..MOMENT {
            cpu::pause();
            if let Some(taken) = shm::try_take(word, shm::me()) {
                return Ok(taken);
            }
        }
        return Err(Error::Busy);
    }
    loop {
        if let Ok(taken) = shm::take(word, shm::me(), Deadline::Never, &shm::look_after) {
            return Ok(taken);
        }
    }
}

struct PutLock<'a>(&'a AtomicU32);

impl<'a> PutLock<'a> {
    fn take(ring: &'a Ring, deadline: Deadline) -> Result<PutLock<'a>> {
        let word = &ring.state().put_lock;
        let taken = take(word, deadline)?;
        let locked = PutLock(word);
        if taken == Taken::Abandoned {
            ring.settle_pending();
        }
        Ok(locked)
    }
}

impl Drop for PutLock<'_> {
    fn drop(&mut self) {
        shm::release(self.0);
    }
}

struct GetLock<'a>(&'a AtomicU32);

impl<'a> GetLock<'a> {
    fn take(ring: &'a Ring, deadline: Deadline) -> Result<GetLock<'a>> {
        let word = &ring.state().get_lock;
        let taken = take(word, deadline)?;
        let locked = GetLock(word);
        if taken == Taken::Abandoned {
            ring.settle_retired();
        }
        Ok(locked)
    }
}

impl Drop for GetLock<'_> {
    fn drop(&mut self) {
        shm::release(self.0);
    }
}

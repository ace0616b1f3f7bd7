//! What happens at a fork, whoever calls it: the child gets a name of its own, and holds what its parent holds.
//!
//! ```text
//!  prepare (parent)                                     child                         parent
//!  lock the local tables                                sign with the new name        close the child's
//!  reserve a slot, open the child's life descriptor     close the parent's life       life descriptor
//!  child holds all that the parent holds                unlock                        unlock
//!  leased blocks become private mappings
//! ```
//!
//! A received array is private to its receiver: after a fork what the child writes the parent does not see, and the other
//! way round. So each leased block is mapped anew, MAP_PRIVATE, in its place, before the fork: both then copy on write, and
//! the block's own pages stay as they are until both have dropped it.
//!
//! DEATH: a child that dies before it signs leaves a NEWBORN slot whose life byte nobody holds; a fork that fails leaves
//! the same, since the parent closes its copy. The sweep finds both.

use super::block;
use super::directory::HELD;
use super::local::{self, Local};
use super::participant::Participant;
use super::session::{exists, known};
use crate::{Result, fault, sys};
use std::cell::{Cell, UnsafeCell};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};

/// A slot that was reserved for a child which will be exec'd.
#[derive(Debug)]
pub struct Birth {
    /// The child's name.
    pub participant: Participant,
    /// Its life descriptor, to be handed to it, and then dropped here.
    pub life: OwnedFd,
}

/// Reserves a slot for a child that will be exec'd. What it is to hold is given to it by [`super::Hold::share_with`].
pub fn prepare_child() -> Result<Birth> {
    super::session::current()?;
    let (participant, life) = known().reserve_slot(local::me())?;
    Ok(Birth { participant, life })
}

struct Held(UnsafeCell<Option<MutexGuard<'static, Option<Local>>>>);
// SAFETY: only touched by the thread that forks, between its handlers, and the mutex itself keeps others out.
unsafe impl Sync for Held {}
static HELD_LOCK: Held = Held(UnsafeCell::new(None));

pub(super) fn watch() -> Result<()> {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if WATCHED.swap(true, Ordering::AcqRel) {
        return Ok(());
    }
    sys::fork::watch(before, in_parent, in_child)
}

extern "C" fn before() {
    if !exists() {
        return;
    }
    let me = local::me();
    let session = known();
    let reserved = session.reserve_slot(me);
    fault!("fork.reserved");
    let mut guard = local::lock();
    if let (Some(local), Ok((child, life))) = (guard.as_mut(), reserved) {
        for &cell in local.holds.keys().filter(|cell| !local.kept.contains(cell)) {
            session.holding(child.index(), cell).store(HELD, Ordering::Release);
        }
        for (&cell, lease) in &mut local.leases {
            session.holding(child.index(), cell).store(HELD, Ordering::Release);
            block::mark_shared(cell);
            if !lease.private {
                block::make_private(session, lease);
            }
        }
        fault!("fork.held");
        local.newborn = Some((child, life));
    }
    // SAFETY: this thread alone forks now: the mutex is ours.
    unsafe { *HELD_LOCK.0.get() = Some(guard) };
}

extern "C" fn in_parent() {
    // SAFETY: this thread put it there in `before`.
    let guard = unsafe { (*HELD_LOCK.0.get()).take() };
    if let Some(mut guard) = guard
        && let Some(local) = guard.as_mut()
    {
        // Closing our copy leaves the child's life to the child; if the fork failed, to nobody.
        let child = local.newborn.take().map_or(Participant::NOBODY, |(child, _)| child);
        LAST_FORKED.set(child);
    }
}

thread_local! {
    static LAST_FORKED: Cell<Participant> = const { Cell::new(Participant::NOBODY) };
}

/// The name of the child that this thread has forked last, for whoever is going to watch it. It is given once;
/// [`Participant::NOBODY`] where no place was left for the child, or the fork failed before one was reserved.
pub fn last_forked() -> Participant {
    LAST_FORKED.replace(Participant::NOBODY)
}

extern "C" fn in_child() {
    // SAFETY: this thread put it there in `before`.
    let guard = unsafe { (*HELD_LOCK.0.get()).take() };
    let Some(mut guard) = guard else { return };
    let Some(local) = guard.as_mut() else { return };
    // A fork does not copy the page tables of shared memory.
    local.populated.clear();
    for cell in std::mem::take(&mut local.kept) {
        local.holds.remove(&cell);
    }
    match local.newborn.take() {
        Some((me, life)) => {
            drop_life(local.life.replace(life));
            local::rename(me);
            fault!("fork.unsigned");
            known().sign(me);
        }
        None => {
            drop_life(local.life.take());
            local::rename(Participant::NOBODY);
        }
    }
}

/// For a child that came into being past all handlers (a bare clone), or for which no slot was left at its fork: signs now,
/// and holds from now on what its tables say.
#[cold]
pub(super) fn sign_in_late() -> Participant {
    let session = known();
    let reserved = match session.reserve_slot(Participant::NOBODY) {
        Ok((me, life)) => Ok((me, Some(life))),
        // A program that closes all its descriptors to become a daemon closes the session's as well.
        Err(_) => session.sign_without_life().map(|me| (me, None)),
    };
    let (me, life) = match reserved {
        Ok(reserved) => reserved,
        Err(error) => {
            // Without a name no lock could be taken safely. There is no one to return this to.
            log::error!("polyproc: this process cannot take part in its session: {error}");
            std::process::abort();
        }
    };
    let mut guard = local::lock();
    if let Some(local) = guard.as_mut() {
        local.populated.clear();
        for &cell in local.holds.keys().chain(local.leases.keys()) {
            session.holding(me.index(), cell).store(HELD, Ordering::Release);
            block::mark_shared(cell);
        }
        drop_life(std::mem::replace(&mut local.life, life));
    }
    local::rename(me);
    session.sign(me);
    me
}

/// Closes our copy of a life descriptor; unless the program has closed it, so that its number may be another file.
fn drop_life(life: Option<OwnedFd>) {
    if let Some(life) = life
        && !known().is_memory(&life)
    {
        std::mem::forget(life);
    }
}

/// Moves this process to another place in its session, one that was reserved for it, together with all that it holds. The
/// place that it had is swept.
pub(super) fn move_to(me: Participant, life: OwnedFd) {
    let session = known();
    let before = local::me();
    if before == me {
        return;
    }
    let mut guard = local::lock();
    let mut old_life = None;
    if let Some(local) = guard.as_mut() {
        for &cell in local.holds.keys() {
            session.holding(me.index(), cell).fetch_or(HELD, Ordering::AcqRel);
        }
        for &cell in local.leases.keys() {
            session.holding(me.index(), cell).fetch_or(HELD, Ordering::AcqRel);
            block::mark_shared(cell);
        }
        old_life = local.life.replace(life);
    }
    local::rename(me);
    drop(guard);
    session.sign(me);
    // DEATH: from here on the old place looks like that of a dead process, which is what it is to all others.
    drop(old_life);
    super::sweep::sweep(before);
}

/// The number of this process's life descriptor, for those who close descriptors wholesale and want to spare it.
pub fn life_descriptor() -> Option<RawFd> {
    local::lock().as_ref().and_then(|local| local.life.as_ref().map(AsRawFd::as_raw_fd))
}

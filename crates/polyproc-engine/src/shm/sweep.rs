//! The sweep: what a dead participant held is released, and everybody who may wait for it looks again.
//!
//! Whoever learns of a death does it: the supervisor of the dead process's parent, or a waiter that looks after the owner
//! of what it waits for. One sweeps at a time, and each step can be done twice, so a sweeper may die as well.
//!
//! **Order.** Blocks first: whether a block that was being sent arrived is decided by the ring, while the dead still owns
//! the ring's lock. Then everything else. The slot's new identity is the last store: until then the dead keeps its name.

use super::directory::{Directory, HELD, Kind, PASSING};
use super::local;
use super::lockword::{self, LockWord};
use super::participant::{FREE, NEWBORN, Participant, STATE};
use super::session::{Session, exists, known};
use crate::sys::clock::Deadline;
use crate::sys::{life, proc};
use crate::{fault, kinds};
use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

/// The pid of a participant, while its slot has not been given to another; `None` if it is not known.
pub fn pid_of(participant: Participant) -> Option<i32> {
    if !exists() {
        return None;
    }
    let slot = known().slot(participant.index());
    let pid = slot.pid.load(Ordering::Relaxed);
    let same = Participant::from_bits(slot.identity.load(Ordering::Acquire)) == participant;
    (same && pid != 0).then_some(pid)
}

/// True if the participant's process is dead, or has become another program.
///
/// Its life byte is free only then: see [`crate::sys::life`]. A process that closed all its descriptors (to become a
/// daemon) loses the lock but lives on, so its pid is asked for as well, on this rare path.
pub fn is_dead(participant: Participant) -> bool {
    if participant.is_nobody() || !exists() {
        return false;
    }
    let session = known();
    let slot = session.slot(participant.index());
    let identity = slot.identity.load(Ordering::Acquire);
    if Participant::from_bits(identity) != participant || identity & STATE == FREE {
        return true;
    }
    if participant == local::me() {
        return false;
    }
    if let Ok(memfd) = session.memfd()
        && !matches!(life::is_held(memfd.as_raw_fd(), u64::from(participant.index())), Ok(false))
    {
        return false;
    }
    if identity & STATE == NEWBORN {
        return true;
    }
    let (pid, signed) = (slot.pid.load(Ordering::Relaxed), slot.signed_at.load(Ordering::Relaxed));
    signed == 0 || !proc::is_running(pid, signed)
}

/// Sweeps the participant if it is dead. For those who wait for something that it owns.
pub(crate) fn look_after(participant: Participant) {
    if !is_dead(participant) {
        return;
    }
    if SWEEPING.get() {
        // The one lock of this kind that a sweep needs; the others are looked after by [`look_after_owner`].
        lockword::take_from_dead(&known().header().directory.0, participant);
    } else {
        sweep(participant);
    }
}

/// The same, for a lock that a sweep needs as well. A sweep that meets another dead process takes this lock from it, and
/// leaves the rest to the sweep of that one: there is only one turn.
pub(crate) fn look_after_owner(word: &LockWord, owner: Participant) {
    if !SWEEPING.get() {
        look_after(owner);
    } else if is_dead(owner) {
        lockword::take_from_dead(word, owner);
    }
}

/// Sweeps the dead among those that have taken something of an object. For those who wait for it to be given back.
pub(crate) fn look_after_takers(cell: u32) {
    let session = known();
    for index in 1..session.slots_top() {
        if session.holding(index, cell).load(Ordering::Relaxed) & !(HELD | PASSING) != 0 {
            look_after(Participant::from_bits(session.slot(index).identity.load(Ordering::Acquire)));
        }
    }
}

/// Sweeps every dead participant and tells how many they were.
pub fn sweep_dead() -> usize {
    if !exists() {
        return 0;
    }
    let session = known();
    (1..session.slots_top())
        .filter(|&index| {
            let identity = session.slot(index).identity.load(Ordering::Acquire);
            let participant = Participant::from_bits(identity);
            identity & STATE != FREE && is_dead(participant) && sweep(participant)
        })
        .count()
}

/// Releases all that a dead participant held. True if this call did it; false if it was done before.
///
/// The caller must know that the process is dead ([`is_dead`], or its pidfd is readable): a process that is only stopped
/// would wake up among locks that it no longer has.
pub fn sweep(dead: Participant) -> bool {
    if !exists() || dead.is_nobody() || dead == local::me() {
        return false;
    }
    let session = known();
    let _turn = Turn::take(session);
    let slot = session.slot(dead.index());
    let identity = slot.identity.load(Ordering::Acquire);
    if Participant::from_bits(identity) != dead || identity & STATE == FREE {
        return false;
    }
    fault!("sweep.begun");
    let death = Death {
        participant: dead,
        pid: slot.pid.load(Ordering::Relaxed),
        clean: slot.clean.load(Ordering::Acquire) != 0,
    };
    lockword::take_from_dead(&session.header().directory.0, dead);
    pass(session, &death, true);
    fault!("sweep.blocks_done");
    pass(session, &death, false);
    fault!("sweep.objects_done");
    // ORDER: Release: the slot's next owner finds its row of holdings clear.
    slot.identity.store(FREE | dead.next_life().bits(), Ordering::Release);
    log::debug!("polyproc: swept after the death of process {}", death.pid);
    true
}

/// One pass over all that the dead held: its blocks, or the rest.
fn pass(session: &'static Session, death: &Death, blocks: bool) {
    for index in 1..session.cells_top() {
        let row = session.holding(death.participant.index(), index);
        let holding = row.load(Ordering::Acquire);
        if holding == 0 {
            continue;
        }
        let kind = session.cell(index).kind();
        if (kind == Kind::Block) != blocks {
            continue;
        }
        kinds::on_death(kind, index, holding & !(HELD | PASSING), death);
        let directory = Directory::open();
        row.store(0, Ordering::Release);
        directory.free_if_unused(index);
    }
}

/// What is known of a dead participant.
pub(crate) struct Death {
    pub participant: Participant,
    /// Zero if it never signed.
    pub pid: i32,
    /// It said that it would end ([`super::leave`]).
    pub clean: bool,
}

/// The turn to sweep. A sweeper that died is not swept first (that would need a turn): its turn is taken from it.
struct Turn {
    session: &'static Session,
}

thread_local! {
    /// This thread has the turn.
    static SWEEPING: Cell<bool> = const { Cell::new(false) };
}

impl Turn {
    fn take(session: &'static Session) -> Turn {
        let word = &session.header().sweep.0;
        let take_over = |owner: Participant| {
            if is_dead(owner) {
                lockword::take_from_dead(word, owner);
            }
        };
        while lockword::take(word, local::me(), Deadline::Never, &take_over).is_err() {}
        SWEEPING.set(true);
        Turn { session }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        SWEEPING.set(false);
        lockword::release(&self.session.header().sweep.0);
    }
}

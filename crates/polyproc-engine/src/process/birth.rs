//! Birth: what a new process needs to take part, and the two ways to make one.
//!
//! *Fork*: the child has the session's mapping already, and its place in it comes from the fork handlers of
//! [`crate::shm`]; it arms its lifeline with the number of its parent's descriptor.
//!
//! *Exec*: the parent prepares an [`Estate`]: three descriptors and the child's name in the session. It travels beside the
//! program as a line of text that names the descriptors by number, or in whatever form the face prefers; the child
//! [`accept`]s it before any code of the program runs.
//!
//! DEATH: a parent that dies between preparing and starting leaves a reserved place whose life descriptor is closed, which
//! the sweep finds. A child that dies before it accepts is the same to everybody.

use super::lifeline;
use crate::shm::{self, Participant};
use crate::sys::spawn;
use crate::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// What an exec'd child is given: its place in the session, and its lifeline.
#[derive(Debug)]
pub struct Estate {
    participant: Participant,
    life: OwnedFd,
    memory: RawFd,
    lifeline: RawFd,
}

/// Prepares the estate of one child of this process, and makes the session if there is none. Drop it once the child is
/// started (or has failed to).
pub fn prepare() -> Result<Estate> {
    let lifeline = lifeline::own()?;
    let birth = shm::prepare_child()?;
    let memory = shm::descriptors()?.memfd;
    Ok(Estate { participant: birth.participant, life: birth.life, memory, lifeline })
}

impl Estate {
    /// The child's name in the session: what it shall hold from the beginning is given to this name.
    pub fn participant(&self) -> Participant {
        self.participant
    }

    /// The session memory, the life descriptor and the lifeline. The child must have all three.
    pub fn descriptors(&self) -> [RawFd; 3] {
        [self.memory, self.life.as_raw_fd(), self.lifeline]
    }

    /// The same, borrowed for as long as the estate is there.
    pub fn borrowed(&self) -> [BorrowedFd<'_>; 3] {
        // SAFETY: the session memory and the lifeline stay open in this process, the life descriptor is ours.
        self.descriptors().map(|fd| unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// The estate as a line for a child that has the descriptors under the same numbers: see [`accept_line`].
    pub fn to_line(&self) -> String {
        let [memory, life, lifeline] = self.descriptors();
        format!("{memory},{life},{lifeline},{}", self.participant.bits())
    }
}

/// In the child: takes its place in the session and arms the lifeline. Gives the lifeline's descriptor.
///
/// # Errors
/// What [`shm::attach`] and [`lifeline::arm`] say.
///
/// # Safety
/// The descriptors must be open, and nobody else's: those of an [`Estate`] that was prepared for this process.
pub unsafe fn accept(memory: RawFd, life: RawFd, lifeline: RawFd, participant: Participant) -> Result<RawFd> {
    // SAFETY: the caller says that it is open; it stays open for as long as this process lives.
    let descriptor = unsafe { BorrowedFd::borrow_raw(lifeline) };
    lifeline::arm(descriptor)?;
    // SAFETY: the caller gives them to us.
    unsafe { shm::attach(memory, life, participant)? };
    Ok(lifeline)
}

/// In a server that outlives whoever started it: takes its place in the session, with no lifeline. What ends it is its own
/// affair.
///
/// # Errors
/// What [`shm::attach`] says.
///
/// # Safety
/// As [`accept`].
pub unsafe fn accept_without_lifeline(memory: RawFd, life: RawFd, participant: Participant) -> Result<()> {
    // SAFETY: what the caller promised.
    unsafe { shm::attach(memory, life, participant) }
}

/// As [`accept`], from what [`Estate::to_line`] gave.
///
/// # Errors
/// [`Error::Damaged`] if the line is not one of these.
///
/// # Safety
/// As [`accept`].
pub unsafe fn accept_line(line: &str) -> Result<RawFd> {
    let damaged =
        || Error::Damaged { what: "start of a process", detail: "what its parent handed down does not parse" };
    let numbers: Vec<u32> =
        line.split(',').map(str::parse).collect::<std::result::Result<_, _>>().map_err(|_| damaged())?;
    let [memory, life, lifeline, participant] = numbers[..] else { return Err(damaged()) };
    // SAFETY: what the caller promised.
    unsafe { accept(memory as RawFd, life as RawFd, lifeline as RawFd, Participant::from_bits(participant)) }
}

/// Forks. `None` in the child, which has its place in the session by then and whose lifeline is armed; the child's pid in
/// the parent.
///
/// # Errors
/// [`Error::Os`]. In the child it can be the lifeline that fails; the child must then end.
///
/// # Safety
/// As [`spawn::fork`].
pub unsafe fn fork() -> Result<Option<i32>> {
    shm::current()?;
    let lifeline = lifeline::own()?;
    // SAFETY: what the caller promised.
    match unsafe { spawn::fork() }? {
        0 => {
            // SAFETY: the fork has copied the descriptor, and nobody closes it here.
            lifeline::arm(unsafe { BorrowedFd::borrow_raw(lifeline) })?;
            Ok(None)
        }
        pid => Ok(Some(pid)),
    }
}

//! A lock that outlives its holder.
//!
//! Anyone may release it, as Python's `Lock` allows: holding is a matter of processes, and only the death of the holder's
//! process matters to the engine. What the next holder gets then is the lock, and the news ([`Acquired::HolderDied`]):
//! what the lock guards may be half done.

use crate::shm::{self, CellState, Death, Handle, Hold, Kind, Participant, Taken};
use crate::sys::clock::Deadline;
use crate::{Error, Result};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// | field | written by | order |
/// | --- | --- | --- |
/// | word | see [`crate::shm`] | |
/// | dead | the sweeper, before it marks the word | Release |
#[derive(Debug)]
#[repr(C)]
struct LockState {
    word: AtomicU32,
    dead: AtomicI32,
}

// SAFETY: plain atomics, 8 bytes.
unsafe impl CellState for LockState {
    const KIND: Kind = Kind::Lock;
}

/// How a lock was acquired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// Its last holder released it.
    Clean,
    /// Its last holder died holding it: what it guards may be half done.
    HolderDied {
        /// The pid of the dead.
        pid: i32,
    },
}

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its name in the session.
    pub participant: Participant,
    /// Its pid.
    pub pid: i32,
}

/// A lock between processes.
///
/// # Examples
/// ```
/// use polyproc_engine::{Deadline, sync::{Acquired, Lock}};
/// let lock = Lock::new()?;
/// assert_eq!(lock.acquire(Deadline::Never)?, Acquired::Clean);
/// assert!(lock.acquire(Deadline::Now).is_err());
/// lock.release()?;
/// # Ok::<(), polyproc_engine::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Lock {
    hold: Hold,
    /// In the session's mapping, which lives as long as the program.
    state: &'static LockState,
}

impl Lock {
    /// A new lock, free.
    pub fn new() -> Result<Lock> {
        Ok(Lock::of(shm::create::<LockState>(|_| {})?))
    }

    /// The lock of a handle.
    pub fn from_handle(handle: Handle) -> Result<Lock> {
        Ok(Lock::of(Hold::take(handle, Kind::Lock)?))
    }

    /// This process's hold on it.
    pub fn hold(&self) -> &Hold {
        &self.hold
    }

    fn of(hold: Hold) -> Lock {
        let state = hold.state();
        Lock { hold, state }
    }

    #[inline]
    fn state(&self) -> &'static LockState {
        self.state
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Interrupted`].
    #[inline]
    pub fn acquire(&self, deadline: Deadline) -> Result<Acquired> {
        let state = self.state();
        match shm::take(&state.word, shm::me(), deadline, &shm::look_after)? {
            Taken::Clean => Ok(Acquired::Clean),
            Taken::Abandoned => Ok(Acquired::HolderDied { pid: state.dead.load(Ordering::Acquire) }),
        }
    }

    /// Takes the lock if one instruction does it: it is free, nobody waits, and its last holder did not die. False says only
    /// that [`Lock::acquire`] has more to do.
    #[inline]
    pub fn acquire_free(&self) -> bool {
        // ORDER: as in the lock word's own `try_take`.
        self.state.word.compare_exchange(0, shm::me().bits(), Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Gives the lock back, whoever took it; false if nobody holds it.
    #[inline]
    pub fn release_taken(&self) -> bool {
        let taken = !shm::owner(&self.state.word).is_nobody();
        if taken {
            shm::release(&self.state.word);
        }
        taken
    }

    /// Gives the lock back, whoever took it.
    ///
    /// # Errors
    /// [`Error::ReleasedTooOften`] if nobody holds it. A lock that was taken from a dead holder may be released once for it.
    #[inline]
    pub fn release(&self) -> Result<()> {
        if self.release_taken() || shm::forgive(&self.state.word) {
            return Ok(());
        }
        Err(Error::ReleasedTooOften { what: "lock" })
    }

    /// Who holds it now.
    pub fn holder(&self) -> Option<Holder> {
        let participant = shm::owner(&self.state().word);
        (!participant.is_nobody()).then(|| Holder { participant, pid: shm::pid_of(participant).unwrap_or(0) })
    }

    /// True if anybody holds it.
    pub fn is_locked(&self) -> bool {
        !shm::owner(&self.state().word).is_nobody()
    }

    /// True if a thread of this process holds it.
    pub fn is_mine(&self) -> bool {
        shm::is_owned_by(&self.state().word, shm::me())
    }
}

/// True if the process has the lock of this cell.
pub(crate) fn is_taken_by(cell: u32, process: Participant) -> bool {
    shm::is_owned_by(&shm::cell(cell).state::<LockState>().word, process)
}

pub(crate) fn on_death(cell: u32, death: &Death) {
    let state = shm::cell(cell).state::<LockState>();
    if shm::is_owned_by(&state.word, death.participant) {
        state.dead.store(death.pid, Ordering::Release);
    }
    shm::take_from_dead(&state.word, death.participant);
}

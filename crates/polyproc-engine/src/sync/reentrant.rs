//! A lock that its holder, one thread of one process, may take again.

use super::{Acquired, Holder};
use crate::shm::{self, CellState, Death, Handle, Hold, Kind, Participant, Taken};
use crate::sys::clock::Deadline;
use crate::sys::proc;
use crate::{Error, Result};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// | field | written by | order |
/// | --- | --- | --- |
/// | word | see [`crate::shm`] | |
/// | thread, count | the holder; zero before it releases | Relaxed: read as its own only by the thread that wrote it |
/// | dead | the sweeper, before it marks the word | Release |
///
/// DEATH: thread and count are left as they were; the next holder overwrites them.
#[derive(Debug)]
#[repr(C)]
struct ReentrantState {
    word: AtomicU32,
    dead: AtomicI32,
    thread: AtomicI32,
    count: AtomicU32,
}

// SAFETY: plain atomics, 16 bytes.
unsafe impl CellState for ReentrantState {
    const KIND: Kind = Kind::ReentrantLock;
}

/// A lock between processes that the thread which holds it may take again.
#[derive(Clone, Debug)]
pub struct ReentrantLock {
    hold: Hold,
    /// In the session's mapping, which lives as long as the program.
    state: &'static ReentrantState,
}

impl ReentrantLock {
    /// A new lock, free.
    pub fn new() -> Result<ReentrantLock> {
        Ok(ReentrantLock::of(shm::create::<ReentrantState>(|_| {})?))
    }

    /// The lock of a handle.
    pub fn from_handle(handle: Handle) -> Result<ReentrantLock> {
        Ok(ReentrantLock::of(Hold::take(handle, Kind::ReentrantLock)?))
    }

    /// This process's hold on it.
    pub fn hold(&self) -> &Hold {
        &self.hold
    }

    fn of(hold: Hold) -> ReentrantLock {
        let state = hold.state();
        ReentrantLock { hold, state }
    }

    #[inline]
    fn state(&self) -> &'static ReentrantState {
        self.state
    }

    /// Takes the lock, or takes it once more.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Interrupted`].
    #[inline]
    pub fn acquire(&self, deadline: Deadline) -> Result<Acquired> {
        let state = self.state();
        if self.is_mine() {
            state.count.store(state.count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            return Ok(Acquired::Clean);
        }
        let taken = shm::take(&state.word, shm::me(), deadline, &shm::look_after)?;
        state.thread.store(proc::thread(), Ordering::Relaxed);
        state.count.store(1, Ordering::Relaxed);
        Ok(match taken {
            Taken::Clean => Acquired::Clean,
            Taken::Abandoned => Acquired::HolderDied { pid: state.dead.load(Ordering::Acquire) },
        })
    }

    /// Takes the lock if one instruction does it: see [`super::Lock::acquire_free`].
    #[inline]
    pub fn acquire_free(&self) -> bool {
        let state = self.state;
        // ORDER: as in the lock word's own `try_take`.
        let free = state.word.compare_exchange(0, shm::me().bits(), Ordering::Acquire, Ordering::Relaxed).is_ok();
        if free {
            state.thread.store(proc::thread(), Ordering::Relaxed);
            state.count.store(1, Ordering::Relaxed);
        }
        free
    }

    /// Gives the lock back once; false if the calling thread does not hold it.
    #[inline]
    pub fn release_taken(&self) -> bool {
        let mine = self.is_mine();
        if mine {
            self.give_once();
        }
        mine
    }

    #[inline]
    fn give_once(&self) {
        // Only the holder writes the count.
        let left = self.state.count.load(Ordering::Relaxed).saturating_sub(1);
        self.state.count.store(left, Ordering::Relaxed);
        if left == 0 {
            self.state.thread.store(0, Ordering::Relaxed);
            shm::release(&self.state.word);
        }
    }

    /// Gives the lock back once.
    ///
    /// # Errors
    /// [`Error::NotHolder`] if the calling thread does not hold it.
    #[inline]
    pub fn release(&self) -> Result<()> {
        if self.release_taken() { Ok(()) } else { Err(Error::NotHolder { what: "reentrant lock", who: "thread" }) }
    }

    /// How often the calling thread has taken it; 0 if it does not hold it.
    pub fn count(&self) -> u32 {
        if self.is_mine() { self.state().count.load(Ordering::Relaxed) } else { 0 }
    }

    /// How often its holder, whoever that is, has taken it.
    pub fn holder_count(&self) -> u32 {
        if self.is_locked() { self.state().count.load(Ordering::Relaxed) } else { 0 }
    }

    /// Who holds it now, and in which thread.
    pub fn holder(&self) -> Option<(Holder, i32)> {
        let state = self.state();
        let participant = shm::owner(&state.word);
        (!participant.is_nobody()).then(|| {
            let pid = shm::pid_of(participant).unwrap_or(0);
            (Holder { participant, pid }, state.thread.load(Ordering::Relaxed))
        })
    }

    /// True if anybody holds it.
    pub fn is_locked(&self) -> bool {
        !shm::owner(&self.state().word).is_nobody()
    }

    /// True if the calling thread holds it.
    #[inline]
    pub fn is_mine(&self) -> bool {
        let state = self.state();
        shm::is_owned_by(&state.word, shm::me()) && state.thread.load(Ordering::Relaxed) == proc::thread()
    }
}

/// True if the process has the lock of this cell.
pub(crate) fn is_taken_by(cell: u32, process: Participant) -> bool {
    shm::is_owned_by(&shm::cell(cell).state::<ReentrantState>().word, process)
}

pub(crate) fn on_death(cell: u32, death: &Death) {
    let state = shm::cell(cell).state::<ReentrantState>();
    if shm::is_owned_by(&state.word, death.participant) {
        state.dead.store(death.pid, Ordering::Release);
    }
    shm::take_from_dead(&state.word, death.participant);
}

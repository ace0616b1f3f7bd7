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
}

impl ReentrantLock {
    /// A new lock, free.
    pub fn new() -> Result<ReentrantLock> {
        Ok(ReentrantLock { hold: shm::create::<ReentrantState>(|_| {})? })
    }

    /// The lock of a handle.
    pub fn from_handle(handle: Handle) -> Result<ReentrantLock> {
        Ok(ReentrantLock { hold: Hold::take(handle, Kind::ReentrantLock)? })
    }

    /// This process's hold on it.
    pub fn hold(&self) -> &Hold {
        &self.hold
    }

    fn state(&self) -> &'static ReentrantState {
        self.hold.state()
    }

    /// Takes the lock, or takes it once more.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Interrupted`].
    pub fn acquire(&self, deadline: Deadline) -> Result<Acquired> {
        let state = self.state();
        if self.is_mine() {
            state.count.fetch_add(1, Ordering::Relaxed);
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

    /// Gives the lock back once.
    ///
    /// # Errors
    /// [`Error::NotHolder`] if the calling thread does not hold it.
    pub fn release(&self) -> Result<()> {
        if !self.is_mine() {
            return Err(Error::NotHolder { what: "reentrant lock", who: "thread" });
        }
        let state = self.state();
        if state.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            state.thread.store(0, Ordering::Relaxed);
            shm::release(&state.word);
        }
        Ok(())
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

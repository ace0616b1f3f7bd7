//! Something that is done once, by one of all processes; if that one dies over it, by the next.
//!
//! A lock word says who is at it, and one store that it is done. DEATH before that store: whoever comes next, or waits, gets the
//! turn, and the news. After it: it is done.

use crate::shm::{self, CellState, Death, Handle, Hold, Kind, Participant, Taken};
use crate::sys::clock::Deadline;
use crate::{Result, fault};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// | field | written by | order |
/// | --- | --- | --- |
/// | word | see [`crate::shm`] | |
/// | done | who has the turn and has done it; never cleared | Release |
/// | dead | the sweeper, before it marks the word | Release |
#[repr(C)]
struct OnceState {
    word: AtomicU32,
    done: AtomicU32,
    dead: AtomicI32,
}

// SAFETY: plain atomics, 12 bytes.
unsafe impl CellState for OnceState {
    const KIND: Kind = Kind::Once;
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It was done before.
    Done,
    /// The caller's: it ends with [`Once::finish`] or [`Once::give_up`]. `died` is the pid of a process that died over it.
    Mine {
        /// Who had the turn before and died.
        died: Option<i32>,
    },
}

/// Something that is to be done once.
///
/// # Examples
/// ```
/// use polyproc_engine::{Deadline, sync::{Begun, Once}};
/// let once = Once::new()?;
/// assert_eq!(once.begin(Deadline::Never)?, Begun::Mine { died: None });
/// once.finish();
/// assert_eq!(once.begin(Deadline::Never)?, Begun::Done);
/// # Ok::<(), polyproc_engine::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Once {
    hold: Hold,
}

impl Once {
    /// Something that nobody has done.
    pub fn new() -> Result<Once> {
        Ok(Once { hold: shm::create::<OnceState>(|_| {})? })
    }

    /// The object of a handle.
    pub fn from_handle(handle: Handle) -> Result<Once> {
        Ok(Once { hold: Hold::take(handle, Kind::Once)? })
    }

    /// This process's hold on it.
    pub fn hold(&self) -> &Hold {
        &self.hold
    }

    fn state(&self) -> &'static OnceState {
        self.hold.state()
    }

    /// True if it is done. What was written before [`Once::finish`] is then seen.
    #[inline]
    pub fn is_done(&self) -> bool {
        // ORDER: Acquire, partner of the Release in `finish`.
        self.state().done.load(Ordering::Acquire) != 0
    }

    /// Takes the turn, waiting for whoever has it; unless it is done.
    ///
    /// # Errors
    /// [`crate::Error::TimedOut`], [`crate::Error::Interrupted`].
    pub fn begin(&self, deadline: Deadline) -> Result<Begun> {
        if self.is_done() {
            return Ok(Begun::Done);
        }
        let state = self.state();
        let taken = shm::take(&state.word, shm::me(), deadline, &shm::look_after)?;
        if self.is_done() {
            shm::release(&state.word);
            return Ok(Begun::Done);
        }
        let died = (taken == Taken::Abandoned).then(|| state.dead.load(Ordering::Acquire));
        Ok(Begun::Mine { died })
    }

    /// Says that it is done, and ends the caller's turn.
    pub fn finish(&self) {
        let state = self.state();
        state.done.store(1, Ordering::Release);
        fault!("once.done");
        shm::release(&state.word);
    }

    /// Ends the caller's turn; the next one has to do it.
    pub fn give_up(&self) {
        shm::release(&self.state().word);
    }
}

/// True if the process has the turn.
pub(crate) fn is_taken_by(cell: u32, process: Participant) -> bool {
    shm::is_owned_by(&shm::cell(cell).state::<OnceState>().word, process)
}

pub(crate) fn on_death(cell: u32, death: &Death) {
    let state = shm::cell(cell).state::<OnceState>();
    if shm::is_owned_by(&state.word, death.participant) {
        state.dead.store(death.pid, Ordering::Release);
    }
    shm::take_from_dead(&state.word, death.participant);
}

//! A lock that many may share to read, or one have alone to write, and that outlives all of them.
//!
//! Its words lie in a [monitor](super::monitor), with what each process has of them in that process's own row: so the sweep
//! knows how many shares a dead reader had, and gives them back; and the end of a dead writer is news for whoever comes next
//! ([`Acquired::HolderDied`]), as with [`super::Lock`]. A reader cannot repair what the dead writer left half done, so readers
//! are told as well, until a writer has been.
//!
//! **Nobody starves.** A writer that waits keeps new readers out. A writer that is done lets up to [`PASSES_MOST`] readers pass
//! those who wait to write. So between two writers readers come in, and between so many readers a writer.
//!
//! DEATH: of a reader: its shares come back. Of a writer: the lock is free, and the news waits. Of one that waits to write: it
//! no longer keeps readers out.

use super::monitor::Monitor;
use super::{Acquired, Holder, signal};
use crate::shm::{self, CellState, Death, Handle, Hold, Kind, Participant};
use crate::sys::clock::Deadline;
use crate::{Error, Result};
use std::sync::atomic::Ordering;

/// Shares given to readers.
const READERS: usize = 0;
/// The process that has it to write.
const WRITER: usize = 1;
/// How many wait to write.
const WAITING: usize = 2;
/// The pid of a writer that died, with [`DIED`]; 0 once a writer was told.
const DEAD: usize = 3;
/// How many readers may still pass those who wait to write.
const PASSES: usize = 4;

const DIED: u32 = 1 << 31;
/// How many readers may pass a writer that waits, after each writer.
pub const PASSES_MOST: u32 = 16;

/// A process's count: its shares, its threads that wait to write, and whether it writes.
const SHARES: u32 = (1 << 14) - 1;
const ONE_WAITING: u32 = 1 << 14;
const WRITES: u32 = 1 << 28;

/// All of it as in [`Monitor`].
#[repr(C)]
struct RwLockState {
    monitor: Monitor<5>,
}

// SAFETY: plain atomics, 56 bytes.
unsafe impl CellState for RwLockState {
    const KIND: Kind = Kind::RwLock;
}

/// A read-write lock between processes. Its threads are the process's: a share that one thread took another may give back.
///
/// # Examples
/// ```
/// use polyproc_engine::{Deadline, sync::RwLock};
/// let lock = RwLock::new()?;
/// lock.read(Deadline::Never)?;
/// lock.read(Deadline::Never)?;
/// assert!(lock.write(Deadline::Now).is_err());
/// lock.release_read()?;
/// lock.release_read()?;
/// lock.write(Deadline::Never)?;
/// lock.release_write()?;
/// # Ok::<(), polyproc_engine::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RwLock {
    hold: Hold,
}

/// What an attempt to write came to.
enum Attempt {
    Taken(Acquired),
    Refused,
}

fn news(words: &[u32; 5]) -> Acquired {
    match words[DEAD] {
        0 => Acquired::Clean,
        dead => Acquired::HolderDied { pid: (dead & !DIED) as i32 },
    }
}

impl RwLock {
    /// A new lock, free.
    pub fn new() -> Result<RwLock> {
        Ok(RwLock { hold: shm::create::<RwLockState>(|_| {})? })
    }

    /// The lock of a handle.
    pub fn from_handle(handle: Handle) -> Result<RwLock> {
        Ok(RwLock { hold: Hold::take(handle, Kind::RwLock)? })
    }

    /// This process's hold on it.
    pub fn hold(&self) -> &Hold {
        &self.hold
    }

    fn monitor(&self) -> &'static Monitor<5> {
        &self.hold.state::<RwLockState>().monitor
    }

    fn change<R>(&self, change: impl FnOnce(&mut [u32; 5], &mut u32) -> R) -> R {
        self.monitor().change(self.hold.handle().cell, change)
    }

    /// Takes a share. A process has at most 16383; one that wants more waits until it has given some back.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Interrupted`].
    pub fn read(&self, deadline: Deadline) -> Result<Acquired> {
        let monitor = self.monitor();
        loop {
            let taken = self.change(|words, count| {
                let barred = words[WRITER] != 0 || (words[WAITING] > 0 && words[PASSES] == 0);
                if barred || *count & SHARES == SHARES {
                    return None;
                }
                if words[WAITING] > 0 {
                    words[PASSES] -= 1;
                }
                words[READERS] += 1;
                *count += 1;
                Some(news(words))
            });
            if let Some(acquired) = taken {
                return Ok(acquired);
            }
            let cell = self.hold.handle().cell;
            let has_all = || shm::holding(shm::me(), cell).load(Ordering::Relaxed) & SHARES == SHARES;
            let may =
                || monitor.peek(WRITER) == 0 && (monitor.peek(WAITING) == 0 || monitor.peek(PASSES) > 0) && !has_all();
            signal::wait_for_takers(&monitor.signal, cell, deadline, may)?;
        }
    }

    /// Takes all of it. Whoever gets the news of a writer's death here is the last to be told.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Interrupted`].
    pub fn write(&self, deadline: Deadline) -> Result<Acquired> {
        if let Attempt::Taken(acquired) = self.attempt(deadline != Deadline::Now, false) {
            return Ok(acquired);
        }
        if deadline == Deadline::Now {
            return Err(Error::TimedOut);
        }
        let monitor = self.monitor();
        loop {
            let free = || monitor.peek(WRITER) == 0 && monitor.peek(READERS) == 0;
            if let Err(error) = signal::wait_for_takers(&monitor.signal, self.hold.handle().cell, deadline, free) {
                self.change(|words, count| {
                    words[WAITING] = words[WAITING].saturating_sub(1);
                    *count = count.saturating_sub(ONE_WAITING);
                });
                // Readers that were kept out by this one.
                signal::notify(&monitor.signal, u32::MAX);
                return Err(error);
            }
            if let Attempt::Taken(acquired) = self.attempt(false, true) {
                return Ok(acquired);
            }
        }
    }

    /// Takes all of it if it is free; otherwise counts this thread among those who wait if `enqueue`. `waits`: it is among them.
    fn attempt(&self, enqueue: bool, waits: bool) -> Attempt {
        let me = shm::me().bits();
        self.change(|words, count| {
            if words[WRITER] != 0 || words[READERS] != 0 {
                if enqueue {
                    words[WAITING] += 1;
                    *count += ONE_WAITING;
                }
                return Attempt::Refused;
            }
            if waits {
                words[WAITING] = words[WAITING].saturating_sub(1);
                *count = count.saturating_sub(ONE_WAITING);
            }
            let acquired = news(words);
            words[WRITER] = me;
            words[DEAD] = 0;
            *count |= WRITES;
            Attempt::Taken(acquired)
        })
    }

    /// Gives a share back.
    ///
    /// # Errors
    /// [`Error::NotHolder`] if this process has none.
    pub fn release_read(&self) -> Result<()> {
        let last = self.change(|words, count| {
            if *count & SHARES == 0 {
                return None;
            }
            words[READERS] = words[READERS].saturating_sub(1);
            *count -= 1;
            // Whoever waits to write; or a thread of this process, which had as many as it may have.
            Some(words[READERS] == 0 || *count & SHARES == SHARES - 1)
        });
        match last {
            Some(true) => signal::notify(&self.monitor().signal, u32::MAX),
            Some(false) => {}
            None => return Err(Error::NotHolder { what: "read-write lock", who: "process" }),
        }
        Ok(())
    }

    /// Gives it back, after [`RwLock::write`].
    ///
    /// # Errors
    /// [`Error::NotHolder`] if this process does not have it to write.
    pub fn release_write(&self) -> Result<()> {
        let me = shm::me().bits();
        let mine = self.change(|words, count| {
            let mine = words[WRITER] == me;
            if mine {
                words[WRITER] = 0;
                words[PASSES] = PASSES_MOST;
                *count &= !WRITES;
            }
            mine
        });
        if !mine {
            return Err(Error::NotHolder { what: "read-write lock", who: "process" });
        }
        signal::notify(&self.monitor().signal, u32::MAX);
        Ok(())
    }

    /// How many shares readers have at this moment.
    pub fn readers(&self) -> u32 {
        self.monitor().peek(READERS)
    }

    /// Who has it to write.
    pub fn writer(&self) -> Option<Holder> {
        let participant = Participant::from_bits(self.monitor().peek(WRITER));
        (!participant.is_nobody()).then(|| Holder { participant, pid: shm::pid_of(participant).unwrap_or(0) })
    }
}

pub(crate) fn on_death(cell: u32, _count: u32, death: &Death) {
    let monitor = &shm::cell(cell).state::<RwLockState>().monitor;
    monitor.change_for_dead(cell, death.participant, |words, count| {
        words[READERS] = words[READERS].saturating_sub(*count & SHARES);
        words[WAITING] = words[WAITING].saturating_sub((*count & !WRITES) / ONE_WAITING);
        if *count & WRITES != 0 {
            words[WRITER] = 0;
            words[DEAD] = DIED | death.pid as u32;
        }
        *count = 0;
    });
}

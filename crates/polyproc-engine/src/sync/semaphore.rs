//! A counting semaphore that takes back the permits of the dead.
//!
//! Programs use semaphores in two ways. As a gate: who acquires also releases; then the permits of a process that was
//! killed are wanted back. As a counter: one process releases what another acquires; then a permit that was taken is spent.
//! The semaphore watches which of the two it is: once somebody has released what it did not hold, or when the dead had
//! ended of its own will, nothing comes back.

use super::monitor::Monitor;
use super::signal;
use crate::shm::{self, CellState, Death, Handle, Hold, Kind};
use crate::sys::clock::Deadline;
use crate::{Error, Result};

const VALUE: usize = 0;
const MOST: usize = 1;
const COUNTER: usize = 2;

/// Words: value, the most it may have, and whether it is used as a counter. A process's count: permits that it took and did
/// not release.
#[repr(C)]
struct SemaphoreState {
    monitor: Monitor<3>,
}

// SAFETY: plain atomics, 40 bytes.
unsafe impl CellState for SemaphoreState {
    const KIND: Kind = Kind::Semaphore;
}

/// A semaphore between processes.
#[derive(Clone, Debug)]
pub struct Semaphore {
    hold: Hold,
}

impl Semaphore {
    /// The most permits that a semaphore can have.
    pub const MAX: u32 = i32::MAX as u32;

    /// A new semaphore with `value` permits, which never has more than `most`.
    pub fn new(value: u32, most: Option<u32>) -> Result<Semaphore> {
        let most = most.unwrap_or(Semaphore::MAX);
        Ok(Semaphore { hold: shm::create::<SemaphoreState>(|s| s.monitor.prepare([value, most, 0]))? })
    }

    /// The semaphore of a handle.
    pub fn from_handle(handle: Handle) -> Result<Semaphore> {
        Ok(Semaphore { hold: Hold::take(handle, Kind::Semaphore)? })
    }

    /// This process's hold on it.
    pub fn hold(&self) -> &Hold {
        &self.hold
    }

    fn monitor(&self) -> &'static Monitor<3> {
        &self.hold.state::<SemaphoreState>().monitor
    }

    /// Takes one permit.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Interrupted`].
    pub fn acquire(&self, deadline: Deadline) -> Result<()> {
        let (monitor, cell) = (self.monitor(), self.hold.handle().cell);
        loop {
            let taken = monitor.change(cell, |words, count| {
                let some = words[VALUE] > 0;
                if some {
                    words[VALUE] -= 1;
                    *count += 1;
                }
                some
            });
            if taken {
                return Ok(());
            }
            // Permits come back from the dead only if somebody sweeps them.
            signal::wait_for_takers(&monitor.signal, cell, deadline, || monitor.peek(VALUE) > 0)?;
        }
    }

    /// Gives `permits` back, or adds them.
    ///
    /// # Errors
    /// [`Error::ReleasedTooOften`] if the semaphore would have more than its most.
    pub fn release(&self, permits: u32) -> Result<()> {
        let monitor = self.monitor();
        monitor.change(self.hold.handle().cell, |words, count| {
            if permits > words[MOST].saturating_sub(words[VALUE]) {
                return Err(Error::ReleasedTooOften { what: "semaphore" });
            }
            words[VALUE] += permits;
            if permits > *count {
                words[COUNTER] = 1;
            }
            *count = count.saturating_sub(permits);
            Ok(())
        })?;
        signal::notify(&monitor.signal, permits);
        Ok(())
    }

    /// How many permits there are at this moment.
    pub fn value(&self) -> u32 {
        self.monitor().peek(VALUE)
    }

    /// The most permits it may have.
    pub fn most(&self) -> u32 {
        self.monitor().peek(MOST)
    }
}

pub(crate) fn on_death(cell: u32, _count: u32, death: &Death) {
    let monitor = &shm::cell(cell).state::<SemaphoreState>().monitor;
    monitor.change_for_dead(cell, death.participant, |words, count| {
        if !death.clean && words[COUNTER] == 0 {
            words[VALUE] = words[VALUE].saturating_add(*count).min(words[MOST]);
        }
        *count = 0;
    });
}

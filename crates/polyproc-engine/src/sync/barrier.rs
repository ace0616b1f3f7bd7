//! A meeting point of a fixed number of parties.
//!
//! The states are those of Python's `threading.Barrier`:
//!
//! ```text
//!            the last party has come                 the last party has gone
//!   filling ─────────────────────────▶ draining ─────────────────────────────▶ filling
//!      │ reset, while some wait                             ▲ the last has gone
//!      ├──────────────────────────▶ resetting ──────────────┘
//!      │ abort, a timeout, a dead party
//!      └──────────────────────────▶ broken ── reset ──▶ filling or resetting
//! ```
//!
//! DEATH of a party that was waiting: the barrier breaks, so that the others need not wait for ever.

use super::monitor::Monitor;
use super::signal;
use crate::shm::{self, CellState, Death, Handle, Hold, Kind};
use crate::sys::clock::Deadline;
use crate::{Error, Result};

const PARTIES: usize = 0;
const INSIDE: usize = 1;
const STATE: usize = 2;

const FILLING: u32 = 0;
const DRAINING: u32 = 1;
const RESETTING: u32 = 2;
const BROKEN: u32 = 3;

/// Words: parties, how many are inside, state. A process's count: its parties that are inside.
#[repr(C)]
struct BarrierState {
    monitor: Monitor<3>,
}

// SAFETY: plain atomics, 40 bytes.
unsafe impl CellState for BarrierState {
    const KIND: Kind = Kind::Barrier;
}

/// What [`Barrier::enter`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// How many were inside before, from 0.
    pub index: u32,
    /// All parties are here: the caller opens the barrier, after it has done what is to be done once.
    pub last: bool,
}

/// A barrier between processes.
///
/// A party calls [`Barrier::enter`]; then the last one calls [`Barrier::open`], the others [`Barrier::wait`]; at the end each
/// calls [`Barrier::leave`], whatever happened in between.
#[derive(Clone, Debug)]
pub struct Barrier {
    hold: Hold,
}

impl Barrier {
    /// A barrier of `parties`, at least 1.
    pub fn new(parties: u32) -> Result<Barrier> {
        Ok(Barrier { hold: shm::create::<BarrierState>(|s| s.monitor.prepare([parties.max(1), 0, FILLING]))? })
    }

    /// The barrier of a handle.
    pub fn from_handle(handle: Handle) -> Result<Barrier> {
        Ok(Barrier { hold: Hold::take(handle, Kind::Barrier)? })
    }

    /// This process's hold on it.
    pub fn hold(&self) -> &Hold {
        &self.hold
    }

    fn monitor(&self) -> &'static Monitor<3> {
        &self.hold.state::<BarrierState>().monitor
    }

    fn change<R>(&self, change: impl FnOnce(&mut [u32; 3], &mut u32) -> R) -> R {
        self.monitor().change(self.hold.handle().cell, change)
    }

    /// Comes in, after those of the last round have gone.
    ///
    /// # Errors
    /// [`Error::BrokenBarrier`], [`Error::TimedOut`] (only while those of the last round are going), [`Error::Interrupted`].
    pub fn enter(&self, deadline: Deadline) -> Result<Arrival> {
        let monitor = self.monitor();
        loop {
            signal::wait_for_takers(&monitor.signal, self.hold.handle().cell, deadline, || {
                match monitor.peek(STATE) {
                    FILLING => monitor.peek(INSIDE) < monitor.peek(PARTIES),
                    state => state == BROKEN,
                }
            })?;
            let entered = self.change(|words, count| match words[STATE] {
                BROKEN => Err(Error::BrokenBarrier),
                FILLING if words[INSIDE] < words[PARTIES] => {
                    let index = words[INSIDE];
                    words[INSIDE] += 1;
                    *count += 1;
                    Ok(Some(Arrival { index, last: words[INSIDE] == words[PARTIES] }))
                }
                _ => Ok(None),
            })?;
            if let Some(arrival) = entered {
                return Ok(arrival);
            }
        }
    }

    /// Waits inside until the last party opens. A timeout breaks the barrier.
    ///
    /// # Errors
    /// [`Error::BrokenBarrier`]; [`Error::Interrupted`]: call again, or leave.
    pub fn wait(&self, deadline: Deadline) -> Result<()> {
        let monitor = self.monitor();
        let open = || monitor.peek(STATE) != FILLING;
        match signal::wait_for_takers(&monitor.signal, self.hold.handle().cell, deadline, open) {
            Err(Error::TimedOut) => self.abort_if(|state| state == FILLING),
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        if monitor.peek(STATE) == DRAINING { Ok(()) } else { Err(Error::BrokenBarrier) }
    }

    /// Lets all go on. Called by the last party.
    pub fn open(&self) {
        self.change(|words, _| {
            if words[STATE] == FILLING {
                words[STATE] = DRAINING;
            }
        });
        signal::notify(&self.monitor().signal, u32::MAX);
    }

    /// Goes out.
    pub fn leave(&self) {
        self.change(|words, count| {
            *count = count.saturating_sub(1);
            go(words, 1);
        });
        signal::notify(&self.monitor().signal, u32::MAX);
    }

    /// Breaks the barrier: all who are inside, and all who come, get [`Error::BrokenBarrier`].
    pub fn abort(&self) {
        self.abort_if(|_| true);
    }

    fn abort_if(&self, when: impl Fn(u32) -> bool) {
        self.change(|words, _| {
            if when(words[STATE]) {
                words[STATE] = BROKEN;
            }
        });
        signal::notify(&self.monitor().signal, u32::MAX);
    }

    /// Makes the barrier as new; those who are inside get [`Error::BrokenBarrier`].
    pub fn reset(&self) {
        self.change(|words, _| {
            words[STATE] = match (words[INSIDE], words[STATE]) {
                (0, _) => FILLING,
                (_, FILLING | BROKEN) => RESETTING,
                (_, other) => other,
            };
        });
        signal::notify(&self.monitor().signal, u32::MAX);
    }

    /// How many it takes.
    pub fn parties(&self) -> u32 {
        self.monitor().peek(PARTIES)
    }

    /// How many are waiting inside.
    pub fn waiting(&self) -> u32 {
        let monitor = self.monitor();
        if monitor.peek(STATE) == FILLING { monitor.peek(INSIDE) } else { 0 }
    }

    /// True if the barrier is broken.
    pub fn is_broken(&self) -> bool {
        self.monitor().peek(STATE) == BROKEN
    }
}

fn go(words: &mut [u32; 3], parties: u32) {
    words[INSIDE] = words[INSIDE].saturating_sub(parties);
    if words[INSIDE] == 0 && matches!(words[STATE], DRAINING | RESETTING) {
        words[STATE] = FILLING;
    }
}

pub(crate) fn on_death(cell: u32, _count: u32, death: &Death) {
    let monitor = &shm::cell(cell).state::<BarrierState>().monitor;
    monitor.change_for_dead(cell, death.participant, |words, count| {
        if *count > 0 {
            if words[STATE] == FILLING {
                words[STATE] = BROKEN;
            }
            go(words, *count);
            *count = 0;
        }
    });
}

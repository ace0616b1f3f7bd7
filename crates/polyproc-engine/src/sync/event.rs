//! A flag to wait for.

use super::signal;
use crate::Result;
use crate::shm::{self, CellState, Handle, Hold, Kind};
use crate::sys::clock::Deadline;
use std::sync::atomic::{AtomicU32, Ordering};

const SET: u32 = 1;
const TIMES: u32 = 2;

/// | field | written by | order |
/// | --- | --- | --- |
/// | flag | who sets or clears it, one store: `times set:31 | set:1` | SeqCst, before the signal |
/// | signal | see [`super::signal`] | |
#[repr(C)]
struct EventState {
    flag: AtomicU32,
    signal: AtomicU32,
}

// SAFETY: plain atomics, 8 bytes.
unsafe impl CellState for EventState {
    const KIND: Kind = Kind::Event;
}

/// An event between processes. [`Event::set`] never waits, so it may be called anywhere, in a signal handler as well.
#[derive(Clone, Debug)]
pub struct Event {
    hold: Hold,
}

impl Event {
    /// A new event, not set.
    pub fn new() -> Result<Event> {
        Ok(Event { hold: shm::create::<EventState>(|_| {})? })
    }

    /// The event of a handle.
    pub fn from_handle(handle: Handle) -> Result<Event> {
        Ok(Event { hold: Hold::take(handle, Kind::Event)? })
    }

    /// This process's hold on it.
    pub fn hold(&self) -> &Hold {
        &self.hold
    }

    fn state(&self) -> &'static EventState {
        self.hold.state()
    }

    /// Sets the flag and wakes all who wait.
    pub fn set(&self) {
        let state = self.state();
        let _ = state.flag.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |flag| {
            (flag & SET == 0).then(|| flag.wrapping_add(TIMES) | SET)
        });
        signal::notify(&state.signal, u32::MAX);
    }

    /// Clears the flag. Those who sleep look again in vain, but for bells, which fall silent.
    pub fn clear(&self) {
        let state = self.state();
        if state.flag.fetch_and(!SET, Ordering::SeqCst) & SET != 0 {
            signal::notify(&state.signal, u32::MAX);
        }
    }

    /// The word that changes, if anybody sleeps on it, when the flag does.
    pub(crate) fn signal(&self) -> &'static AtomicU32 {
        &self.state().signal
    }

    /// True if the flag is set.
    pub fn is_set(&self) -> bool {
        self.state().flag.load(Ordering::SeqCst) & SET != 0
    }

    /// Waits until the flag is set, be it that it has been cleared again since.
    ///
    /// # Errors
    /// [`crate::Error::TimedOut`], [`crate::Error::Interrupted`].
    pub fn wait(&self, deadline: Deadline) -> Result<()> {
        self.wait_since(self.times_set(), deadline)
    }

    /// How often the flag was set so far, for [`Event::wait_since`].
    pub fn times_set(&self) -> u32 {
        self.state().flag.load(Ordering::SeqCst) / TIMES
    }

    /// Waits until the flag is set or was set since [`Event::times_set`] was asked: for those who call again after a signal.
    ///
    /// # Errors
    /// [`crate::Error::TimedOut`], [`crate::Error::Interrupted`].
    pub fn wait_since(&self, times: u32, deadline: Deadline) -> Result<()> {
        let state = self.state();
        let come = || {
            let flag = state.flag.load(Ordering::SeqCst);
            flag & SET != 0 || flag / TIMES != times
        };
        signal::wait(&state.signal, deadline, come)
    }
}

pub(crate) fn on_death(cell: u32) {
    signal::wake_all(&shm::cell(cell).state::<EventState>().signal);
}

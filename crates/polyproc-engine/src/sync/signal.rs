//! A word to sleep on until something has changed: who changes it pays nothing while nobody sleeps.
//!
//! ```text
//!   31 ........................ 1        0
//!  ┌─────────────────────────────┬──────────┐
//!  │ sequence                    │ sleepers │
//!  └─────────────────────────────┴──────────┘
//!
//!  sleeper                                 changer
//!  1 look; if it has come, done            a change what is waited for
//!  2 sequence+1, sleepers=1                b fence
//!  3 fence                                 c sleepers=0? done
//!  4 look again; if it has come, done      d sequence+1
//!  5 sleep while the word is as in 2       e wake; woke fewer than asked and the word is as in d? sleepers=0
//! ```
//!
//! **Why no wake is lost.** The fences order 2 before 4 and a before c. So either the sleeper's second look (4) sees the
//! change, or the changer (c) sees the flag; then d makes a sleeper that has not yet reached 5 fall through, and e wakes one
//! that has. The flag is taken back only when e found no more sleepers *and* nobody has registered since, because
//! registering changes the sequence. The module's tests hold this in loom.
//!
//! DEATH: a flag left by a dead sleeper costs the next changer one idle call. A sleeper that dies after it was woken has
//! swallowed the wake: the sweep calls [`wake_all`] on all that the dead held, and each sleeper looks again once a second.

use crate::sys::clock::Deadline;
use crate::sys::futex::{Woken, Word};
use crate::{Error, Result, fault, shm, sys};
use std::sync::atomic::Ordering;

const SLEEPERS: u32 = 1;
const STEP: u32 = 2;
const LONGEST_SLEEP: u64 = 1_000_000_000;
const FIRST_SLICE: u64 = 50_000_000;
/// After a slice of this length a signal may have been waiting to be noticed for most of a second.
const LOOK_UP: u64 = 400_000_000;

/// Sleeps until `come()` is true.
///
/// # Errors
/// [`Error::TimedOut`], [`Error::Interrupted`].
pub fn wait(word: &impl Word, deadline: Deadline, come: impl FnMut() -> bool) -> Result<()> {
    wait_in_slices(word, deadline, LONGEST_SLEEP, come, || ())
}

/// Sleeps until `come()` is true, and asks from time to time whether those still live who could make it true.
///
/// # Errors
/// As [`wait`].
pub(crate) fn wait_for_takers(
    word: &impl Word,
    cell: u32,
    deadline: Deadline,
    come: impl FnMut() -> bool,
) -> Result<()> {
    wait_in_slices(word, deadline, FIRST_SLICE, come, || shm::look_after_takers(cell))
}

fn wait_in_slices(
    word: &impl Word,
    deadline: Deadline,
    mut slice: u64,
    mut come: impl FnMut() -> bool,
    look_after: impl Fn(),
) -> Result<()> {
    loop {
        if come() {
            return Ok(());
        }
        if deadline.passed() {
            return Err(Error::TimedOut);
        }
        let registered = register(word);
        fault!("signal.registered");
        if come() {
            return Ok(());
        }
        match word.wait(registered, deadline.within(slice)) {
            Woken::Look => {}
            Woken::TimedOut if deadline.passed() => {}
            Woken::TimedOut => {
                look_after();
                if slice >= LOOK_UP {
                    sys::signal::look_up()?;
                }
                slice = (slice * 2).min(LONGEST_SLEEP);
            }
            Woken::Interrupted => return Err(Error::Interrupted),
        }
    }
}

/// Steps 2 and 3 of a sleeper; gives the value to sleep on.
pub fn register<W: Word>(word: &W) -> u32 {
    let mut seen = word.load(Ordering::Relaxed);
    loop {
        let next = seen.wrapping_add(STEP) | SLEEPERS;
        // ORDER: SeqCst with the fence: partner of the fence in `notify`.
        match word.compare_exchange(seen, next, Ordering::SeqCst, Ordering::Relaxed) {
            Ok(_) => {
                W::fence();
                return next;
            }
            Err(now) => seen = now,
        }
    }
}

/// Wakes at most `count` sleepers, after the caller has changed what they wait for.
#[inline]
pub fn notify<W: Word>(word: &W, count: u32) {
    // ORDER: SeqCst: what the caller changed comes before the look at the flag. Partner of the fence in `register`.
    W::fence();
    let seen = word.load(Ordering::Relaxed);
    if seen & SLEEPERS != 0 {
        wake(word, seen, count);
    }
}

#[cold]
fn wake(word: &impl Word, mut seen: u32, count: u32) {
    let bumped = loop {
        if seen & SLEEPERS == 0 {
            return;
        }
        let next = seen.wrapping_add(STEP);
        match word.compare_exchange(seen, next, Ordering::SeqCst, Ordering::Relaxed) {
            Ok(_) => break next,
            Err(now) => seen = now,
        }
    };
    fault!("signal.bumped");
    if word.wake(count) < count {
        let _ = word.compare_exchange(bumped, bumped & !SLEEPERS, Ordering::SeqCst, Ordering::Relaxed);
    }
}

/// Makes every sleeper look again, whatever the flag says.
pub fn wake_all(word: &impl Word) {
    let mut seen = word.load(Ordering::Relaxed);
    while let Err(now) = word.compare_exchange(seen, seen.wrapping_add(STEP), Ordering::SeqCst, Ordering::Relaxed) {
        seen = now;
    }
    word.wake(u32::MAX);
}

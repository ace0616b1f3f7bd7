//! A lock word whose value is its owner's name: taking it is signing it.
//!
//! ```text
//!   31        30      29 ............ 0
//!  ┌─────────┬───────┬─────────────────┐
//!  │ waiters │ died  │ owner           │   owner 0: free
//!  └─────────┴───────┴─────────────────┘
//! ```
//!
//! | word | meaning |
//! | --- | --- |
//! | 0 | free |
//! | owner | taken, nobody sleeps |
//! | waiters, owner | taken, somebody may sleep: the release wakes one |
//! | died | free; its last owner died holding it, and the next owner is told |
//!
//! There is no moment between owning and being recorded as the owner, so the sweep of a dead participant finds all that
//! it owned. A sleeper looks after its owner's life in slices of 50 ms to 1 s, in case that nobody else does.
//! The sleeping protocol is that of U. Drepper, "Futexes Are Tricky", mutex 3, with the owner's name in place of 1.

use super::participant::Participant;
use crate::fault;
use crate::sys::clock::Deadline;
use crate::sys::futex::{Woken, Word};
use crate::sys::{cpu, signal};
use crate::{Error, Result};
use std::sync::atomic::{AtomicU32, Ordering};

/// Somebody may be asleep on the word.
pub(crate) const WAITERS: u32 = 1 << 31;
/// The last owner died.
pub(crate) const DIED: u32 = 1 << 30;
const OWNER: u32 = DIED - 1;

/// Attempts of this process that found a word taken and were not to wait.
static ATTEMPTS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

const FIRST_SLICE: u64 = 50_000_000;
const LAST_SLICE: u64 = 1_000_000_000;
/// After a slice of this length a signal may have been waiting to be noticed for most of a second.
const LOOK_UP: u64 = 400_000_000;

/// How a lock was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// From a free word.
    Clean,
    /// After its last owner died holding it: what it guards may be half done.
    Abandoned,
}

/// A lock word in shared memory.
pub(crate) type LockWord = AtomicU32;

/// Who holds the word.
pub(crate) fn owner(word: &impl Word) -> Participant {
    Participant::from_bits(word.load(Ordering::Relaxed) & OWNER)
}

/// True if `participant` holds the word.
pub(crate) fn is_owned_by(word: &impl Word, participant: Participant) -> bool {
    word.load(Ordering::Relaxed) & OWNER == participant.bits()
}

/// Takes the word if it is free.
#[inline]
pub(crate) fn try_take(word: &impl Word, me: Participant) -> Option<Taken> {
    let mut seen = 0;
    loop {
        // ORDER: Acquire, partner of the Release in `release`: what the last owner wrote is seen.
        match word.compare_exchange(seen, me.bits() | (seen & WAITERS), Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => {
                fault!("lock.taken");
                return Some(if seen & DIED == 0 { Taken::Clean } else { Taken::Abandoned });
            }
            Err(now) if now & OWNER == 0 => seen = now,
            Err(_) => return None,
        }
    }
}

/// Takes the word, sleeping until the deadline if need be. `look_after` is asked from time to time whether the owner
/// still lives; it sweeps the dead.
pub(crate) fn take(
    word: &impl Word,
    me: Participant,
    deadline: Deadline,
    look_after: &dyn Fn(Participant),
) -> Result<Taken> {
    if let Some(taken) = try_take(word, me) {
        return Ok(taken);
    }
    if deadline == Deadline::Now {
        // A look costs a system call, so one attempt in many pays it: for those who only ever try.
        if ATTEMPTS.fetch_add(1, Ordering::Relaxed) % 32 == 31 {
            look_after(owner(word));
        }
        return try_take(word, me).ok_or(Error::TimedOut);
    }
    // A model has no time, and would try every number of rounds.
    if !cfg!(loom) && cpu::usable() > 1 {
        for _ in 0..100 {
            cpu::pause();
            if word.load(Ordering::Relaxed) & OWNER == 0
                && let Some(taken) = try_take(word, me)
            {
                return Ok(taken);
            }
        }
    }
    let mut slice = FIRST_SLICE;
    // Once we have slept, others may sleep too: whoever takes the word after a sleep keeps the flag.
    let mut slept = 0;
    loop {
        let seen = word.load(Ordering::Relaxed);
        if seen & OWNER == 0 {
            let mine = me.bits() | (seen & WAITERS) | slept;
            if word.compare_exchange(seen, mine, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                fault!("lock.taken");
                return Ok(if seen & DIED == 0 { Taken::Clean } else { Taken::Abandoned });
            }
            continue;
        }
        if deadline.passed() {
            return Err(Error::TimedOut);
        }
        if seen & WAITERS == 0
            && word.compare_exchange(seen, seen | WAITERS, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            continue;
        }
        fault!("lock.before_sleep");
        let woken = word.wait(seen | WAITERS, deadline.within(slice));
        slept = WAITERS;
        match woken {
            Woken::Look => {
                fault!("lock.woken");
            }
            Woken::TimedOut => {
                look_after(Participant::from_bits(seen & OWNER));
                if slice >= LOOK_UP {
                    signal::look_up()?;
                }
                slice = (slice * 2).min(LAST_SLICE);
            }
            Woken::Interrupted => return Err(Error::Interrupted),
        }
    }
}

/// Gives the word back. Whoever calls this must know that the lock may be released.
#[inline]
pub(crate) fn release(word: &impl Word) {
    fault!("lock.before_release");
    // ORDER: Release, partner of the Acquire in `try_take`.
    let seen = word.swap(0, Ordering::Release);
    fault!("lock.released");
    if seen & WAITERS != 0 {
        word.wake(1);
    }
}

/// Takes the word from a dead owner. True if the owner had it. Wakes all sleepers, since one that was woken may itself
/// have died before it could act.
pub(crate) fn take_from_dead(word: &impl Word, dead: Participant) -> bool {
    loop {
        let seen = word.load(Ordering::Relaxed);
        let had = seen & OWNER == dead.bits();
        let next = if had { DIED } else { seen & !WAITERS };
        // ORDER: AcqRel: what the dead wrote is seen by the sweeper, and by the next owner through it.
        // Where there is nothing to change sleepers are woken all the same: the flag goes with the release whose wake was lost.
        if seen == next || word.compare_exchange(seen, next, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            word.wake(u32::MAX);
            return had;
        }
    }
}

/// Takes back the mark of a dead owner from a free word. True if there was one: the release that the dead still owed is
/// then settled.
pub(crate) fn forgive(word: &impl Word) -> bool {
    word.compare_exchange(DIED, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn nobody_dies(_: Participant) {}

    #[test]
    fn the_next_owner_is_told_that_the_last_one_died() {
        let word = AtomicU32::new(0);
        let (first, second) = (Participant::from_bits(7), Participant::from_bits(9));
        assert_eq!(try_take(&word, first), Some(Taken::Clean));
        assert_eq!(try_take(&word, second), None);
        assert!(!take_from_dead(&word, second));
        assert!(take_from_dead(&word, first));
        assert_eq!(take(&word, second, Deadline::Never, &nobody_dies).unwrap(), Taken::Abandoned);
        release(&word);
        assert_eq!(try_take(&word, first), Some(Taken::Clean));
    }

    #[test]
    fn a_timeout_is_a_timeout() {
        let word = AtomicU32::new(0);
        let (first, second) = (Participant::from_bits(7), Participant::from_bits(9));
        try_take(&word, first);
        let soon = Deadline::after(Some(std::time::Duration::from_millis(5)));
        assert!(matches!(take(&word, second, soon, &nobody_dies), Err(Error::TimedOut)));
        assert!(matches!(take(&word, second, Deadline::Now, &nobody_dies), Err(Error::TimedOut)));
    }
}

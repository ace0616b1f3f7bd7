//! Spinning for a time that earlier spins have earned.
//!
//! A wait that ends while spinning costs 0.1 µs where one that sleeps costs 5 and more; a spin in vain costs its own length,
//! and on one CPU the time that the other would have needed. So the length is a time, not a count; it doubles when a spin
//! has met its event and shrinks when it has not; a wait kind that never profits soon spins only now and then, to find out
//! whether that has changed. With one usable CPU nobody spins.

use crate::sys::{clock, cpu};
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 20_000;
const MOST: u32 = 50_000;
const LEAST: u32 = 2_000;
/// Of the waits of a kind that does not profit, one in this many spins all the same.
const PROBE: u32 = 16;

/// What the waits of one kind have earned so far, in this process.
#[derive(Debug)]
pub(crate) struct Spin {
    nanoseconds: AtomicU32,
    skipped: AtomicU32,
}

impl Spin {
    pub(crate) const fn new() -> Spin {
        Spin { nanoseconds: AtomicU32::new(FIRST), skipped: AtomicU32::new(0) }
    }

    /// Spins until `come()` is true or the time is up, then gives way a few times. True if it has come.
    pub(crate) fn until(&self, mut come: impl FnMut() -> bool) -> bool {
        if cpu::usable() < 2 {
            return come();
        }
        // ORDER: Relaxed throughout: the counters are only a guess.
        let mut budget = self.nanoseconds.load(Ordering::Relaxed);
        if budget < LEAST {
            if !self.skipped.fetch_add(1, Ordering::Relaxed).is_multiple_of(PROBE) {
                return come();
            }
            budget = FIRST;
        }
        let end = clock::now() + u64::from(budget);
        loop {
            for _ in 0..32 {
                if come() {
                    self.nanoseconds.store((budget * 2).min(MOST), Ordering::Relaxed);
                    return true;
                }
                cpu::pause();
            }
            if clock::now() >= end {
                break;
            }
        }
        self.nanoseconds.store(budget / 2, Ordering::Relaxed);
        for _ in 0..2 {
            cpu::give_way();
            if come() {
                return true;
            }
        }
        false
    }
}

const LINGER_FIRST: u32 = 400;
const LINGER_MOST: u32 = 1_600;
const LINGER_LEAST: u32 = 100;
/// Of the waits of a kind for which lingering does not pay, one in this many lingers all the same.
const LINGER_PROBE: u32 = 64;

/// Letting things come in, for a time that earlier times have earned.
///
/// A consumer that is faster than its producer takes each item at the moment when it comes: at every item both want the same
/// cache lines, and both become three times slower. A consumer that lets a few come first takes them at one go. Whether more
/// come is found out by trying: where it is one item at a time (a request and its answer), lingering soon ends.
#[derive(Debug)]
pub(crate) struct Linger {
    nanoseconds: AtomicU32,
    skipped: AtomicU32,
}

impl Linger {
    pub(crate) const fn new() -> Linger {
        Linger { nanoseconds: AtomicU32::new(0), skipped: AtomicU32::new(0) }
    }

    /// After something has come: lets more come, if that has paid so far. `come` says how many there are.
    pub(crate) fn linger(&self, come: impl FnOnce() -> u32) {
        // ORDER: Relaxed throughout: the counters are only a guess.
        let mut budget = self.nanoseconds.load(Ordering::Relaxed);
        if budget < LINGER_LEAST {
            if !self.skipped.fetch_add(1, Ordering::Relaxed).is_multiple_of(LINGER_PROBE) {
                return;
            }
            budget = LINGER_FIRST;
        }
        let end = clock::now() + u64::from(budget);
        while clock::now() < end {
            cpu::pause();
        }
        let next = if come() > 1 { (budget * 2).min(LINGER_MOST) } else { budget / 2 };
        self.nanoseconds.store(next, Ordering::Relaxed);
    }
}

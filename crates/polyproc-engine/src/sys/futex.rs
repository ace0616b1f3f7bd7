//! Sleeping on a 32-bit word that other processes see.

use super::clock::Deadline;
use std::sync::atomic::{AtomicU32, Ordering};

/// How a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Somebody woke us, or the word no longer had the expected value, or for no reason at all: look again.
    Look,
    /// The deadline passed.
    TimedOut,
    /// A signal arrived.
    Interrupted,
}

/// A word to sleep on. The engine uses [`AtomicU32`] in shared memory; the models of the protocols use one of loom's.
pub trait Word {
    /// Loads the value.
    fn load(&self, order: Ordering) -> u32;
    /// Compares and exchanges.
    fn compare_exchange(&self, old: u32, new: u32, success: Ordering, failure: Ordering) -> Result<u32, u32>;
    /// Exchanges.
    fn swap(&self, new: u32, order: Ordering) -> u32;
    /// Sleeps while the word holds `expected`, until the deadline.
    fn wait(&self, expected: u32, deadline: Deadline) -> Woken;
    /// Wakes at most `count` sleepers and tells how many it woke.
    fn wake(&self, count: u32) -> u32;
    /// A sequentially consistent fence, of the same memory model as the word.
    fn fence();
}

impl Word for AtomicU32 {
    #[inline]
    fn load(&self, order: Ordering) -> u32 {
        AtomicU32::load(self, order)
    }

    #[inline]
    fn compare_exchange(&self, old: u32, new: u32, success: Ordering, failure: Ordering) -> Result<u32, u32> {
        AtomicU32::compare_exchange(self, old, new, success, failure)
    }

    #[inline]
    fn swap(&self, new: u32, order: Ordering) -> u32 {
        AtomicU32::swap(self, new, order)
    }

    fn wait(&self, expected: u32, deadline: Deadline) -> Woken {
        let time = match deadline {
            Deadline::Never => None,
            Deadline::Now => return Woken::TimedOut,
            Deadline::At(at) => {
                Some(libc::timespec { tv_sec: (at / 1_000_000_000) as _, tv_nsec: (at % 1_000_000_000) as _ })
            }
        };
        // FUTEX_WAIT_BITSET takes an absolute time of CLOCK_MONOTONIC, so a wait that is taken up again after a signal
        // needs no arithmetic.
        // SAFETY: the word is live memory for the whole call; the time is null or points to a timespec on this stack.
        let outcome = unsafe {
            libc::syscall(
                libc::SYS_futex,
                std::ptr::from_ref(self),
                libc::FUTEX_WAIT_BITSET,
                expected,
                time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
                std::ptr::null::<u32>(),
                libc::FUTEX_BITSET_MATCH_ANY,
            )
        };
        if outcome == 0 {
            return Woken::Look;
        }
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::ETIMEDOUT) => Woken::TimedOut,
            Some(libc::EINTR) => Woken::Interrupted,
            _ => Woken::Look,
        }
    }

    fn wake(&self, count: u32) -> u32 {
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        // SAFETY: FUTEX_WAKE only uses the address of the word.
        let woken = unsafe { libc::syscall(libc::SYS_futex, std::ptr::from_ref(self), libc::FUTEX_WAKE, count) };
        u32::try_from(woken).unwrap_or(0)
    }

    #[inline]
    fn fence() {
        std::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// One word of [`wait_any`]: where it is and what it must still hold.
#[derive(Clone, Copy)]
pub struct Watched<'a> {
    /// The word.
    pub word: &'a AtomicU32,
    /// The value that it must still have to go to sleep.
    pub expected: u32,
}

/// The most words that [`wait_any`] takes.
pub const WATCHED_MAX: usize = 128;

/// Sleeps while all these words hold what is expected of them (futex_waitv, Linux 5.16). On an older kernel it sleeps on
/// the first word for at most 5 ms.
pub fn wait_any(words: &[Watched<'_>], deadline: Deadline) -> Woken {
    #[repr(C)]
    struct Waiter {
        value: u64,
        address: u64,
        flags: u32,
        reserved: u32,
    }
    const FUTEX_32: u32 = 2;
    let Some(first) = words.first() else { return Woken::Look };
    let waiters: Vec<Waiter> = words
        .iter()
        .take(WATCHED_MAX)
        .map(|w| Waiter {
            value: u64::from(w.expected),
            address: std::ptr::from_ref(w.word) as u64,
            flags: FUTEX_32,
            reserved: 0,
        })
        .collect();
    let time = match deadline {
        Deadline::Never => None,
        Deadline::Now => return Woken::TimedOut,
        Deadline::At(at) => {
            Some(libc::timespec { tv_sec: (at / 1_000_000_000) as _, tv_nsec: (at % 1_000_000_000) as _ })
        }
    };
    // SAFETY: the array and the time live on this stack; the words are borrowed for the whole call.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            waiters.as_ptr(),
            waiters.len(),
            0,
            time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
            libc::CLOCK_MONOTONIC,
        )
    };
    if outcome >= 0 {
        return Woken::Look;
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::ETIMEDOUT) => Woken::TimedOut,
        Some(libc::EINTR) => Woken::Interrupted,
        Some(libc::ENOSYS) => first.word.wait(first.expected, deadline.within(5_000_000)),
        _ => Woken::Look,
    }
}

//! How many CPUs this process may use.

use std::sync::atomic::{AtomicU32, Ordering};

/// The number of CPUs that the affinity mask and the cgroup's quota leave to this process, at least 1.
pub fn usable() -> u32 {
    static KNOWN: AtomicU32 = AtomicU32::new(0);
    // ORDER: Relaxed; whoever finds 0 computes the same number again.
    match KNOWN.load(Ordering::Relaxed) {
        0 => {
            let count = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
            KNOWN.store(count, Ordering::Relaxed);
            count
        }
        count => count,
    }
}

/// Tells the CPU that this is a spinning loop.
#[inline]
pub fn pause() {
    std::hint::spin_loop();
}

/// Lets another runnable thread have the CPU.
pub fn give_way() {
    // SAFETY: sched_yield has no preconditions.
    unsafe { libc::sched_yield() };
}

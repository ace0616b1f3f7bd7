//! Numbered kill points: places where a test can make a process die.
//!
//! `fault!("ring.after_copy")` compiles to nothing unless the feature `fault-points` is on. With it, a process that has
//! armed a point kills itself with SIGKILL when it passes that point for the chosen time. [`POINTS`] lists all of
//! them; a test compares the list with the sources, so no point can be forgotten.

/// Every kill point of the engine, in the order of the layers. The number of a point is its place here.
pub const POINTS: &[&str] = &[
    "directory.locked",
    "directory.popped",
    "directory.kind_set",
    "directory.held",
    "directory.freed",
    "block.pushed",
    "block.popped",
    "block.reserved",
    "block.held",
    "block.unheld",
    "fork.reserved",
    "fork.held",
    "fork.unsigned",
    "sweep.begun",
    "sweep.blocks_done",
    "sweep.objects_done",
    "lock.taken",
    "lock.before_sleep",
    "lock.woken",
    "lock.before_release",
    "lock.released",
    "monitor.locked",
    "monitor.intent_written",
    "monitor.committed",
    "monitor.word_written",
    "monitor.applied",
    "once.done",
    "vector.written",
    "vector.grown",
    "vector.intended",
    "vector.moved",
    "vector.applied",
    "table.written",
    "table.linked",
    "table.unlinked",
    "signal.registered",
    "signal.bumped",
    "ring.put_locked",
    "ring.after_copy",
    "ring.tagged",
    "ring.put_committed",
    "ring.segment_pending",
    "ring.segment_owned",
    "ring.segment_linked",
    "ring.before_sleep",
    "ring.get_locked",
    "ring.blocks_held",
    "ring.get_committed",
    "ring.tags_cleared",
    "ring.segment_retired",
    "ring.segment_passed",
    "pipe.counted",
    "pipe.hushed",
    "request.sent",
    "request.answered",
    "zygote.asked",
    "zygote.forked",
    "zygote.told",
    "zygote.collected",
    "newborn.forked",
    "newborn.attached",
    "pool.attached",
    "pool.taken",
    "pool.begun",
    "pool.added",
    "pool.flushed",
    "pool.committed",
    "pool.cleared",
];

/// Marks a place where a process may be made to die. See [`crate::fault`].
#[macro_export]
#[doc(hidden)]
macro_rules! fault {
    ($name:literal) => {
        #[cfg(feature = "fault-points")]
        $crate::fault::pass($name);
    };
}

#[cfg(feature = "fault-points")]
mod armed {
    use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

    static NAME: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
    static LENGTH: AtomicUsize = AtomicUsize::new(0);
    static LEFT: AtomicU32 = AtomicU32::new(0);
    static COUNTERS: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());

    /// Counts from now on, in this process and its forks, how often each point is passed: one counter for each of
    /// [`super::POINTS`], in memory that the counting processes may share.
    pub fn count_in(counters: &'static [AtomicU32]) {
        assert!(counters.len() >= super::POINTS.len());
        COUNTERS.store(counters.as_ptr().cast_mut(), Ordering::SeqCst);
    }

    /// Makes this process kill itself when it passes `point` for the `pass`-th time from now (1 is the next time).
    pub fn arm(point: &'static str, pass: u32) {
        LEFT.store(pass, Ordering::SeqCst);
        LENGTH.store(point.len(), Ordering::SeqCst);
        NAME.store(point.as_ptr().cast_mut(), Ordering::SeqCst);
    }

    /// Forgets what [`arm`] and [`count_in`] set.
    pub fn disarm() {
        COUNTERS.store(std::ptr::null_mut(), Ordering::SeqCst);
        NAME.store(std::ptr::null_mut(), Ordering::SeqCst);
    }

    #[doc(hidden)]
    pub fn pass(name: &'static str) {
        let counters = COUNTERS.load(Ordering::Relaxed);
        if !counters.is_null()
            && let Some(number) = super::POINTS.iter().position(|point| *point == name)
        {
            // SAFETY: `count_in` stored the start of a slice with a counter for each point, which lives for ever.
            unsafe { &*counters.add(number) }.fetch_add(1, Ordering::Relaxed);
        }
        let armed = NAME.load(Ordering::Relaxed);
        if armed.is_null() {
            return;
        }
        // SAFETY: `arm` stored the pointer and the length of a &'static str.
        let wanted = unsafe { std::slice::from_raw_parts(armed, LENGTH.load(Ordering::Relaxed)) };
        if wanted == name.as_bytes() && LEFT.fetch_sub(1, Ordering::SeqCst) == 1 {
            // SAFETY: kill and getpid have no preconditions.
            unsafe {
                libc::kill(libc::getpid(), libc::SIGKILL);
            }
        }
    }
}

#[cfg(feature = "fault-points")]
pub use armed::{arm, count_in, disarm, pass};

//! Time that only goes forward: deadlines on CLOCK_MONOTONIC.

use std::time::Duration;

/// Nanoseconds since some fixed point, by CLOCK_MONOTONIC.
pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer; CLOCK_MONOTONIC always exists on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Nanoseconds since the system was started, sleep included: what the kernel counts the starts of processes in.
pub fn since_boot() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer; CLOCK_BOOTTIME exists since Linux 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Until when a call may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// As long as it takes.
    Never,
    /// Not at all.
    Now,
    /// Until this moment, in nanoseconds of [`now`].
    At(u64),
}

impl Deadline {
    /// The deadline that lies `timeout` ahead; `None` waits as long as it takes.
    pub fn after(timeout: Option<Duration>) -> Deadline {
        match timeout {
            None => Deadline::Never,
            Some(Duration::ZERO) => Deadline::Now,
            Some(time) => match u64::try_from(time.as_nanos()).ok().and_then(|ns| now().checked_add(ns)) {
                Some(at) if at < i64::MAX as u64 => Deadline::At(at),
                _ => Deadline::Never,
            },
        }
    }

    /// True once the deadline has passed.
    pub fn passed(self) -> bool {
        match self {
            Deadline::Never => false,
            Deadline::Now => true,
            Deadline::At(at) => now() >= at,
        }
    }

    /// The earlier of this deadline and `slice` nanoseconds from now.
    pub fn within(self, slice: u64) -> Deadline {
        let end = now().saturating_add(slice);
        match self {
            Deadline::Never => Deadline::At(end),
            Deadline::Now => Deadline::Now,
            Deadline::At(at) => Deadline::At(at.min(end)),
        }
    }

    /// Nanoseconds left; `None` means no limit.
    pub fn left(self) -> Option<u64> {
        match self {
            Deadline::Never => None,
            Deadline::Now => Some(0),
            Deadline::At(at) => Some(at.saturating_sub(now())),
        }
    }

    /// For poll(2): milliseconds left, rounded up; -1 means no limit.
    pub fn poll_milliseconds(self) -> i32 {
        match self.left() {
            None => -1,
            Some(ns) => i32::try_from(ns.div_ceil(1_000_000)).unwrap_or(i32::MAX),
        }
    }
}

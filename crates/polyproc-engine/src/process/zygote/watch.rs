//! The limits of one child, as the zygote keeps them.
//!
//! The time on a processor is the kernel's to watch: the child sets that limit for itself ([`crate::sys::limit`]). Memory and
//! deadline are the zygote's. It looks at a child's memory again at the earliest moment at which the child could have reached
//! its limit, were it to touch 4 GiB a second: seldom while there is room, every 2 ms near the limit. What a child takes and
//! gives back between two looks is not seen, and a child may have a few MiB more than its limit when it is ended.
//!
//! Why not RLIMIT_AS or RLIMIT_DATA: they count what is mapped, not what is used (a thread's stack, an allocator's reserve),
//! and whoever hits them gets a null pointer and ends in whatever way it likes, which nobody could tell from another end.

use super::message::Why;
use crate::process::report::{Limits, Status};
use crate::sys::{memory, signal};
use std::time::Duration;

/// Bytes that a process can touch in a nanosecond, at most: 4 GiB a second.
const PACE: u64 = 4;
/// Between two looks, in nanoseconds.
const SOONEST: u64 = 2_000_000;
const LATEST: u64 = 100_000_000;

/// The limits of a child, and what came of them.
pub(super) struct Watch {
    limits: Limits,
    /// When it must have ended, in nanoseconds of [`crate::sys::clock::now`].
    due: u64,
    /// When its memory is looked at next; the largest number if it is not.
    look: u64,
    /// Why it was ended.
    ended: Why,
}

impl Watch {
    pub(super) fn new(limits: Limits, now: u64) -> Watch {
        let due = limits.deadline.map_or(u64::MAX, |time| now.saturating_add(nanoseconds(time)));
        let look = if limits.memory.is_some() { now + SOONEST } else { u64::MAX };
        Watch { limits, due, look, ended: Why::Unknown }
    }

    /// When there is something to do next.
    pub(super) fn next(&self) -> u64 {
        self.due.min(self.look)
    }

    /// Looks, if it is time. True if the child must be ended.
    pub(super) fn exceeds(&mut self, pid: i32, now: u64) -> bool {
        if now >= self.due {
            self.end(Why::Deadline);
            return true;
        }
        if now >= self.look {
            let limit = self.limits.memory.unwrap_or(u64::MAX);
            // A child that has just ended is no longer there to be read.
            let used = memory::own(Some(pid)).unwrap_or(0);
            if used > limit {
                self.end(Why::Memory(used));
                return true;
            }
            self.look = now + ((limit - used) / PACE).clamp(SOONEST, LATEST);
        }
        false
    }

    fn end(&mut self, why: Why) {
        self.ended = why;
        (self.due, self.look) = (u64::MAX, u64::MAX);
    }

    /// Why a child has ended in this way, after so much time on a processor, as far as its limits explain it.
    pub(super) fn why(&self, status: Status, processor: Duration) -> Why {
        let Status::Signaled { signal, .. } = status else { return Why::Unknown };
        match (signal, self.limits.processor) {
            (signal::KILL, _) if self.ended != Why::Unknown => self.ended,
            (signal::TOO_LONG, Some(_)) => Why::Processor,
            // It has not minded the first signal.
            (signal::KILL, Some(limit)) if processor >= limit => Why::Processor,
            _ => Why::Unknown,
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: Status = Status::Signaled { signal: signal::KILL, core: false };

    #[test]
    fn a_child_is_ended_at_its_deadline_and_not_before() {
        let limits = Limits { deadline: Some(Duration::from_nanos(100)), ..Limits::default() };
        let mut watch = Watch::new(limits, 1000);
        assert_eq!(watch.next(), 1100);
        assert!(!watch.exceeds(1, 1099));
        assert_eq!(watch.why(KILLED, Duration::ZERO), Why::Unknown, "somebody else has killed it");
        assert!(watch.exceeds(1, 1100));
        assert_eq!(watch.next(), u64::MAX);
        assert_eq!(watch.why(KILLED, Duration::ZERO), Why::Deadline);
        assert_eq!(watch.why(Status::Exited(0), Duration::ZERO), Why::Unknown, "it was faster than the signal");
    }

    #[test]
    fn memory_is_looked_at_more_often_near_the_limit() {
        let own = memory::own(None).expect("/proc is there");
        let pid = crate::sys::proc::pid();
        let limited = |memory| Watch::new(Limits { memory: Some(memory), ..Limits::default() }, 0);
        let (mut far, mut near, mut over) = (limited(own + (4 << 30)), limited(own + (40 << 20)), limited(own / 2));
        assert!(!far.exceeds(pid, SOONEST) && far.next() == SOONEST + LATEST);
        assert!(!near.exceeds(pid, SOONEST) && near.next() < SOONEST + LATEST);
        assert!(over.exceeds(pid, SOONEST) && matches!(over.why(KILLED, Duration::ZERO), Why::Memory(_)));
    }

    #[test]
    fn too_much_time_on_a_processor_is_known_by_its_signal() {
        let limits = Limits { processor: Some(Duration::from_secs(1)), ..Limits::default() };
        let watch = Watch::new(limits, 0);
        let signaled = Status::Signaled { signal: signal::TOO_LONG, core: true };
        assert_eq!(watch.why(signaled, Duration::ZERO), Why::Processor);
        assert_eq!(watch.why(KILLED, Duration::from_secs(3)), Why::Processor);
        assert_eq!(watch.why(KILLED, Duration::from_millis(3)), Why::Unknown);
        assert_eq!(Watch::new(Limits::default(), 0).why(signaled, Duration::ZERO), Why::Unknown);
    }
}

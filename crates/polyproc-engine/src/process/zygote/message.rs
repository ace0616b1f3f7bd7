//! What the program and the zygote say to each other, as bytes: requests one way, reports the other.
//!
//! ```text
//!  request   kind:4 │ participant:4 │ requester:4 │ name's length:4 │ memory:8 │ processor:8 │ deadline:8 │ name │ task
//!  report    kind:4 │ cause:4 │ value:8 │ detail:8 │ processor:8 │ peak:8
//! ```
//!
//! Both ends are of one build, and still nothing is trusted: what does not parse is dropped, or an error.

use crate::process::report::{Limits, Status, Usage};
use std::time::Duration;

/// Asks for a child.
pub(super) const BIRTH: u32 = 1;
/// The program ends by itself.
pub(super) const FINISH: u32 = 2;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The first bytes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub kind: u32,
    pub participant: u32,
    pub requester: i32,
    /// How long the name is.
    pub name: u32,
    pub limits: Limits,
}

impl Head {
    pub const SIZE: usize = 40;

    pub fn to_bytes(self) -> [u8; Head::SIZE] {
        let mut bytes = [0; Head::SIZE];
        let words = [self.kind, self.participant, self.requester as u32, self.name];
        for (place, word) in bytes[..16].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        // No limit is the largest number: a limit of nothing at all is one as well.
        let limits = [
            self.limits.memory.unwrap_or(u64::MAX),
            self.limits.processor.map_or(u64::MAX, nanoseconds),
            self.limits.deadline.map_or(u64::MAX, nanoseconds),
        ];
        for (place, limit) in bytes[16..].chunks_exact_mut(8).zip(limits) {
            place.copy_from_slice(&limit.to_ne_bytes());
        }
        bytes
    }

    pub fn of(bytes: &[u8]) -> Option<Head> {
        let limit = |at| long(bytes, at).map(|limit| (limit != u64::MAX).then_some(limit));
        let limits = Limits {
            memory: limit(16)?,
            processor: limit(24)?.map(Duration::from_nanos),
            deadline: limit(32)?.map(Duration::from_nanos),
        };
        let requester = word(bytes, 8)? as i32;
        Some(Head { kind: word(bytes, 0)?, participant: word(bytes, 4)?, requester, name: word(bytes, 12)?, limits })
    }
}

/// What the zygote knows of why a child ended. The limits themselves are known to whoever set them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Why {
    #[default]
    Unknown,
    /// It had this much memory for itself when it was ended for it.
    Memory(u64),
    Processor,
    Deadline,
    /// The kernel has killed so many processes of the cgroup for want of memory since they were last counted.
    OutOfMemory(u64),
}

/// What the zygote tells of one child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// It runs; its pidfd comes with this.
    Born { pid: i32 },
    /// It could not be forked.
    Failed { number: i32 },
    /// It has ended and was collected.
    Ended { status: Status, why: Why, usage: Usage },
}

impl Report {
    pub const SIZE: usize = 40;

    pub fn to_bytes(self) -> [u8; Report::SIZE] {
        let mut usage = Usage::default();
        let (kind, cause, value, detail) = match self {
            Report::Born { pid } => (1u32, 0u32, pid as u64, 0),
            Report::Failed { number } => (2, 0, number as u64, 0),
            Report::Ended { status, why, usage: used } => {
                usage = used;
                let (cause, detail) = match why {
                    Why::Unknown => (0, 0),
                    Why::Memory(used) => (1, used),
                    Why::Processor => (2, 0),
                    Why::Deadline => (3, 0),
                    Why::OutOfMemory(kills) => (4, kills),
                };
                (3, cause, status.to_bits(), detail)
            }
        };
        let mut bytes = [0; Report::SIZE];
        bytes[..4].copy_from_slice(&kind.to_ne_bytes());
        bytes[4..8].copy_from_slice(&cause.to_ne_bytes());
        let longs = [value, detail, nanoseconds(usage.processor), usage.peak_memory];
        for (place, long) in bytes[8..].chunks_exact_mut(8).zip(longs) {
            place.copy_from_slice(&long.to_ne_bytes());
        }
        bytes
    }

    pub fn of(bytes: &[u8]) -> Option<Report> {
        let (kind, cause, value, detail) = (word(bytes, 0)?, word(bytes, 4)?, long(bytes, 8)?, long(bytes, 16)?);
        let usage = Usage { processor: Duration::from_nanos(long(bytes, 24)?), peak_memory: long(bytes, 32)? };
        let why = match cause {
            1 => Why::Memory(detail),
            2 => Why::Processor,
            3 => Why::Deadline,
            4 => Why::OutOfMemory(detail),
            _ => Why::Unknown,
        };
        match kind {
            1 => Some(Report::Born { pid: value as i32 }),
            2 => Some(Report::Failed { number: value as i32 }),
            3 => Some(Report::Ended { status: Status::from_bits(value)?, why, usage }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_reports_come_back_as_they_were() {
        let limits = [
            Limits::default(),
            Limits { memory: Some(0), processor: Some(Duration::from_millis(5)), deadline: Some(Duration::ZERO) },
        ];
        for limits in limits {
            let head = Head { kind: BIRTH, participant: 7, requester: -3, name: 11, limits };
            assert_eq!(Head::of(&head.to_bytes()), Some(head));
        }
        assert_eq!(Head::of(&[1; 39]), None);
        let usage = Usage { processor: Duration::from_micros(77), peak_memory: 1 << 33 };
        let whys = [Why::Unknown, Why::Memory(9), Why::Processor, Why::Deadline, Why::OutOfMemory(2)];
        for why in whys {
            let report = Report::Ended { status: Status::Signaled { signal: 9, core: false }, why, usage };
            assert_eq!(Report::of(&report.to_bytes()), Some(report));
        }
        for report in [Report::Born { pid: 3 }, Report::Failed { number: 11 }] {
            assert_eq!(Report::of(&report.to_bytes()), Some(report));
        }
        assert_eq!(Report::of(&[9; Report::SIZE]), None);
    }
}

//! How a process ended, in words that name it.

use crate::sys::pidfd::End;
use crate::sys::signal;
use std::fmt;
use std::time::Duration;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// By itself, with this exit code.
    Exited(i32),
    /// Killed by a signal.
    Signaled {
        /// The signal's number.
        signal: i32,
        /// It left a core file.
        core: bool,
    },
    /// Nobody can tell: somebody else collected its status first (`wait`, or SIGCHLD ignored), on a kernel that keeps
    /// no copy.
    Unknown,
}

impl Status {
    /// The exit code as Python counts: negative for a signal; `None` if it is not known.
    pub fn code(self) -> Option<i32> {
        match self {
            Status::Exited(code) => Some(code),
            Status::Signaled { signal, .. } => Some(-signal),
            Status::Unknown => None,
        }
    }

    /// As a number that is not zero.
    pub(in crate::process) fn to_bits(self) -> u64 {
        match self {
            Status::Unknown => 1 << 32,
            Status::Exited(code) => 2 << 32 | u64::from(code as u32),
            Status::Signaled { signal, core: false } => 3 << 32 | u64::from(signal as u32),
            Status::Signaled { signal, core: true } => 4 << 32 | u64::from(signal as u32),
        }
    }

    /// The status of such a number; `None` for zero.
    pub(in crate::process) fn from_bits(bits: u64) -> Option<Status> {
        let value = bits as u32 as i32;
        match bits >> 32 {
            1 => Some(Status::Unknown),
            2 => Some(Status::Exited(value)),
            3 => Some(Status::Signaled { signal: value, core: false }),
            4 => Some(Status::Signaled { signal: value, core: true }),
            _ => None,
        }
    }

    /// True for an exit with code 0.
    pub fn success(self) -> bool {
        self == Status::Exited(0)
    }
}

impl From<Option<End>> for Status {
    fn from(end: Option<End>) -> Status {
        match end {
            Some(End::Exited(code)) => Status::Exited(code),
            Some(End::Signaled(signal, core)) => Status::Signaled { signal, core },
            None => Status::Unknown,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Exited(code) => write!(f, "exited with code {code}"),
            Status::Signaled { signal, core } => {
                let core = if *core { " and left a core file" } else { "" };
                write!(f, "was killed by {}{core}", signal::name(*signal))
            }
            Status::Unknown => f.write_str("ended, nobody knows how: another part of the program collected its status"),
        }
    }
}

/// What a process may take. Whoever takes more is ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory of its own: see [`crate::sys::memory::own`].
    pub memory: Option<u64>,
    /// Time on a processor, of all its threads together.
    pub processor: Option<Duration>,
    /// Time since its birth.
    pub deadline: Option<Duration>,
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time on a processor, of all its threads together.
    pub processor: Duration,
    /// The most memory that it had at once, in bytes, with files and shared memory.
    pub peak_memory: u64,
}

/// Why a process was ended, as far as there is evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// It had more memory of its own than it may.
    MemoryLimit {
        /// What it may have, in bytes.
        limit: u64,
        /// What it had when that was seen, in bytes.
        used: u64,
    },
    /// It took more time on a processor than it may.
    ProcessorLimit {
        /// What it may take.
        limit: Duration,
    },
    /// It ran for longer than it may.
    Deadline {
        /// What it may run for.
        after: Duration,
    },
    /// SIGKILL, and the kernel has killed processes of the cgroup for want of memory: in all likelihood this one.
    OutOfMemory {
        /// How many, since they were counted last.
        kills: u64,
    },
    /// The process that had asked for it has sent it this signal.
    Asked,
    /// The zygote that it came from has ended before it, and the kernel ends such processes.
    ZygoteGone,
}

/// The end of a process, with all that is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// How it ended.
    pub status: Status,
    /// Why, where there is evidence.
    pub cause: Option<Cause>,
    /// What it has used, where that is known.
    pub usage: Option<Usage>,
}

/// The end of one process.
///
/// ```
/// use polyproc_engine::process::{ExitReport, Status};
///
/// let report = ExitReport { pid: 4711, name: "resizer-2".into(), status: Status::Signaled { signal: 9, core: false } };
/// assert_eq!(report.to_string(), "process 'resizer-2' (pid 4711) was killed by SIGKILL");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitReport {
    /// Its pid, which may by now be another's.
    pub pid: i32,
    /// What its parent called it.
    pub name: String,
    /// How it ended.
    pub status: Status,
}

impl fmt::Display for ExitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process '{}' (pid {}) {}", self.name, self.pid, self.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_its_number() {
        for status in [
            Status::Unknown,
            Status::Exited(0),
            Status::Exited(255),
            Status::Signaled { signal: 9, core: false },
            Status::Signaled { signal: 11, core: true },
        ] {
            assert_eq!(Status::from_bits(status.to_bits()), Some(status));
        }
        assert_eq!(Status::from_bits(0), None);
    }
}

//! A process that the zygote has made, as whoever asked for it knows it.

use super::message::{Report, Why};
use crate::process::child::Child;
use crate::process::report::{Cause, Ending, Limits, Status};
use crate::shm::Participant;
use crate::sys::clock::Deadline;
use crate::sys::poll::{self, Polled};
use crate::sys::{packet, pidfd, signal};
use crate::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long the zygote may take to report an end that everybody can see; and how long whoever inherits its children may take
/// to collect them.
pub(super) const SOON: Duration = Duration::from_secs(1);

/// Is told how a child ended.
pub type Told = Box<dyn FnOnce(Status) + Send>;

/// A process that the zygote has made for this one. Dropping it leaves the process to itself: the zygote collects it.
#[derive(Debug)]
pub struct Worker {
    pub(super) child: Arc<Child>,
    pub(super) end: Arc<End>,
}

/// Where the zygote reports the end of a child.
#[derive(Debug)]
pub(super) struct End {
    report: OwnedFd,
    limits: Limits,
    /// The last signal that this process has sent it.
    asked: AtomicI32,
    known: Mutex<Option<Ending>>,
}

impl Worker {
    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.child.pid()
    }

    /// What its parent calls it.
    pub fn name(&self) -> &str {
        self.child.name()
    }

    /// Its name in the session.
    pub fn participant(&self) -> Participant {
        self.child.participant()
    }

    /// What this process knows of it.
    pub fn child(&self) -> &Arc<Child> {
        &self.child
    }

    /// Sends it a signal; nothing happens to another process that was given its pid since.
    ///
    /// # Errors
    /// [`Error::Os`] with ESRCH once it has ended.
    pub fn send_signal(&self, signal: i32) -> Result<()> {
        // Noted first: its end may be reported before this returns.
        let before = self.end.asked.swap(signal, Ordering::AcqRel);
        let outcome = self.child.send_signal(signal);
        if outcome.is_err() {
            self.end.asked.store(before, Ordering::Release);
        }
        outcome
    }

    /// True until it has ended.
    pub fn is_alive(&self) -> bool {
        !self.child.has_ended()
    }

    /// How it ended, where that has been reported; it does not wait.
    pub fn ending(&self) -> Option<Ending> {
        self.wait(Deadline::Now).ok()
    }

    /// Waits until it has ended and was collected, and tells how.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Interrupted`].
    pub fn wait(&self, deadline: Deadline) -> Result<Ending> {
        self.end.wait(&self.child, deadline)
    }
}

impl End {
    pub(super) fn new(report: OwnedFd, limits: Limits) -> End {
        End { report, limits, asked: AtomicI32::new(0), known: Mutex::new(None) }
    }

    pub(super) fn wait(&self, child: &Child, deadline: Deadline) -> Result<Ending> {
        loop {
            if let Some(ending) = *self.known() {
                return Ok(ending);
            }
            let mut polled = [Polled::new(self.report.as_raw_fd())];
            if poll::wait(&mut polled, deadline)? == 0 {
                if deadline.passed() {
                    return Err(Error::TimedOut);
                }
                continue;
            }
            let mut known = self.known();
            if known.is_some() {
                continue;
            }
            let mut bytes = [0; Report::SIZE];
            let ending = match packet::receive(&self.report, &mut bytes) {
                Ok((length, _)) => self.read(&bytes[..length]),
                Err(Error::Interrupted) => continue,
                Err(_) => None,
            };
            *known = Some(match ending {
                Some(ending) => ending,
                None => {
                    drop(known);
                    let ending = self.without_zygote(child, deadline)?;
                    known = self.known();
                    ending
                }
            });
        }
    }

    fn read(&self, bytes: &[u8]) -> Option<Ending> {
        let Some(Report::Ended { status, why, usage }) = Report::of(bytes) else { return None };
        let cause = match why {
            Why::Unknown => self.was_asked(status).then_some(Cause::Asked),
            Why::Memory(used) => Some(Cause::MemoryLimit { limit: self.limits.memory.unwrap_or(0), used }),
            Why::Processor => Some(Cause::ProcessorLimit { limit: self.limits.processor.unwrap_or_default() }),
            Why::Deadline => Some(Cause::Deadline { after: self.limits.deadline.unwrap_or_default() }),
            Why::OutOfMemory(_) if self.was_asked(status) => Some(Cause::Asked),
            Why::OutOfMemory(kills) => Some(Cause::OutOfMemory { kills }),
        };
        Some(Ending { status, cause, usage: Some(usage) })
    }

    fn was_asked(&self, status: Status) -> bool {
        matches!(status, Status::Signaled { signal, .. } if signal == self.asked.load(Ordering::Acquire))
    }

    /// The zygote is gone, and its children with it. How this one ended the kernel knows, once somebody has collected it.
    fn without_zygote(&self, child: &Child, deadline: Deadline) -> Result<Ending> {
        child.wait(deadline)?;
        let status = Status::from(pidfd::ended_soon(child, Deadline::after(Some(SOON))));
        let cause = match status {
            _ if self.was_asked(status) => Some(Cause::Asked),
            Status::Signaled { signal: signal::KILL, .. } | Status::Unknown => Some(Cause::ZygoteGone),
            _ => None,
        };
        Ok(Ending { status, cause, usage: None })
    }

    fn known(&self) -> MutexGuard<'_, Option<Ending>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Worker {
    /// Readable once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}

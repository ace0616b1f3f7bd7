//! What a parent knows of one child: its pid, a descriptor to wait for its end, and, once it has ended, how.
//!
//! A `Child` may be dropped at any time. The supervisor keeps its descriptor until the process has ended, so that what it
//! held is swept; a child whose status nobody collects stays in the process table until its parent ends, as ever.

use super::report::{ExitReport, Status};
use super::supervisor;
use crate::shm::Participant;
use crate::sys::clock::Deadline;
use crate::sys::pidfd;
use crate::sys::poll::{self, Polled};
use crate::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A process that this one started, or had started for it.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    name: String,
    participant: Participant,
    pidfd: OwnedFd,
    /// [`Status::to_bits`], or zero while nobody has seen the end. One word, so that a fork cannot find it locked.
    status: AtomicU64,
}

impl Child {
    /// Puts a process under supervision: `pid` must be a child of this process that nobody has collected. `participant` is
    /// its name in the session, where that is known ([`Participant::NOBODY`] otherwise).
    ///
    /// # Errors
    /// [`Error::Os`] where there is no descriptor or no thread to be had. The process is then not watched: end it.
    pub fn adopt(pid: i32, name: impl Into<String>, participant: Participant) -> Result<Arc<Child>> {
        Child::adopt_descriptor(pid, pidfd::open(pid)?, name, participant)
    }

    /// As [`Child::adopt`], with a pidfd that was opened by another (a server that started the process for us).
    pub fn adopt_descriptor(
        pid: i32,
        pidfd: OwnedFd,
        name: impl Into<String>,
        participant: Participant,
    ) -> Result<Arc<Child>> {
        Child::adopt_descriptor_and_tell(pid, pidfd, name, participant, None)
    }

    /// As [`Child::adopt_descriptor`]; `told` runs once the process has ended, was reported and swept.
    pub fn adopt_descriptor_and_tell(
        pid: i32,
        pidfd: OwnedFd,
        name: impl Into<String>,
        participant: Participant,
        told: Option<supervisor::Told>,
    ) -> Result<Arc<Child>> {
        let child = Arc::new(Child { pid, name: name.into(), participant, pidfd, status: AtomicU64::new(0) });
        supervisor::watch(&child, told)?;
        Ok(child)
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What its parent calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name in the session, if it was reserved for it.
    pub fn participant(&self) -> Participant {
        self.participant
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    /// [`Error::TimedOut`] at the deadline, [`Error::Interrupted`] by a signal.
    pub fn wait(&self, deadline: Deadline) -> Result<()> {
        let mut polled = [Polled::new(self.pidfd.as_raw_fd())];
        loop {
            if poll::wait(&mut polled, deadline)? > 0 {
                return Ok(());
            }
            if deadline.passed() {
                return Err(Error::TimedOut);
            }
        }
    }

    /// True once the process has ended, whether or not its status was collected.
    pub fn has_ended(&self) -> bool {
        self.wait(Deadline::Now).is_ok()
    }

    /// Collects its exit status, so that it leaves the process table; `None` while it runs. May be called again.
    pub fn collect(&self) -> Result<Option<ExitReport>> {
        match pidfd::collect(&self.pidfd) {
            Ok(None) => Ok(None),
            Ok(end) => {
                self.note(end.into());
                Ok(self.report())
            }
            // Another's child, or collected already.
            Err(error) if pidfd::is_not_ours(&error) => {
                if self.has_ended() {
                    self.observe();
                }
                Ok(self.report())
            }
            Err(error) => Err(error),
        }
    }

    /// How it ended, as far as it is known; `None` if nobody has seen its end yet.
    pub fn report(&self) -> Option<ExitReport> {
        let status = Status::from_bits(self.status.load(Ordering::Acquire))?;
        Some(ExitReport { pid: self.pid, name: self.name.clone(), status })
    }

    /// Sends it a signal. Nothing happens to another process that was given its pid since.
    ///
    /// # Errors
    /// [`Error::Os`] with ESRCH once it has been collected.
    pub fn send_signal(&self, signal: i32) -> Result<()> {
        pidfd::send_signal(&self.pidfd, signal)
    }

    /// Notes how it ended, without collecting it. It must have ended.
    pub(super) fn observe(&self) -> Status {
        if let Some(known) = self.report()
            && known.status != Status::Unknown
        {
            return known.status;
        }
        let status = match pidfd::observe(&self.pidfd) {
            Ok(Some(end)) => Some(end).into(),
            _ => pidfd::ended(&self.pidfd).into(),
        };
        self.note(status);
        status
    }

    fn note(&self, status: Status) {
        self.status.store(status.to_bits(), Ordering::Release);
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

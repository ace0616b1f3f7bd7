//! Forked children that cannot be forgotten: each is waited for with a deadline, and killed by its pid when that passes.
//!
//! The drivers have one thread only, so that a fork copies a process in a known state.

use polyproc_engine::sys::poll::{self, Polled};
use polyproc_engine::{Deadline, shm};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// A child. Dropping one that still runs kills it.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    pidfd: OwnedFd,
    end: Option<End>,
}

/// The exit code of a child whose body panicked.
pub const PANICKED: i32 = 101;

/// Runs `body` in a forked child, which then ends without running destructors, as if it had been killed.
pub fn fork(body: impl FnOnce()) -> Child {
    shm::current().expect("a session");
    // SAFETY: the drivers have a single thread, so the child finds no lock taken by another.
    match unsafe { libc::fork() } {
        0 => {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            // SAFETY: ends this process only.
            unsafe { libc::_exit(if outcome.is_ok() { 0 } else { PANICKED }) }
        }
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        pid => {
            // SAFETY: a child of ours that was not waited for, so the pid is its own.
            let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32;
            assert!(pidfd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
            // SAFETY: fresh and ours.
            Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) }, end: None }
        }
    }
}

impl Child {
    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its pidfd, to be waited for together with others.
    pub fn pidfd(&self) -> i32 {
        self.pidfd.as_raw_fd()
    }

    /// Waits until it has ended, at most for `time`; `None` if it still runs.
    pub fn wait(&mut self, time: Duration) -> Option<End> {
        let deadline = Deadline::after(Some(time));
        while self.end.is_none() {
            let mut polled = [Polled::new(self.pidfd.as_raw_fd())];
            match poll::wait(&mut polled, deadline) {
                Ok(0) => return None,
                Ok(_) => self.end = Some(collect(self.pid)),
                Err(_) => {}
            }
        }
        self.end
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<End> {
        self.wait(Duration::ZERO)
    }

    /// Sends it a signal, if it was not collected yet.
    pub fn signal(&self, signal: i32) {
        if self.end.is_none() {
            // SAFETY: a child that was not waited for: the pid is its own.
            unsafe { libc::kill(self.pid, signal) };
        }
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) -> End {
        self.signal(libc::SIGKILL);
        self.wait(Duration::from_secs(10)).expect("a killed process ends")
    }

    /// True once it sleeps in the kernel; false once it has ended.
    pub fn until_asleep(&mut self) -> bool {
        let deadline = Deadline::after(Some(Duration::from_secs(5)));
        loop {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
            match stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next()) {
                Some('S') => return true,
                Some('Z' | 'X') | None => return false,
                _ => std::thread::yield_now(),
            }
            assert!(!deadline.passed(), "process {} does not go to sleep", self.pid);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill();
        }
    }
}

fn collect(pid: i32) -> End {
    let mut status = 0;
    // SAFETY: a child of ours, collected here only.
    let collected = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(collected, pid, "waitpid: {}", std::io::Error::last_os_error());
    if libc::WIFSIGNALED(status) { End::Killed(libc::WTERMSIG(status)) } else { End::Exited(libc::WEXITSTATUS(status)) }
}

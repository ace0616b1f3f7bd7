//! The lifeline: a child sees the end of the process that it works for, however that one ended.
//!
//! ```text
//!  0 s        the one we work for is gone; whoever waits for it (a poll on the descriptor) wakes up
//!  1 s        SIGTERM to ourselves: handlers may still tidy up
//!  1.8 s      SIGKILL to ourselves
//! ```
//!
//! It is a pidfd of that process, opened by it on itself and handed down: by a fork as a number, by an exec or a server as
//! a descriptor. So it names the right process even if that one is long dead and its pid another's when we first look.
//!
//! There is no `PR_SET_PDEATHSIG` beside it: that signal follows the *thread* that forked, so it would kill the children of
//! a program that starts them from a thread which then ends, and it is lost where the parent died first.
//!
//! `POLYPROC_ORPHANS=keep` in the environment lets children outlive their parent.

use super::supervisor;
use crate::Result;
use crate::sys::clock;
use crate::sys::{pidfd, proc, signal};
use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// When the environment variable of this name says "keep", processes outlive a parent that was killed.
pub const VARIABLE: &str = "POLYPROC_ORPHANS";

const TERM_AFTER: u64 = 1_000_000_000;
const KILL_AFTER: u64 = 1_800_000_000;

/// A pidfd of this process, opened at the first call, to be handed to its children. It is closed on exec.
pub fn own() -> Result<RawFd> {
    /// `pid << 32 | descriptor`, one word, so that a forked child sees that it is not its own.
    static OWN: AtomicU64 = AtomicU64::new(0);
    /// Its inode, where the kernel (since 6.9) has one for each process; otherwise zero.
    static INODE: AtomicU64 = AtomicU64::new(0);
    let pid = proc::pid();
    let known = OWN.load(Ordering::Acquire);
    let descriptor = (known & 0xffff_ffff) as RawFd;
    // A program that closed all its descriptors may have another file there by now.
    if (known >> 32) as i32 == pid {
        let same = match INODE.load(Ordering::Acquire) {
            0 => proc::pid_behind(descriptor) == Some(pid),
            inode => pidfd::inode(descriptor) == Some(inode),
        };
        if same {
            return Ok(descriptor);
        }
    }
    let fresh = pidfd::open(pid)?.into_raw_fd();
    // The same for every pidfd of this process: it does not matter whose is the last store.
    INODE.store(pidfd::inode(fresh).unwrap_or(0), Ordering::Release);
    // ORDER: AcqRel; who loses this race has opened one descriptor too many, and keeps to its own.
    let _ = OWN.compare_exchange(
        known,
        ((pid as u64) << 32) | u64::from(fresh as u32),
        Ordering::AcqRel,
        Ordering::Acquire,
    );
    Ok(fresh)
}

/// From now on this process ends when the process behind `descriptor`, a pidfd, does. To be called before any code of the
/// program runs; a process that is dead already is seen as well. The descriptor must stay open.
///
/// # Errors
/// [`crate::Error::Os`] where there is no descriptor or thread to be had.
pub fn arm(descriptor: BorrowedFd<'_>) -> Result<()> {
    if std::env::var_os(VARIABLE).is_some_and(|value| value == "keep") {
        return Ok(());
    }
    supervisor::watch_lifeline(descriptor)
}

/// What is done once the lifeline has fired, and when.
pub(super) struct Orphan {
    since: u64,
    steps: u32,
}

impl Orphan {
    pub(super) fn now() -> Orphan {
        log::debug!("polyproc: the process that process {} works for is gone", proc::pid());
        Orphan { since: clock::now(), steps: 0 }
    }

    /// When there is something to do next, in nanoseconds of [`clock::now`].
    pub(super) fn next_step(&self) -> u64 {
        match self.steps {
            0 => self.since + TERM_AFTER,
            1 => self.since + KILL_AFTER,
            _ => u64::MAX,
        }
    }

    /// Does what is due.
    pub(super) fn step(&mut self, now: u64) {
        if now < self.next_step() {
            return;
        }
        self.steps += 1;
        match self.steps {
            1 => signal::raise_in_process(signal::TERM),
            _ => signal::raise_in_process(signal::KILL),
        }
    }
}

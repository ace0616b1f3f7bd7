//! Waiting for many descriptors with epoll(7), each known by a number of the caller's.

use super::clock::Deadline;
use crate::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// The most events that one wait gives.
pub const BATCH: usize = 64;

/// Makes a set with nothing in it.
pub fn create() -> Result<OwnedFd> {
    // SAFETY: epoll_create1 has no preconditions.
    let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if fd < 0 {
        return Err(Error::last("epoll_create1"));
    }
    // SAFETY: `fd` is fresh and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// From now on the set reports `number` while `source` is readable.
pub fn add(set: impl AsFd, source: impl AsFd, number: u64) -> Result<()> {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: number };
    // SAFETY: the event outlives the call, which copies it.
    let outcome = unsafe {
        libc::epoll_ctl(set.as_fd().as_raw_fd(), libc::EPOLL_CTL_ADD, source.as_fd().as_raw_fd(), &mut event)
    };
    if outcome < 0 { Err(Error::last("epoll_ctl")) } else { Ok(()) }
}

/// True if `set` is an epoll set that has `source` in it under `number`: whether two descriptors of ours are still ours.
pub fn has(set: impl AsFd, source: impl AsFd, number: u64) -> bool {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: number };
    // SAFETY: the event outlives the call, which copies it.
    let outcome = unsafe {
        libc::epoll_ctl(set.as_fd().as_raw_fd(), libc::EPOLL_CTL_MOD, source.as_fd().as_raw_fd(), &mut event)
    };
    outcome == 0
}

/// The set no longer reports `source`.
pub fn remove(set: impl AsFd, source: impl AsFd) -> Result<()> {
    // SAFETY: the event is not looked at for this operation.
    let outcome = unsafe {
        libc::epoll_ctl(set.as_fd().as_raw_fd(), libc::EPOLL_CTL_DEL, source.as_fd().as_raw_fd(), std::ptr::null_mut())
    };
    if outcome < 0 { Err(Error::last("epoll_ctl")) } else { Ok(()) }
}

/// Waits until something in the set is readable, and appends the numbers to `ready`; nothing if the deadline came first.
pub fn wait(set: impl AsFd, ready: &mut Vec<u64>, deadline: Deadline) -> Result<()> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH];
    // SAFETY: the array has BATCH entries.
    let count = unsafe {
        libc::epoll_wait(set.as_fd().as_raw_fd(), events.as_mut_ptr(), BATCH as i32, deadline.poll_milliseconds())
    };
    if count < 0 {
        return Err(Error::last("epoll_wait"));
    }
    ready.extend(events[..count as usize].iter().map(|event| event.u64));
    Ok(())
}

//! Waiting for descriptors with poll(2).

use super::clock::Deadline;
use crate::{Error, Result};
use std::os::fd::RawFd;

/// One descriptor to wait for, and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct Polled {
    /// The descriptor.
    pub fd: RawFd,
    /// Readable, or at its end, or in error.
    pub ready: bool,
    /// The other end has hung up.
    pub hung_up: bool,
}

impl Polled {
    /// A descriptor of which nothing is known yet.
    pub fn new(fd: RawFd) -> Polled {
        Polled { fd, ready: false, hung_up: false }
    }
}

/// Waits until one of the descriptors is readable, hung up or in error, or until the deadline. Gives how many are.
pub fn wait(polled: &mut [Polled], deadline: Deadline) -> Result<usize> {
    let mut few = [libc::pollfd { fd: 0, events: 0, revents: 0 }; 8];
    let mut many = Vec::new();
    let entries = if polled.len() <= few.len() {
        &mut few[..polled.len()]
    } else {
        many.resize(polled.len(), few[0]);
        &mut many[..]
    };
    for (entry, p) in entries.iter_mut().zip(polled.iter()) {
        *entry = libc::pollfd { fd: p.fd, events: libc::POLLIN, revents: 0 };
    }
    // SAFETY: the array has as many entries as are given.
    let count = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as _, deadline.poll_milliseconds()) };
    if count < 0 {
        return Err(Error::last("poll"));
    }
    for (entry, p) in entries.iter().zip(polled.iter_mut()) {
        p.ready = entry.revents != 0;
        p.hung_up = entry.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0;
    }
    Ok(count as usize)
}

/// Waits until the descriptor is hung up or in error, whether or not it is readable; or until the deadline.
pub fn until_hung_up(fd: RawFd, deadline: Deadline) -> Result<()> {
    let mut entry = libc::pollfd { fd, events: 0, revents: 0 };
    // SAFETY: one entry is given.
    match unsafe { libc::poll(&mut entry, 1, deadline.poll_milliseconds()) } {
        -1 => Err(Error::last("poll")),
        _ => Ok(()),
    }
}

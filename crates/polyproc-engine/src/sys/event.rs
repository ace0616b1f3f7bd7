//! An eventfd: a descriptor that is readable or not, as told.

use crate::{Error, Result};
use rustix::event::EventfdFlags;
use std::os::fd::{AsFd, OwnedFd};

/// Makes an eventfd, not readable yet.
pub fn create() -> Result<OwnedFd> {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| Error::os("eventfd", e))
}

/// Makes it readable.
pub fn raise(fd: impl AsFd) {
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}

/// Makes it unreadable.
pub fn lower(fd: impl AsFd) {
    let mut count = [0u8; 8];
    let _ = rustix::io::read(fd, &mut count);
}

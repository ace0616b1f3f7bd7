//! File descriptors as such: moved, marked, told apart.

use crate::{Error, Result};
use rustix::io::{DupFlags, FdFlags};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The descriptor, or a copy of it with a number above those of the standard streams.
pub fn above_standard_streams(fd: OwnedFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    rustix::io::fcntl_dupfd_cloexec(&fd, 3).map_err(|e| Error::os("fcntl(F_DUPFD_CLOEXEC)", e))
}

/// Device and inode: what tells one file from another.
pub fn file_of(fd: BorrowedFd<'_>) -> Result<(u64, u64)> {
    rustix::fs::fstat(fd).map(|s| (s.st_dev, s.st_ino)).map_err(|e| Error::os("fstat", e))
}

/// From now on an exec closes the descriptor.
pub fn close_on_exec(fd: impl AsFd) -> Result<()> {
    rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).map_err(|e| Error::os("fcntl(F_SETFD)", e))
}

/// Makes the number of `old` stand for what `fresh` stands for.
pub fn replace(fresh: impl AsFd, old: &mut OwnedFd) -> Result<()> {
    rustix::io::dup3(fresh, old, DupFlags::CLOEXEC).map_err(|e| Error::os("dup3", e))
}

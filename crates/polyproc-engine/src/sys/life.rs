//! The life of a process as a lock that the kernel drops.
//!
//! A *life descriptor* is an open file description of its own, of the session's memfd, with a write lock on one byte
//! (an OFD lock, fcntl(2)). Every process that has a copy of the description keeps the lock; when the last copy is closed,
//! which the kernel does at the end of a process and at an exec, the lock is gone. So "is it alive?" is one call that
//! anybody in the session can make, that cannot be fooled by a reused pid, works across pid namespaces, and tells of a
//! process that has become another program.
//!
//! That no store can follow the end of the lock: a dying thread gives up its memory (`exit_mm`) before its descriptors
//! (`exit_files`), see `do_exit` in the kernel's `kernel/exit.c`; the table of descriptors goes with its last thread.

use crate::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

fn byte(kind: libc::c_int, index: u64) -> libc::flock {
    // SAFETY: flock is plain data; zero is valid for every field.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as _;
    lock.l_whence = libc::SEEK_SET as _;
    lock.l_start = index as _;
    lock.l_len = 1;
    lock
}

/// Opens a new life descriptor and locks byte `index`.
pub fn open(memfd: BorrowedFd<'_>, index: u64) -> Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}\0", memfd.as_raw_fd());
    // SAFETY: the path ends with a NUL.
    let fd = unsafe { libc::open(path.as_ptr().cast(), libc::O_RDWR | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(Error::last("open(/proc/self/fd) of the session memory"));
    }
    // SAFETY: `fd` is fresh and ours.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let lock = byte(libc::F_WRLCK, index);
    // SAFETY: F_OFD_SETLK reads one flock.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &lock) } < 0 {
        return Err(Error::last("fcntl(F_OFD_SETLK) on the session memory"));
    }
    Ok(fd)
}

/// True if any process has the life descriptor of byte `index`. `memfd` must not itself be a life descriptor.
pub fn is_held(memfd: RawFd, index: u64) -> Result<bool> {
    let mut lock = byte(libc::F_WRLCK, index);
    // SAFETY: F_OFD_GETLK reads and writes one flock.
    if unsafe { libc::fcntl(memfd, libc::F_OFD_GETLK, &mut lock) } < 0 {
        return Err(Error::last("fcntl(F_OFD_GETLK) on the session memory"));
    }
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

//! An anonymous file of memory: made, sealed, mapped, reserved and given back page by page.

use crate::{Error, Result};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Makes a memfd of `size` bytes that can neither shrink nor grow. Its pages come into being when they are touched.
pub fn create(size: u64) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Where the kernel knows it (6.3), say that this memory is never executable: vm.memfd_noexec=2 demands it.
    let fd = match rustix::fs::memfd_create("polyproc", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("polyproc", flags),
        other => other,
    }
    .map_err(|e| match e {
        rustix::io::Errno::PERM | rustix::io::Errno::NOSYS => {
            Error::Unsupported { call: "memfd_create", source: e.into() }
        }
        e => Error::os("memfd_create", e),
    })?;
    rustix::fs::ftruncate(&fd, size).map_err(|e| Error::os("ftruncate of the session memory", e))?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
        .map_err(|e| Error::os("fcntl(F_ADD_SEALS) of the session memory", e))?;
    Ok(fd)
}

/// The size of the file in bytes.
pub fn size(fd: BorrowedFd<'_>) -> Result<u64> {
    rustix::fs::fstat(fd).map(|s| s.st_size as u64).map_err(|e| Error::os("fstat of the session memory", e))
}

/// Maps the whole file, shared, readable and writable; core dumps leave it out.
pub fn map(fd: BorrowedFd<'_>, size: u64) -> Result<*mut u8> {
    // SAFETY: the kernel chooses the place, so no existing mapping is touched.
    let base = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            size as usize,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::NORESERVE,
            fd,
            0,
        )
    }
    .map_err(|e| Error::os("mmap of the session memory", e))?;
    // SAFETY: the range was mapped just now. A failure only makes core dumps larger.
    let _ = unsafe { rustix::mm::madvise(base, size as usize, Advice::LinuxDontDump) };
    Ok(base.cast())
}

/// Maps `length` bytes at `address` anew from `offset` of the file, shared or private. What this process alone had
/// written to a private mapping of the range is gone.
///
/// # Safety
/// `address` must be the place in a mapping made by [`map`] that shows `offset`, and nobody in this process may be using
/// the range, except that with `private` reading it (and, where the caller stops all other threads, writing) goes on.
pub unsafe fn remap(fd: BorrowedFd<'_>, address: *mut u8, length: u64, offset: u64, private: bool) -> Result<()> {
    let kind = if private { MapFlags::PRIVATE } else { MapFlags::SHARED };
    // SAFETY: the caller vouches for the range.
    unsafe {
        rustix::mm::mmap(
            address.cast(),
            length as usize,
            ProtFlags::READ | ProtFlags::WRITE,
            kind | MapFlags::FIXED | MapFlags::NORESERVE,
            fd,
            offset,
        )
        .map_err(|e| Error::os("mmap(MAP_FIXED) of a block", e))?;
        let _ = rustix::mm::madvise(address.cast(), length as usize, Advice::LinuxDontDump);
    }
    Ok(())
}

/// Gives the file real pages for a range, now, so that touching them later cannot fail.
pub fn reserve(fd: impl AsFd, offset: u64, length: u64) -> Result<()> {
    loop {
        match rustix::fs::fallocate(&fd, FallocateFlags::KEEP_SIZE, offset, length) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(|e| Error::os("fallocate of the session memory", e)),
        }
    }
}

/// Gives the pages of a range back to the system; it then reads as zeros.
pub fn punch(fd: impl AsFd, offset: u64, length: u64) -> Result<()> {
    rustix::fs::fallocate(fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)
        .map_err(|e| Error::os("fallocate(PUNCH_HOLE) of the session memory", e))
}

/// Maps the pages of a range into this process in one go, so that writing to them does not fault page by page.
///
/// # Safety
/// The range must lie in one mapping of the caller's.
pub unsafe fn populate(address: *mut u8, length: u64) {
    const MADV_POPULATE_WRITE: i32 = 23;
    // SAFETY: the caller vouches for the range; an old kernel refuses the advice, which costs only time.
    unsafe { libc::madvise(address.cast(), length as usize, MADV_POPULATE_WRITE) };
}

/// A private page that a fork leaves behind: the child finds it full of zeros (MADV_WIPEONFORK, Linux 4.14).
pub fn page_wiped_on_fork() -> Result<*mut u8> {
    // SAFETY: the kernel chooses the place.
    let page = unsafe {
        rustix::mm::mmap_anonymous(std::ptr::null_mut(), 4096, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    }
    .map_err(|e| Error::os("mmap of a page", e))?;
    // SAFETY: the page was mapped just now.
    unsafe { rustix::mm::madvise(page, 4096, Advice::LinuxWipeOnFork) }
        .map_err(|e| Error::os("madvise(MADV_WIPEONFORK)", e))?;
    Ok(page.cast())
}

//! Process descriptors: a name for a process that no other process can ever get, and that poll(2) can wait for.
//!
//! A pidfd becomes readable when the last thread of its process has ended, whether or not anybody has collected it
//! (pidfd_open(2)). It is inherited by a fork and can be sent over a socket.

use super::clock::Deadline;
use super::poll;
use crate::{Error, Result};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal; true if it left a core file.
    Signaled(i32, bool),
}

/// A descriptor of the process `pid`, which must be this process, or a child that nobody has collected yet.
pub fn open(pid: i32) -> Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or_else(|| Error::os("pidfd_open", rustix::io::Errno::SRCH))?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|e| match e {
        // An old container profile answers EPERM to calls that it does not know.
        rustix::io::Errno::PERM => Error::Unsupported { call: "pidfd_open", source: e.into() },
        e => Error::os("pidfd_open", e),
    })
}

/// The number of the process that a pidfd names, which no other process has until the next start of the system; `None`
/// where the descriptor is no pidfd, or the kernel (before 6.9) gives them no inodes.
pub fn inode(descriptor: RawFd) -> Option<u64> {
    const PID_FS: u64 = 0x5049_4446;
    // SAFETY: only asks what is behind the number.
    let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let system = rustix::fs::fstatfs(descriptor).ok()?;
    (system.f_type as u64 == PID_FS).then(|| rustix::fs::fstat(descriptor).ok().map(|stat| stat.st_ino))?
}

/// Sends a signal. ESRCH once the process has been collected, even if its pid has been given to another.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    // SAFETY: pidfd_send_signal takes a descriptor, a number, no siginfo and no flags.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if outcome < 0 { Err(Error::last("pidfd_send_signal")) } else { Ok(()) }
}

/// How a child ended, without collecting it; `None` while it runs.
///
/// # Errors
/// ECHILD if it is not a child of this process, or somebody has collected it.
pub fn observe(pidfd: impl AsFd) -> Result<Option<End>> {
    wait(pidfd, WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
}

/// How a child ended, collecting it; `None` while it runs.
///
/// # Errors
/// As [`observe`].
pub fn collect(pidfd: impl AsFd) -> Result<Option<End>> {
    wait(pidfd, WaitIdOptions::NOHANG)
}

/// What a process has used: time on a processor in nanoseconds, and the most memory at once in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// User and system time.
    pub processor: u64,
    /// Its largest resident set.
    pub peak: u64,
}

/// As [`collect`], with what the child has used.
pub fn collect_with_usage(pidfd: impl AsFd) -> Result<Option<(End, Used)>> {
    // SAFETY: both are plain data for which zero is valid.
    let (mut info, mut usage): (libc::siginfo_t, libc::rusage) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    // SAFETY: the kernel's own waitid takes a fifth argument, and fills at most one of each.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_waitid,
            libc::P_PIDFD,
            pidfd.as_fd().as_raw_fd(),
            &mut info,
            libc::WEXITED | libc::WNOHANG,
            &mut usage,
        )
    };
    if outcome < 0 {
        return Err(Error::last("waitid"));
    }
    // SAFETY: zeroed above, and filled with a child's end if there is one.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let end = match info.si_code {
        _ if pid == 0 => return Ok(None),
        libc::CLD_EXITED => End::Exited(status),
        code => End::Signaled(status, code == libc::CLD_DUMPED),
    };
    let time = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1_000;
    let used = Used { processor: time(usage.ru_utime) + time(usage.ru_stime), peak: usage.ru_maxrss as u64 * 1024 };
    Ok(Some((end, used)))
}

/// True for the error of a process that is not a child of ours, or was collected already.
pub fn is_not_ours(error: &Error) -> bool {
    error.raw_os_error() == Some(libc::ECHILD)
}

fn wait(pidfd: impl AsFd, options: WaitIdOptions) -> Result<Option<End>> {
    let status = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | options)
        .map_err(|e| Error::os("waitid", e))?;
    Ok(status.and_then(|status| match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(End::Exited(code)),
        (None, Some(signal)) => Some(End::Signaled(signal, status.dumped())),
        (None, None) => None,
    }))
}

/// How a process ended, also if somebody else has collected it: `None` where the kernel (before 6.15) does not tell, or
/// nobody has collected it yet.
pub fn ended(pidfd: impl AsFd) -> Option<End> {
    exit_of(pidfd).ok().flatten()
}

/// As [`ended`], of a process that has ended; it waits until somebody has collected it.
pub fn ended_soon(pidfd: impl AsFd, deadline: Deadline) -> Option<End> {
    let pidfd = pidfd.as_fd();
    loop {
        match exit_of(pidfd) {
            Ok(Some(end)) => return Some(end),
            Ok(None) if !deadline.passed() => poll::until_hung_up(pidfd.as_raw_fd(), deadline).ok()?,
            _ => return None,
        }
    }
}

/// An error where the kernel does not tell; `None` before the process was collected.
fn exit_of(pidfd: impl AsFd) -> Result<Option<End>> {
    /// `struct pidfd_info` in its first published size (PIDFD_INFO_SIZE_VER0), from linux/pidfd.h.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        pids: [u32; 3],
        credentials: [u32; 8],
        exit_code: i32,
    }
    const _: () = assert!(std::mem::size_of::<Info>() == 64);
    const ASK_EXIT: u64 = 1 << 3;
    // _IOWR(0xff, 11, struct pidfd_info)
    const GET_INFO: libc::c_ulong = (3 << 30) | (64 << 16) | (0xff << 8) | 11;
    let mut info = Info { mask: ASK_EXIT, ..Info::default() };
    // SAFETY: the call writes at most the 64 bytes that its number encodes; other kinds of descriptor refuse it.
    let outcome = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), GET_INFO as _, &mut info) };
    if outcome < 0 {
        return Err(Error::last("ioctl(PIDFD_GET_INFO)"));
    }
    if info.mask & ASK_EXIT == 0 {
        return Ok(None);
    }
    let status = info.exit_code;
    Ok(if libc::WIFEXITED(status) {
        Some(End::Exited(libc::WEXITSTATUS(status)))
    } else if libc::WIFSIGNALED(status) {
        Some(End::Signaled(libc::WTERMSIG(status), libc::WCOREDUMP(status)))
    } else {
        None
    })
}

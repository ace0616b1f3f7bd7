//! Starting another process: a copy of this one, or another program.

use crate::{Error, Result};
use std::ffi::{CString, OsStr};
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Forks. Zero in the child, its pid in the parent.
///
/// # Safety
/// In a process with other threads the child may do only what is safe after such a fork (fork(2)): a lock that another
/// thread held at this moment is held for ever in the child.
pub unsafe fn fork() -> Result<i32> {
    // SAFETY: what the caller promised.
    match unsafe { libc::fork() } {
        -1 => Err(Error::last("fork")),
        pid => Ok(pid),
    }
}

/// Kills a child that nobody has collected, and collects it.
pub fn end_child(pid: i32) {
    // SAFETY: the pid is that of a child which has not been collected, so no other process can have it.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
}

/// Ends this process at once: no destructors, no exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Ends a forked process: what it has written to its standard streams goes out, and nothing else happens. The handlers that
/// the program had registered for its own end before the fork (destructors of C++ libraries, say, that remove the program's
/// files) are the program's: they run there.
pub fn end(code: i32) -> ! {
    let _ = io::stdout().flush();
    // SAFETY: a null stream means all streams of the C library.
    unsafe { libc::fflush(std::ptr::null_mut()) };
    exit_now(code)
}

/// Starts a program with `arguments` and `environment` added to ours, and with these descriptors open in it, each under
/// the number that it has here. Gives its pid; it is the caller's to collect.
///
/// # Errors
/// [`Error::Os`] if the program cannot be executed: the standard library waits until it has been, or has not.
pub fn program(
    path: &OsStr,
    arguments: &[&OsStr],
    environment: &[(&OsStr, &OsStr)],
    descriptors: &[BorrowedFd<'_>],
) -> Result<i32> {
    // The path is checked here since Command would only say that it has a NUL.
    CString::new(path.as_bytes()).map_err(|e| Error::os("execve", io::Error::from(e)))?;
    let mut command = Command::new(path);
    command.args(arguments).envs(environment.iter().copied());
    start(command, descriptors)
}

/// Starts this program once more, whatever has become of its file since, with its own arguments; otherwise as [`program`].
///
/// # Errors
/// As [`program`].
pub fn again(environment: &[(&OsStr, &OsStr)], descriptors: &[BorrowedFd<'_>]) -> Result<i32> {
    let mut command = Command::new("/proc/self/exe");
    let mut arguments = std::env::args_os();
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).envs(environment.iter().copied());
    start(command, descriptors)
}

fn start(mut command: Command, descriptors: &[BorrowedFd<'_>]) -> Result<i32> {
    use std::os::fd::AsRawFd;
    let kept: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: fcntl may be called between fork and exec; the numbers are open descriptors, which the fork has copied.
    unsafe {
        command.pre_exec(move || {
            for &fd in &kept {
                if libc::fcntl(fd, libc::F_SETFD, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    let child = command.spawn().map_err(|e| Error::os("execve", e))?;
    Ok(child.id() as i32)
}

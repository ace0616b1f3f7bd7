//! Signals: kept away from a thread, noticed while one waits, and sent to this process.

use crate::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

/// Asks a process to end.
pub const TERM: i32 = libc::SIGTERM;
/// Ends a process.
pub const KILL: i32 = libc::SIGKILL;
/// Tells a process that it has been on a processor for too long.
pub const TOO_LONG: i32 = libc::SIGXCPU;
/// Stops a process where it is.
pub const STOP: i32 = libc::SIGSTOP;
/// Lets a stopped process go on.
pub const CONTINUE: i32 = libc::SIGCONT;

/// Which signals a thread had blocked before [`block_all`].
#[derive(Clone, Copy)]
pub struct Mask(libc::sigset_t);

/// Blocks every signal in this thread.
pub fn block_all() -> Mask {
    // SAFETY: sigset_t is plain data that sigfillset fills.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut before: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: both sets are valid, and live as long as the calls.
    unsafe {
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
    }
    Mask(before)
}

impl Mask {
    /// Blocks what was blocked before, and nothing else.
    pub fn restore(&self) {
        // SAFETY: the set is what the system gave.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

/// Whether what handles this process's signals runs only after a wait has returned to it.
static HANDLED_LATER: AtomicBool = AtomicBool::new(false);

/// For a program whose signal handlers only take a note, and act when the call that waits returns, as Python's do. A signal
/// that arrives in a waiting thread just before it falls asleep interrupts nothing. So from now on each wait of this
/// process returns [`Error::Interrupted`] about once a second, and the caller, who looks for such notes then, calls again.
pub fn handle_later() {
    HANDLED_LATER.store(true, Ordering::Relaxed);
}

/// What a wait asks at the end of each slice of its sleep.
///
/// # Errors
/// [`Error::Interrupted`] after [`handle_later`].
pub fn look_up() -> Result<()> {
    if HANDLED_LATER.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}

/// Runs `f` with every signal blocked in this thread. A thread that `f` starts begins, and stays, that way.
pub fn blocked<R>(f: impl FnOnce() -> R) -> R {
    let before = block_all();
    let result = f();
    before.restore();
    result
}

/// From now on a write to a pipe that nobody reads is an error, not the end: what Rust's runtime does before `main`.
pub fn ignore_broken_pipes() {
    // SAFETY: ignoring a signal has no preconditions.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// This process is killed when the thread that forked it ends. False if that has happened already: `parent` is gone.
pub fn die_with(parent: i32) -> bool {
    // SAFETY: the option takes a number; getppid has no preconditions.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::getppid() == parent
    }
}

/// Sends a signal to this process.
pub fn raise_in_process(signal: i32) {
    // SAFETY: kill and getpid have no preconditions.
    unsafe { libc::kill(libc::getpid(), signal) };
}

/// True while a thread of this process with this number exists.
pub fn thread_exists(thread: i32) -> bool {
    // SAFETY: signal 0 is sent to nobody; the call only looks.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, 0) == 0 }
}

/// The name of a signal: "SIGKILL".
pub fn name(signal: i32) -> String {
    const NAMES: [(i32, &str); 22] = [
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGTRAP, "SIGTRAP"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGUSR1, "SIGUSR1"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGUSR2, "SIGUSR2"),
        (libc::SIGPIPE, "SIGPIPE"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGCHLD, "SIGCHLD"),
        (libc::SIGXCPU, "SIGXCPU"),
        (libc::SIGXFSZ, "SIGXFSZ"),
        (libc::SIGVTALRM, "SIGVTALRM"),
        (libc::SIGPROF, "SIGPROF"),
        (libc::SIGIO, "SIGIO"),
        (libc::SIGSYS, "SIGSYS"),
    ];
    match NAMES.iter().find(|(number, _)| *number == signal) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("signal {signal}"),
    }
}

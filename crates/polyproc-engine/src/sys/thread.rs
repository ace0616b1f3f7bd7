//! Threads of the engine: with a name, and deaf to signals, which belong to the program.

use crate::{Error, Result};

/// Starts a thread that no signal is delivered to.
pub fn spawn_without_signals(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    // A thread inherits the mask of the one that starts it.
    // SAFETY: the sets are plain data on this stack.
    let before = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        before
    };
    let started = std::thread::Builder::new().name(name.to_owned()).stack_size(256 * 1024).spawn(body);
    // SAFETY: as above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) };
    started.map(drop).map_err(|e| Error::os("starting a thread", e))
}

/// Does now what the first value of this thread with a destructor costs: the C library finds a function of the dynamic
/// linker, by name. For a process that will fork others, each of which would look for it.
pub fn prepare() {
    thread_local! {
        static FIRST: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    FIRST.with_borrow_mut(Vec::clear);
}

//! What runs around every fork of this process, whoever calls it: pthread_atfork, and the number of forks behind us.

use crate::{Error, Result};
use std::sync::atomic::{AtomicI32, Ordering};

static COUNT: AtomicI32 = AtomicI32::new(1);

/// How many forks lie between the first process that watched them and this one, plus one. It differs between a parent
/// and its child, once [`watch`] was called.
#[inline]
pub fn count() -> i32 {
    COUNT.load(Ordering::Relaxed)
}

/// Runs these three functions around every fork from now on (there is no way to take that back).
pub fn watch(before: extern "C" fn(), in_parent: extern "C" fn(), in_child: extern "C" fn()) -> Result<()> {
    extern "C" fn counted() {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the functions live as long as the program; they are written for what may run between fork and return.
    let outcome = unsafe {
        match libc::pthread_atfork(None, None, Some(counted)) {
            0 => libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)),
            failed => failed,
        }
    };
    match outcome {
        0 => Ok(()),
        number => Err(Error::os("pthread_atfork", std::io::Error::from_raw_os_error(number))),
    }
}

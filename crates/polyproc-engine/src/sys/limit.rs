//! Limits that a process sets for itself, before it runs anything that is not ours.

use crate::{Error, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CpuSet;
use std::time::Duration;

/// This process gets SIGXCPU once all its threads together have been on a processor for `time`, and SIGKILL one to two
/// seconds later, should it live on.
///
/// The signal comes from a timer (timer_create(2)), which is exact; RLIMIT_CPU, which counts whole seconds, is behind it.
///
/// # Errors
/// [`Error::Os`] where the system has no timer left.
pub fn processor(time: Duration) -> Result<()> {
    // SAFETY: plain data, for which zero is valid.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = libc::SIGXCPU;
    let mut timer: libc::timer_t = std::ptr::null_mut();
    // SAFETY: the event is filled in, and there is a place for the timer.
    if unsafe { libc::timer_create(libc::CLOCK_PROCESS_CPUTIME_ID, &mut event, &mut timer) } < 0 {
        return Err(Error::last("timer_create"));
    }
    // A timer of no time at all is one that is off.
    let time = time.max(Duration::from_nanos(1));
    let value = libc::timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos().into() };
    let once = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
    // SAFETY: the timer was made just now; nobody wants the old time.
    if unsafe { libc::timer_settime(timer, 0, &once, std::ptr::null_mut()) } < 0 {
        return Err(Error::last("timer_settime"));
    }
    let last = time.as_secs() + 2;
    let most = getrlimit(Resource::Cpu).maximum.map_or(last, |most| most.min(last));
    setrlimit(Resource::Cpu, Rlimit { current: Some(most), maximum: Some(most) })
        .map_err(|e| Error::os("setrlimit(RLIMIT_CPU)", e))
}

/// This process, and what it starts, runs on these processors only.
///
/// # Errors
/// [`Error::Os`] if none of them is there.
pub fn affinity(processors: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for &processor in processors.iter().filter(|&&processor| processor < CpuSet::MAX_CPU) {
        set.set(processor);
    }
    rustix::thread::sched_setaffinity(None, &set).map_err(|e| Error::os("sched_setaffinity", e))
}

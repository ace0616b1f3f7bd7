//! Processes that run one function.

mod builder;

pub use builder::Builder;

use crate::logging;
use crate::start::kind;
use crate::task::Task;
use crate::wire;
use crate::{Cause, Error, Identity, Result, TaskError};
use polyproc_engine::channel::Queue;
use polyproc_engine::process::zygote::Worker;
use polyproc_engine::process::{Cause as Evidence, Child, Ending, Status};
use polyproc_engine::sys::signal;
use polyproc_engine::{Deadline, Error as EngineError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// A process that runs one function, as a [thread](std::thread) does, but can crash, leak, or be killed, alone.
///
/// Dropping the handle detaches the process, as with a thread: it goes on, and is collected when it ends. No process outlives
/// the program: when the program ends, those that still run get SIGTERM at once if `main` returned (with
/// [`#[polyproc::main]`](crate::main)), otherwise after a second, and SIGKILL 0.8 seconds later.
///
/// # Examples
/// ```
/// use polyproc::Process;
///
/// fn sum(numbers: Vec<u64>) -> u64 {
///     numbers.iter().sum()
/// }
///
/// let child = Process::spawn(sum, (vec![1, 2, 3],))?;
/// assert_eq!(child.join().unwrap(), 6);
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct Process<R> {
    worker: Worker,
    results: Queue,
    returns: PhantomData<fn() -> R>,
}

impl Process<()> {
    /// A builder, to say more: a name, limits, the environment.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Process;
    /// let child = Process::builder().memory_limit(1 << 30).spawn(|| 6 * 7, ())?;
    /// assert_eq!(child.join().unwrap(), 42);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Process<()> {
    /// Starts a process that runs `function` with `arguments`, a tuple.
    ///
    /// The function is a `fn` or a closure that captures nothing; arguments and result are serde values. Shared objects
    /// ([`Queue`](crate::Queue), [`Lock`](crate::Lock), the ends of a [pipe](crate::pipe)) can be among the arguments.
    ///
    /// # Errors
    /// [`Error::Encode`] if an argument refuses to be serialised; [`Error::Unreachable`] if the function lies in a library
    /// that the zygote does not have; [`Error::Engine`] if the system has no room for another process.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Process;
    /// let children: Vec<_> = (0..4u64).map(|i| Process::spawn(|i: u64| i * i, (i,))).collect::<Result<_, _>>()?;
    /// let squares: Vec<u64> = children.into_iter().map(|child| child.join().unwrap()).collect();
    /// assert_eq!(squares, [0, 1, 4, 9]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn spawn<F, A>(function: F, arguments: A) -> Result<Process<F::Output>>
    where
        F: Task<A>,
        A: Serialize,
    {
        Builder::default().spawn(function, arguments)
    }
}

impl<R> Process<R> {
    /// Its pid.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Process;
    /// let child = Process::spawn(|| std::thread::sleep(std::time::Duration::from_secs(60)), ())?;
    /// assert_ne!(child.pid(), std::process::id() as i32);
    /// child.kill()?;
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn pid(&self) -> i32 {
        self.worker.pid()
    }

    /// What it is called.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Process;
    /// fn work() {}
    /// let child = Process::spawn(work, ())?;
    /// assert_eq!(child.name(), "work");
    /// child.join().unwrap();
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn name(&self) -> &str {
        self.worker.name()
    }

    /// True until it has ended.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Process;
    /// let child = Process::spawn(|| std::thread::sleep(std::time::Duration::from_secs(60)), ())?;
    /// assert!(child.is_alive());
    /// child.kill()?;
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn is_alive(&self) -> bool {
        self.worker.is_alive()
    }

    /// Asks it to end: sends SIGTERM. Nothing happens if it has ended already.
    ///
    /// # Errors
    /// [`Error::Engine`] if the system refuses.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Process, TaskError};
    ///
    /// fn work_for_ever() -> u32 {
    ///     loop {
    ///         std::thread::park();
    ///     }
    /// }
    ///
    /// let child = Process::spawn(work_for_ever, ())?;
    /// child.terminate()?;
    /// assert!(matches!(child.join(), Err(TaskError::Crashed { signal: 15, .. })));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn terminate(&self) -> Result<()> {
        self.signal(signal::TERM)
    }

    /// Ends it: sends SIGKILL. What it held is released; see [`Lock`](crate::Lock) for what others see.
    ///
    /// # Errors
    /// [`Error::Engine`] if the system refuses.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Process;
    /// let child = Process::spawn(|| std::thread::sleep(std::time::Duration::from_secs(60)), ())?;
    /// child.kill()?;
    /// assert!(matches!(child.join(), Err(polyproc::TaskError::Crashed { signal: 9, .. })));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn kill(&self) -> Result<()> {
        self.signal(signal::KILL)
    }

    pub(crate) fn child(&self) -> &Arc<Child> {
        self.worker.child()
    }

    fn signal(&self, number: i32) -> Result<()> {
        match self.worker.send_signal(number) {
            Err(EngineError::Os { .. }) if !self.is_alive() => Ok(()),
            outcome => outcome.map_err(Error::from),
        }
    }

    /// How it ended, where that has been reported.
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.worker.ending()
    }

    /// The last lines that it logged before it died without a result.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        wire::with_envelope(|envelope| {
            while wire::again(|| self.results.get(envelope, Deadline::Now)).is_ok() {
                if envelope.kind == kind::LINE {
                    lines.push(String::from_utf8_lossy(&envelope.copy()).into_owned());
                }
            }
        });
        lines
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::new(self.pid(), self.name())
    }
}

impl<R: DeserializeOwned> Process<R> {
    /// Waits until the process has ended, and gives what its function returned.
    ///
    /// # Errors
    /// How it ended, if it ended without a result: see [`TaskError`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Process;
    /// let child = Process::spawn(|text: String| text.len(), ("four".to_owned(),))?;
    /// assert_eq!(child.join().unwrap(), 4);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn join(self) -> Result<R, TaskError> {
        self.outcome(Deadline::Never, Duration::MAX)
    }

    /// As [`Process::join`], but waits no longer than `timeout`. After [`TaskError::TimedOut`] the process still runs: join it
    /// again, or [kill](Process::kill) it.
    ///
    /// # Errors
    /// As [`Process::join`], and [`TaskError::TimedOut`]. A second call after the result was given says [`TaskError::Lost`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Process, TaskError};
    /// use std::time::Duration;
    ///
    /// fn work_for_ever() -> u32 {
    ///     loop {
    ///         std::thread::park();
    ///     }
    /// }
    ///
    /// let mut child = Process::spawn(work_for_ever, ())?;
    /// let outcome = child.join_timeout(Duration::from_millis(20));
    /// assert!(matches!(outcome, Err(TaskError::TimedOut { .. })));
    /// child.kill()?;
    /// assert!(matches!(child.join(), Err(TaskError::Crashed { signal: 9, .. })));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn join_timeout(&mut self, timeout: Duration) -> Result<R, TaskError> {
        self.outcome(wire::within(timeout), timeout)
    }

    fn outcome(&self, deadline: Deadline, after: Duration) -> Result<R, TaskError> {
        let mut process = self.identity();
        let ending = match wire::again(|| self.worker.wait(deadline)) {
            Ok(ending) => ending,
            Err(EngineError::TimedOut) => return Err(TaskError::TimedOut { process, after }),
            Err(error) => return Err(TaskError::Lost { process, detail: error.to_string() }),
        };
        // What it has logged is there before what came of it.
        logging::flush();
        wire::with_envelope(|envelope| {
            loop {
                match wire::again(|| self.results.get(envelope, Deadline::Now)) {
                    Ok(()) => {}
                    Err(EngineError::TimedOut) => return Err(ended(process, ending)),
                    Err(error) => return Err(TaskError::Codec { process, detail: error.to_string() }),
                }
                return match envelope.kind {
                    // It ended before it had read them.
                    kind::ARGUMENTS => continue,
                    kind::LINE => {
                        process.last_lines.push(String::from_utf8_lossy(&envelope.copy()).into_owned());
                        continue;
                    }
                    kind::RESULT => {
                        if !ending.status.success() {
                            log::warn!("polyproc: {process} gave its result and then {}", ending.status);
                        }
                        wire::open(envelope, Vec::new())
                            .map_err(|error| TaskError::Codec { process, detail: error.to_string() })
                    }
                    kind::PANIC => match wire::open::<(String, Option<String>)>(envelope, Vec::new()) {
                        Ok((message, location)) => Err(TaskError::Panicked { process, message, location }),
                        Err(error) => Err(TaskError::Codec { process, detail: error.to_string() }),
                    },
                    _ => {
                        let detail = String::from_utf8_lossy(&envelope.copy()).into_owned();
                        Err(TaskError::Codec { process, detail })
                    }
                };
            }
        })
    }
}

/// What a process that gave no result has come to.
pub(crate) fn ended(process: Identity, ending: Ending) -> TaskError {
    match ending.cause {
        Some(Evidence::MemoryLimit { limit, used }) => return TaskError::MemoryLimit { process, limit, used },
        Some(Evidence::ProcessorLimit { limit }) => return TaskError::CpuLimit { process, limit },
        Some(Evidence::Deadline { after }) => return TaskError::Deadline { process, after },
        Some(Evidence::OutOfMemory { kills }) => return TaskError::OutOfMemory { process, kills },
        _ => {}
    }
    let cause = match ending.cause {
        Some(Evidence::Asked) => Cause::Asked,
        Some(Evidence::ZygoteGone) => Cause::ZygoteGone,
        _ => Cause::Unknown,
    };
    match ending.status {
        Status::Exited(code) => TaskError::Exited { process, code },
        Status::Signaled { signal, core } => TaskError::Crashed { process, signal, core, cause },
        _ => TaskError::Lost { process, detail: "the zygote, which would know how it ended, was killed".to_owned() },
    }
}

impl<R> AsFd for Process<R> {
    /// A descriptor that is readable once the process has ended, for poll, epoll and the like.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.worker.as_fd()
    }
}

impl<R> fmt::Debug for Process<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("pid", &self.pid()).field("name", &self.name()).finish_non_exhaustive()
    }
}

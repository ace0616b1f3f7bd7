//! What can go wrong: with a call ([`Error`]), and with a process that was given a task ([`TaskError`]).

use polyproc_engine::sys::signal;
use std::fmt;
use std::time::Duration;

/// The result of a call of polyproc.
///
/// # Examples
/// ```
/// fn in_another(text: String) -> polyproc::Result<usize> {
///     let child = polyproc::Process::spawn(|text: String| text.len(), (text,))?;
///     Ok(child.join().unwrap())
/// }
/// assert_eq!(in_another("hello".to_owned())?, 5);
/// # Ok::<(), polyproc::Error>(())
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a call can fail with.
///
/// # Examples
/// ```
/// use polyproc::{Error, Queue};
/// use std::time::Duration;
///
/// let queue: Queue<u32> = Queue::unbounded()?;
/// assert!(matches!(queue.get_timeout(Duration::from_millis(1)), Err(Error::TimedOut)));
/// # Ok::<(), polyproc::Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was waited for did not come in time.
    #[error("not in time")]
    TimedOut,
    /// The other end of the pipe is closed, or its process has ended, and all that it sent has been read.
    #[error("end of file: the other end of the pipe is closed or its process has ended")]
    EndOfFile,
    /// Nobody is left who could read what is sent.
    #[error("broken pipe: nobody has the other end of the pipe any more")]
    BrokenPipe,
    /// A value could not be turned into bytes.
    #[error("a value of type {type_name} cannot be sent: {detail}")]
    Encode {
        /// The type of the value.
        type_name: &'static str,
        /// Why.
        detail: String,
    },
    /// What came is not a value of the expected type.
    #[error("what came is not a {type_name}: {detail}; both ends must use the same type")]
    Decode {
        /// The expected type.
        type_name: &'static str,
        /// Why.
        detail: String,
    },
    /// The function cannot be found in another process.
    #[error(
        "the function '{function}' cannot run in another process: its code lies in {place}, which was not loaded when the \
         zygote was started; call polyproc::start() after loading it, or use a function of the program"
    )]
    Unreachable {
        /// The function.
        function: &'static str,
        /// The file that has its code.
        place: String,
    },
    /// The engine refuses; its message says what, whose, and what to do.
    #[error(transparent)]
    Engine(polyproc_engine::Error),
}

impl From<polyproc_engine::Error> for Error {
    fn from(error: polyproc_engine::Error) -> Error {
        match error {
            polyproc_engine::Error::TimedOut => Error::TimedOut,
            polyproc_engine::Error::EndOfFile => Error::EndOfFile,
            polyproc_engine::Error::BrokenPipe => Error::BrokenPipe,
            other => Error::Engine(other),
        }
    }
}

/// Which process an error is about.
///
/// # Examples
/// ```
/// use polyproc::{Process, TaskError};
/// fn leave() {
///     std::process::exit(3);
/// }
///
/// let child = Process::builder().name("worker").spawn(leave, ())?;
/// let pid = child.pid();
/// let Err(TaskError::Exited { process, .. }) = child.join() else { panic!("it exits") };
/// assert_eq!((process.pid, &process.name[..]), (pid, "worker"));
/// assert_eq!(process.to_string(), format!("process 'worker' (pid {pid})"));
/// # Ok::<(), polyproc::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// Its pid, which by now may be another's.
    pub pid: i32,
    /// What its parent calls it.
    pub name: String,
    /// The last lines that it logged, oldest first, at most sixteen: see [`logging`](crate::logging).
    pub last_lines: Vec<String>,
}

impl Identity {
    pub(crate) fn new(pid: i32, name: impl Into<String>) -> Identity {
        Identity { pid, name: name.into(), last_lines: Vec::new() }
    }
}

/// Why a signal has ended a process, as far as that is known.
///
/// # Examples
/// ```
/// use polyproc::{Cause, Process, TaskError};
/// let child = Process::spawn(|| std::thread::sleep(std::time::Duration::MAX), ())?;
/// child.kill()?;
/// assert!(matches!(child.join(), Err(TaskError::Crashed { signal: 9, cause: Cause::Asked, .. })));
///
/// fn abort() {
///     std::process::abort();
/// }
///
/// let child = Process::spawn(abort, ())?;
/// assert!(matches!(child.join(), Err(TaskError::Crashed { signal: 6, cause: Cause::Unknown, .. })));
/// # Ok::<(), polyproc::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The process itself, by an error; or another process, for reasons that nobody has told polyproc.
    Unknown,
    /// The process that had started it called [`terminate`](crate::Process::terminate) or [`kill`](crate::Process::kill).
    Asked,
    /// The zygote from which it had been forked was killed: the system ends its processes with it.
    ZygoteGone,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process '{}' (pid {})", self.name, self.pid)
    }
}

/// How a process failed to give the result of its task. What the task itself returned, be it an error, is never among
/// these.
///
/// # Examples
/// ```
/// use polyproc::{Process, TaskError};
///
/// fn divide(a: u32, b: u32) -> u32 {
///     a / b
/// }
///
/// match Process::spawn(divide, (1, 0))?.join() {
///     Err(TaskError::Panicked { message, .. }) => assert_eq!(message, "attempt to divide by zero"),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), polyproc::Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The task panicked. The panic's message was also written to standard error, as for any thread.
    #[non_exhaustive]
    #[error("{process} panicked{}: {message}", At(location))]
    Panicked {
        /// Which process.
        process: Identity,
        /// What it said.
        message: String,
        /// File, line and column.
        location: Option<String>,
    },
    /// A signal ended the process: it crashed, or was killed.
    #[non_exhaustive]
    #[error("{process} was ended by {}{}{}{}", signal::name(*signal), Core(*core), Because(*signal, *cause), LastLine(process))]
    Crashed {
        /// Which process.
        process: Identity,
        /// The signal's number.
        signal: i32,
        /// The system has written a core file.
        core: bool,
        /// Why, as far as that is known.
        cause: Cause,
    },
    /// It had more memory of its own than its [limit](crate::Builder::memory_limit), and was ended for it.
    #[non_exhaustive]
    #[error("{process} was ended: it had {used} bytes of memory of its own and may have {limit}{}", LastLine(process))]
    MemoryLimit {
        /// Which process.
        process: Identity,
        /// What it may have, in bytes.
        limit: u64,
        /// What it had when that was seen, in bytes.
        used: u64,
    },
    /// It took more time on a processor than its [limit](crate::Builder::cpu_limit), and was ended for it.
    #[non_exhaustive]
    #[error("{process} was ended: it took more than the {limit:?} of processor time that it may{}", LastLine(process))]
    CpuLimit {
        /// Which process.
        process: Identity,
        /// What it may take.
        limit: Duration,
    },
    /// It had not ended at its [deadline](crate::Builder::deadline), and was ended for it.
    #[non_exhaustive]
    #[error("{process} was ended: it ran for longer than the {after:?} that it may{}", LastLine(process))]
    Deadline {
        /// Which process.
        process: Identity,
        /// What it may run for.
        after: Duration,
    },
    /// It was killed, and since processes were last killed here the kernel has ended some of this container (or control
    /// group) for want of memory: in all likelihood this one.
    #[non_exhaustive]
    #[error(
        "{process} was ended by SIGKILL, and the kernel has killed {kills} process(es) for want of memory: give it less to \
         do at once, or the container more memory{}",
        LastLine(process)
    )]
    OutOfMemory {
        /// Which process.
        process: Identity,
        /// How many the kernel has killed.
        kills: u64,
    },
    /// The process ended by itself before the task had returned, as by [`std::process::exit`].
    #[non_exhaustive]
    #[error("{process} ended with exit code {code} before its task had returned{}", LastLine(process))]
    Exited {
        /// Which process.
        process: Identity,
        /// The exit code.
        code: i32,
    },
    /// The task has not ended in time. It still runs.
    #[non_exhaustive]
    #[error("{process} has not ended within {after:?}")]
    TimedOut {
        /// Which process.
        process: Identity,
        /// How long was waited.
        after: Duration,
    },
    /// The arguments could not be read there, or the result could not be sent or read here.
    #[non_exhaustive]
    #[error("{process}: {detail}")]
    Codec {
        /// Which process.
        process: Identity,
        /// What was refused.
        detail: String,
    },
    /// The process is gone and nobody knows how it ended: the zygote that would know was killed, on a system that does not
    /// tell others (Linux before 6.15). Or its result was taken by an earlier call.
    #[non_exhaustive]
    #[error("{process} is gone, and its result with it: {detail}")]
    Lost {
        /// Which process.
        process: Identity,
        /// What is known.
        detail: String,
    },
    /// The task was not begun, and will not be: its [`Pool`](crate::Pool) was dropped, or has no workers and cannot start any.
    #[non_exhaustive]
    #[error("{process}: the task was not done: {detail}")]
    NotDone {
        /// This process, whose pool it was.
        process: Identity,
        /// Why.
        detail: String,
    },
}

struct At<'a>(&'a Option<String>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(location) => write!(f, " at {location}"),
            None => Ok(()),
        }
    }
}

struct Core(bool);

impl fmt::Display for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { " and left a core file" } else { "" })
    }
}

struct Because(i32, Cause);

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.1, self.0) {
            (Cause::Asked, _) => ", as this program had asked",
            (Cause::ZygoteGone, _) => ", after the zygote that it came from was killed",
            // What else ends a process by SIGSEGV has the cause in itself.
            (Cause::Unknown, signal::KILL) => ", cause unknown",
            (Cause::Unknown, _) => "",
        })
    }
}

struct LastLine<'a>(&'a Identity);

impl fmt::Display for LastLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.last_lines.last() {
            Some(line) => write!(f, "; the last that it logged: {line}"),
            None => Ok(()),
        }
    }
}

impl TaskError {
    /// The last lines that the process logged, oldest first, at most sixteen: see [`logging`](crate::logging).
    ///
    /// ```
    /// use polyproc::Process;
    ///
    /// fn work() {
    ///     log::info!("reading the file");
    ///     std::process::abort()
    /// }
    ///
    /// let child = Process::builder().log_level(log::LevelFilter::Info).spawn(work, ())?;
    /// let error = child.join().unwrap_err();
    /// assert!(error.last_lines()[0].ends_with(": reading the file"));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn last_lines(&self) -> &[String] {
        &self.process().last_lines
    }

    /// The process that the error is about.
    ///
    /// ```
    /// use polyproc::Process;
    ///
    /// fn quit() -> u32 {
    ///     std::process::exit(3)
    /// }
    ///
    /// let child = Process::builder().name("quitter").spawn(quit, ())?;
    /// let pid = child.pid();
    /// let error = child.join().unwrap_err();
    /// assert_eq!((error.process().pid, error.process().name.as_str()), (pid, "quitter"));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn process(&self) -> &Identity {
        match self {
            TaskError::Panicked { process, .. }
            | TaskError::Crashed { process, .. }
            | TaskError::MemoryLimit { process, .. }
            | TaskError::CpuLimit { process, .. }
            | TaskError::Deadline { process, .. }
            | TaskError::OutOfMemory { process, .. }
            | TaskError::Exited { process, .. }
            | TaskError::TimedOut { process, .. }
            | TaskError::Codec { process, .. }
            | TaskError::Lost { process, .. }
            | TaskError::NotDone { process, .. } => process,
        }
    }
}

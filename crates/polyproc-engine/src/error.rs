//! Everything that can go wrong in the engine, as one enum: what happened, whose, and what to do next.

/// The result of an engine call.
pub type Result<T> = std::result::Result<T, Error>;

/// What an engine call can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A signal arrived while the call waited. Nothing has changed; look at the signal and call again.
    #[error("a signal arrived while waiting")]
    Interrupted,
    /// Somebody else was at it, and the call was not to wait even for a moment. Try again with a deadline other than
    /// [`crate::Deadline::Now`].
    #[error("another process or thread is using it at this moment")]
    Busy,
    /// What was waited for did not come before the deadline.
    #[error("not in time")]
    TimedOut,
    /// The other end is gone and everything that it sent has been read.
    #[error("end of file: the other end of the pipe is closed or its process has died")]
    EndOfFile,
    /// Nobody is left who could read what is sent.
    #[error("broken pipe: nobody holds the other end of the pipe any more")]
    BrokenPipe,
    /// The session's memory budget does not allow a block of this size.
    #[error(
        "the session's memory budget is used up: {requested} bytes were asked for, {used} of {budget} bytes are in use; \
         free some messages or arrays, or raise POLYPROC_MEMORY_BUDGET"
    )]
    BudgetExhausted {
        /// Bytes asked for.
        requested: u64,
        /// Bytes in use.
        used: u64,
        /// Bytes allowed.
        budget: u64,
    },
    /// A table of the session is full.
    #[error("too many {what}: the session has room for {limit}")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many fit.
        limit: u64,
    },
    /// A container of fixed size has no room left.
    #[error("this {what} is full: it was made for {most} elements; take some out, or make it larger")]
    Full {
        /// The kind of container.
        what: &'static str,
        /// How many fit.
        most: u64,
    },
    /// The object behind a handle is gone.
    #[error("this {what} is gone: every process that held it has dropped it or ended")]
    Stale {
        /// The kind of object.
        what: &'static str,
    },
    /// A handle of another session.
    #[error(
        "this {what} belongs to another session (its parent program is not ours): objects can be shared only between \
         processes that were started, directly or not, by one program"
    )]
    Foreign {
        /// The kind of object.
        what: &'static str,
    },
    /// A lock was released by someone who does not hold it.
    #[error("{what} released by a {who} that does not hold it")]
    NotHolder {
        /// The kind of object.
        what: &'static str,
        /// "process" or "thread".
        who: &'static str,
    },
    /// Released more often than acquired.
    #[error("{what} released too many times")]
    ReleasedTooOften {
        /// The kind of object.
        what: &'static str,
    },
    /// The barrier is broken: a party died, timed out, or aborted it.
    #[error("the barrier is broken: a party died, was not in time, or aborted it")]
    BrokenBarrier,
    /// A message is larger than the channel can carry.
    #[error("a message of {size} bytes is too large: {limit} is the most")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
        /// The most that fits.
        limit: u64,
    },
    /// Shared memory does not hold what the engine wrote there.
    #[error("the shared memory of this {what} is damaged ({detail}); a process of the session has written over it")]
    Damaged {
        /// The kind of object.
        what: &'static str,
        /// What was seen.
        detail: &'static str,
    },
    /// The kernel or the container's profile refuses a call that the engine cannot do without.
    #[error(
        "{call} is refused by this system ({source}); polyproc needs Linux 5.10 or newer and a container profile that \
         allows this call"
    )]
    Unsupported {
        /// The system call.
        call: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// An environment variable says something that makes no sense.
    #[error("{name}={value:?} is not {wanted}")]
    Setting {
        /// The variable.
        name: &'static str,
        /// What it says.
        value: String,
        /// What it may say.
        wanted: &'static str,
    },
    /// A system call failed.
    #[error("{call}: {source}")]
    Os {
        /// The system call.
        call: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// The error of a failed call, from its number.
    pub(crate) fn os(call: &'static str, source: impl Into<std::io::Error>) -> Error {
        let source = source.into();
        match source.raw_os_error() {
            Some(libc::EINTR) => Error::Interrupted,
            Some(libc::ENOSYS) => Error::Unsupported { call, source },
            _ => Error::Os { call, source },
        }
    }

    /// The error of the call that has just failed, from `errno`.
    pub(crate) fn last(call: &'static str) -> Error {
        Error::os(call, std::io::Error::last_os_error())
    }

    /// The error number of the system behind this error, where there is one.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Error::Os { source, .. } | Error::Unsupported { source, .. } => source.raw_os_error(),
            Error::BudgetExhausted { .. } => Some(libc::ENOSPC),
            Error::BrokenPipe => Some(libc::EPIPE),
            Error::Interrupted => Some(libc::EINTR),
            _ => None,
        }
    }
}

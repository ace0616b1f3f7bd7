//! Processes that run one function.

use crate::logging;
use crate::start::{self, Call, Surroundings, kind};
use crate::task::{self, Place, Task};
use crate::wire;
use crate::{Cause, Error, Identity, Result, TaskError};
use log::LevelFilter;
use polyproc_engine::channel::Queue;
use polyproc_engine::process::zygote::{self, Worker};
use polyproc_engine::process::{Cause as Evidence, Child, Ending, Limits, Status};
use polyproc_engine::sys::signal;
use polyproc_engine::{Deadline, Error as EngineError, Participant};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
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

/// Says how a process is to be started. Made by [`Process::builder`].
///
/// # Examples
/// ```
/// use polyproc::Process;
/// let child = Process::builder().name("answerer").spawn(|| 42, ())?;
/// assert_eq!(child.name(), "answerer");
/// assert_eq!(child.join().unwrap(), 42);
/// # Ok::<(), polyproc::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a builder starts nothing until spawn is called"]
pub struct Builder {
    name: Option<String>,
    limits: Limits,
    log_level: Option<LevelFilter>,
    /// Whoever has started it waits for it before it ends itself.
    awaited: bool,
    surroundings: Surroundings,
}

impl Builder {
    /// The name of the process: for errors and logs, and, as far as it fits into 15 bytes, for `ps`. Without it the process
    /// is called after its function.
    pub fn name(mut self, name: impl Into<String>) -> Builder {
        self.name = Some(name.into());
        self
    }

    /// Sets a variable of its environment, which is otherwise as it was when the zygote was forked, first thing in `main`.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Process;
    /// let child = Process::builder().env("LANG", "C").spawn(|| std::env::var("LANG").unwrap(), ())?;
    /// assert_eq!(child.join().unwrap(), "C");
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Builder {
        self.surroundings.environment.push((name.into(), Some(value.into())));
        self
    }

    /// Removes a variable from its environment.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Process;
    /// let builder = Process::builder().env_remove("HOME");
    /// assert_eq!(builder.spawn(|| std::env::var("HOME").ok(), ())?.join().unwrap(), None);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Builder {
        self.surroundings.environment.push((name.into(), None));
        self
    }

    /// The directory in which it begins, instead of this process's.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Process;
    /// let child = Process::builder().current_dir("/").spawn(|| std::env::current_dir().unwrap(), ())?;
    /// assert_eq!(child.join().unwrap(), std::path::Path::new("/"));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Builder {
        self.surroundings.directory = Some(directory.into());
        self
    }

    /// Makes it the leader of a process group of its own: what the terminal sends to the program, Ctrl-C above all, does not
    /// reach it.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Process;
    /// let child = Process::builder().process_group().spawn(|| 1, ())?;
    /// assert_eq!(child.join().unwrap(), 1);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn process_group(mut self) -> Builder {
        self.surroundings.group = true;
        self
    }

    /// The processors on which it may run, by their numbers.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Process;
    /// let one = || std::thread::available_parallelism().unwrap().get();
    /// let child = Process::builder().cpu_affinity([0]).spawn(one, ())?;
    /// assert_eq!(child.join().unwrap(), 1);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn cpu_affinity(mut self, processors: impl IntoIterator<Item = usize>) -> Builder {
        self.surroundings.affinity = Some(processors.into_iter().collect());
        self
    }

    /// Ends it with [`TaskError::MemoryLimit`] once it has more than so many bytes of memory of its own: what it has written
    /// to, and shares with no file and no other process. What polyproc shares between processes, queued items above all, does
    /// not count; nor does the memory of programs that it starts.
    ///
    /// The limit is looked after from outside, every 2 milliseconds when it is near, so that it holds for any code, and its
    /// end is never mistaken for another. So the process can be some MiB above it at the end, and what it takes and gives back
    /// in between is not seen.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Process, TaskError};
    ///
    /// fn hoard() -> usize {
    ///     let mut hoard = Vec::new();
    ///     loop {
    ///         hoard.push(vec![1u8; 1 << 20]);
    ///     }
    /// }
    ///
    /// let child = Process::builder().memory_limit(64 << 20).spawn(hoard, ())?;
    /// match child.join() {
    ///     Err(TaskError::MemoryLimit { used, .. }) => assert!(used > 64 << 20),
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn memory_limit(mut self, bytes: u64) -> Builder {
        self.limits.memory = Some(bytes);
        self
    }

    /// Ends it with [`TaskError::CpuLimit`] once all its threads together have been on a processor for this long: by SIGXCPU,
    /// and, should the task handle that, by SIGKILL one to two seconds later.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Process, TaskError};
    /// use std::time::Duration;
    ///
    /// fn spin() -> u32 {
    ///     loop {
    ///         std::hint::spin_loop();
    ///     }
    /// }
    ///
    /// let child = Process::builder().cpu_limit(Duration::from_millis(20)).spawn(spin, ())?;
    /// assert!(matches!(child.join(), Err(TaskError::CpuLimit { .. })));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn cpu_limit(mut self, time: Duration) -> Builder {
        self.limits.processor = Some(time);
        self
    }

    /// Ends it with [`TaskError::Deadline`], by SIGKILL, if it still runs so long after its birth. Whoever joins it does not
    /// have to be there for that.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Process, TaskError};
    /// use std::time::Duration;
    ///
    /// fn wait() {
    ///     std::thread::sleep(Duration::from_secs(60));
    /// }
    ///
    /// let child = Process::builder().deadline(Duration::from_millis(20)).spawn(wait, ())?;
    /// assert!(matches!(child.join(), Err(TaskError::Deadline { .. })));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn deadline(mut self, after: Duration) -> Builder {
        self.limits.deadline = Some(after);
        self
    }

    /// A daemon, which a process is if nobody says otherwise, ends with whoever has started it: the program does not wait for
    /// it. `daemon(false)` makes one that is waited for, also where its handle was dropped: at the end of `main`, with
    /// [`#[polyproc::main]`](crate::main), or at the end of the process that has started it.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Process;
    ///
    /// fn write_the_report() {
    ///     std::thread::sleep(std::time::Duration::from_millis(20));
    /// }
    ///
    /// #[polyproc::main]
    /// fn main() -> polyproc::Result<()> {
    ///     drop(Process::builder().daemon(false).spawn(write_the_report, ())?);
    ///     Ok(()) // the report will be written
    /// }
    /// ```
    pub fn daemon(mut self, daemon: bool) -> Builder {
        self.awaited = !daemon;
        self
    }

    /// What the process logs: see [`logging`]. Without it, what the program would write; [`LevelFilter::Off`] leaves the
    /// process without a logger. With a level of its own it has the lines for its [`TaskError`] also where the program has no
    /// logger.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Process;
    ///
    /// fn work() -> u32 {
    ///     log::debug!("about to leave");
    ///     std::process::exit(3)
    /// }
    ///
    /// let child = Process::builder().log_level(log::LevelFilter::Debug).spawn(work, ())?;
    /// assert!(child.join().unwrap_err().last_lines()[0].ends_with("about to leave"));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn log_level(mut self, level: LevelFilter) -> Builder {
        self.log_level = Some(level);
        self
    }

    /// Starts the process; otherwise as [`Process::spawn`].
    ///
    /// # Errors
    /// As [`Process::spawn`].
    pub fn spawn<F, A>(self, function: F, arguments: A) -> Result<Process<F::Output>>
    where
        F: Task<A>,
        A: Serialize,
    {
        self.spawn_with(function, arguments, |_| {}, None)
    }

    /// Starts the process; `give` is shown its name in the session, before it begins, and `told` how it ended.
    pub(crate) fn spawn_with<F, A>(
        self,
        function: F,
        arguments: A,
        give: impl FnOnce(Participant),
        told: Option<zygote::Told>,
    ) -> Result<Process<F::Output>>
    where
        F: Task<A>,
        A: Serialize,
    {
        // The function is its type: its only value has no bytes.
        let _ = function;
        start::keep_hook();
        let place = Place::of::<F, A>()?;
        let name = self.name.unwrap_or_else(task::default_name::<F>);
        let results = Queue::modest()?;
        let request = zygote::prepare()?.limited(self.limits);
        results.hold().share_with(request.participant());
        let results_name = results.hold().handle().to_bytes();
        let surroundings = self.surroundings;
        let logging = logging::plan(request.participant(), self.log_level);
        let call = Call { place, results: results_name, arguments_follow: true, surroundings, logging };
        let (head, _) = wire::encode(&call, Vec::new())?;
        let start = head.len();
        let (mut task, mut luggage) = wire::encode(&arguments, head)?;
        if task.len() + name.len() > zygote::TASK_MAX || !luggage.blocks.is_empty() {
            let mut parcel = wire::parcel(kind::ARGUMENTS, &task[start..], &mut luggage, &[])?;
            wire::again(|| results.put(&mut parcel, Deadline::Never))?;
            task = wire::encode(&Call { arguments_follow: false, ..call }, Vec::new())?.0;
        }
        // The child holds what its arguments name before we can let go of it.
        for hold in &luggage.holds {
            hold.share_with(request.participant());
        }
        let descriptors: Vec<BorrowedFd<'_>> = luggage.descriptors.iter().map(AsFd::as_fd).collect();
        give(request.participant());
        let worker = request.spawn_and_tell(&name, &task, &descriptors, told)?;
        if self.awaited {
            start::await_at_end(worker.child());
        }
        Ok(Process { worker, results, returns: PhantomData })
    }
}

impl Process<()> {
    /// A builder, to give the process a name.
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

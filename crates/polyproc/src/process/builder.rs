//! How a process is to be started.

use super::Process;
use crate::Result;
use crate::logging;
use crate::start::{self, Call, Surroundings, kind};
use crate::task::{self, Place, Task};
use crate::wire;
use log::LevelFilter;
use polyproc_engine::channel::Queue;
use polyproc_engine::process::Limits;
use polyproc_engine::process::zygote;
use polyproc_engine::{Deadline, Participant};
use serde::Serialize;
use std::ffi::OsString;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

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
    ///
    /// # Examples
    /// ```
    /// use polyproc::Process;
    /// let child = Process::builder().name("reader").spawn(|| (), ())?;
    /// assert_eq!(child.name(), "reader");
    /// child.join().unwrap();
    /// # Ok::<(), polyproc::Error>(())
    /// ```
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

    /// Ends it with [`TaskError::MemoryLimit`](crate::TaskError::MemoryLimit) once it has more than so many bytes
    /// of memory of its own: what it has written to, and shares with no file and no other process. What polyproc shares
    /// between processes, queued items above all, does not count; nor does the memory of programs that it starts.
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

    /// Ends it with [`TaskError::CpuLimit`](crate::TaskError::CpuLimit) once all its threads together have been on
    /// a processor for this long: by SIGXCPU, and, should the task handle that, by SIGKILL one to two seconds later.
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

    /// Ends it with [`TaskError::Deadline`](crate::TaskError::Deadline), by SIGKILL, if it still runs so long after
    /// its birth. Whoever joins it does not have to be there for that.
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
    /// process without a logger. With a level of its own it has the lines for its [`TaskError`](crate::TaskError) also
    /// where the program has no logger.
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
    ///
    /// # Examples
    /// ```
    /// use polyproc::Process;
    /// let child = Process::builder().env("GREETING", "hello").spawn(|| std::env::var("GREETING").ok(), ())?;
    /// assert_eq!(child.join().unwrap().as_deref(), Some("hello"));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
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

//! What a pool is to be like, and what its workers do before their first task and after their last.

use super::Pool;
use super::books::Policy;
use super::desk::Desk;
use crate::process;
use crate::task::{Place, Task};
use crate::wire::{self, Luggage};
use crate::{Error, Result};
use polyproc_engine::pool::Life;
use serde::{Deserialize, Serialize};
use std::any::type_name;
use std::fmt;
use std::time::Duration;

/// Says what a [`Pool`] is to be like. Made by [`Pool::builder`].
///
/// # Examples
/// ```
/// use polyproc::{Pool, TaskError};
/// use std::time::Duration;
///
/// fn wait(milliseconds: u64) {
///     std::thread::sleep(Duration::from_millis(milliseconds));
/// }
///
/// let pool = Pool::builder().workers(2).timeout(Duration::from_millis(100)).build()?;
/// let late = pool.submit(wait, (60_000,))?;
/// assert!(pool.submit(wait, (1,))?.join().is_ok());
/// assert!(matches!(late.join(), Err(TaskError::TimedOut { .. })));
/// # Ok::<(), polyproc::Error>(())
/// ```
#[derive(Default)]
#[must_use = "a builder starts nothing until build is called"]
pub struct Builder {
    pub(super) workers: Option<usize>,
    pub(super) policy: Policy,
    pub(super) life: Life,
    pub(super) process: process::Builder,
    pub(super) on_start: Option<Hook>,
    pub(super) on_exit: Option<Hook>,
    /// What was wrong with a hook.
    refused: Option<Error>,
}

impl Builder {
    /// How many workers; as many as there are CPUs for this process, if nobody says.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(2).build()?;
    /// assert_eq!(pool.workers(), 2);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn workers(mut self, count: usize) -> Builder {
        self.workers = Some(count.max(1));
        self
    }

    /// How the workers are started: their limits, environment, working directory, processors and level of logging. A limit
    /// holds for a worker's whole life, not for one task; a task in which it is hit ends with that error. Names are given by
    /// the pool.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Pool, Process, TaskError};
    ///
    /// fn fill(megabytes: usize) -> usize {
    ///     vec![1u8; megabytes << 20].len()
    /// }
    ///
    /// let pool = Pool::builder().workers(1).process(Process::builder().memory_limit(64 << 20)).build()?;
    /// let (small, large) = (pool.submit(fill, (1,))?, pool.submit(fill, (4096,))?);
    /// assert!(small.join().is_ok());
    /// assert!(matches!(large.join(), Err(TaskError::MemoryLimit { .. })));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn process(mut self, process: process::Builder) -> Builder {
        self.process = process;
        self
    }

    /// How long one task may take. The worker of one that takes longer is killed; the task ends with
    /// [`TaskError::TimedOut`](crate::TaskError::TimedOut). For some tasks only: [`Pool::with`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Pool, TaskError};
    /// use std::time::Duration;
    /// let pool = Pool::builder().workers(1).timeout(Duration::from_millis(20)).build()?;
    /// let late = pool.submit(|| std::thread::sleep(Duration::MAX), ())?;
    /// assert!(matches!(late.join(), Err(TaskError::TimedOut { .. })));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Builder {
        self.policy.timeout = Some(timeout);
        self
    }

    /// How much more memory one task may take than its worker had when it began, in bytes. That is looked at every few
    /// milliseconds. The worker of a task that takes more is killed; the task ends with
    /// [`TaskError::MemoryLimit`](crate::TaskError::MemoryLimit). For some tasks only: [`Pool::with`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Pool, TaskError};
    ///
    /// fn hoard(megabytes: usize) -> usize {
    ///     let mut hoard = Vec::new();
    ///     for _ in 0..megabytes {
    ///         hoard.push(vec![1u8; 1 << 20]);
    ///         std::thread::sleep(std::time::Duration::from_micros(200));
    ///     }
    ///     hoard.len()
    /// }
    ///
    /// let pool = Pool::builder().workers(1).memory_limit(64 << 20).build()?;
    /// assert!(matches!(pool.submit(hoard, (1_000,))?.join(), Err(TaskError::MemoryLimit { .. })));
    /// assert_eq!(pool.submit(hoard, (4,))?.join().unwrap(), 4);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn memory_limit(mut self, bytes: u64) -> Builder {
        self.policy.memory = Some(bytes);
        self
    }

    /// How many times a task whose worker died is tried again. A task that panicked, or was too late, is not. For some tasks
    /// only: [`Pool::with`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(1).retry(2).build()?;
    /// assert_eq!(pool.submit(|| 1, ())?.join().unwrap(), 1);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn retry(mut self, times: u32) -> Builder {
        self.policy.retries = times;
        self
    }

    /// After how many tasks a worker is replaced by a fresh one: for libraries that leak.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(1).recycle_after(1).build()?;
    /// let pids: Vec<u32> = pool.map(|_: u32| std::process::id(), 0..2)?.map(Result::unwrap).collect();
    /// assert_ne!(pids[0], pids[1]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn recycle_after(mut self, tasks: u32) -> Builder {
        self.life.tasks = Some(tasks.max(1));
        self
    }

    /// How much memory of its own a worker may have at the end of a task, in bytes, without being replaced by a fresh one: for
    /// libraries that leak. What it shares with the program since its birth does not count.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(1).recycle_above(256 << 20).build()?;
    /// assert_eq!(pool.submit(|| 1, ())?.join().unwrap(), 1);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn recycle_above(mut self, bytes: u64) -> Builder {
        self.life.memory = Some(bytes);
        self
    }

    /// What each worker does before its first task: load a model, open a connection. What it makes, the tasks find in a
    /// `static` or a thread-local: each worker has its own. A worker in which it panics does no tasks; if that happens to one
    /// worker after another, the pool gives up, and its tasks say why ([`TaskError::NotDone`](crate::TaskError::NotDone)).
    ///
    /// Function and arguments are as for [`Process::spawn`](crate::Process::spawn); what the function returns is dropped.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// use std::sync::OnceLock;
    ///
    /// static WORDS: OnceLock<Vec<String>> = OnceLock::new();
    ///
    /// fn load(text: String) {
    ///     WORDS.get_or_init(|| text.split(' ').map(str::to_owned).collect());
    /// }
    ///
    /// fn word(number: usize) -> Option<String> {
    ///     WORDS.get()?.get(number).cloned()
    /// }
    ///
    /// let pool = Pool::builder().workers(2).on_start(load, ("to be or not".to_owned(),)).build()?;
    /// assert_eq!(pool.submit(word, (1,))?.join().unwrap().as_deref(), Some("be"));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn on_start<F: Task<A>, A: Serialize>(mut self, function: F, arguments: A) -> Builder {
        match Hook::new(function, &arguments) {
            Ok(hook) => self.on_start = Some(hook),
            Err(error) => self.refused = Some(error),
        }
        self
    }

    /// What each worker does after its last task, when it is recycled or the pool [finishes](Pool::finish): write out what it
    /// has counted, say. A worker that is killed, as all are when a pool is dropped, does not come to it.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Pool, Queue};
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// static SUM: AtomicU64 = AtomicU64::new(0);
    ///
    /// fn add(number: u64) {
    ///     SUM.fetch_add(number, Ordering::Relaxed);
    /// }
    ///
    /// fn report(sums: Queue<u64>) {
    ///     sums.put(&SUM.load(Ordering::Relaxed)).unwrap();
    /// }
    ///
    /// let sums = Queue::unbounded()?;
    /// let pool = Pool::builder().workers(2).on_exit(report, (sums.clone(),)).build()?;
    /// pool.map(add, 1..=10)?.for_each(drop);
    /// pool.finish();
    /// assert_eq!(sums.get()? + sums.get()?, 55);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn on_exit<F: Task<A>, A: Serialize>(mut self, function: F, arguments: A) -> Builder {
        match Hook::new(function, &arguments) {
            Ok(hook) => self.on_exit = Some(hook),
            Err(error) => self.refused = Some(error),
        }
        self
    }

    /// Starts the workers.
    ///
    /// # Errors
    /// [`Error::Engine`] if the system has no room for them; what [`Process::spawn`](crate::Process::spawn) says of functions
    /// and arguments, for those of [`Builder::on_start`] and [`Builder::on_exit`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(2).build()?;
    /// assert_eq!(pool.map(|x: u32| x + 1, [1, 2])?.count(), 2);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn build(mut self) -> Result<Pool> {
        match self.refused.take() {
            Some(error) => Err(error),
            None => Ok(Pool { desk: Desk::open(self)? }),
        }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("workers", &self.workers)
            .field("policy", &self.policy)
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

/// A call that each worker makes once.
pub(super) struct Hook {
    call: Call,
    /// What the arguments name: each worker is given its hold.
    pub(super) luggage: Luggage,
}

/// A function's place, and its arguments.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Call {
    pub(super) place: Place,
    pub(super) arguments: Vec<u8>,
}

impl Hook {
    fn new<F: Task<A>, A: Serialize>(function: F, arguments: &A) -> Result<Hook> {
        // The function is its type.
        let _ = function;
        let place = Place::of::<F, A>()?;
        let (arguments, luggage) = wire::encode(arguments, Vec::new())?;
        if !luggage.descriptors.is_empty() || !luggage.blocks.is_empty() {
            let detail =
                "every worker of a pool is given the same: a descriptor, the end of a pipe, or polyproc::Bytes cannot \
                          be; send it through a queue"
                    .to_owned();
            return Err(Error::Encode { type_name: type_name::<A>(), detail });
        }
        Ok(Hook { call: Call { place, arguments }, luggage })
    }

    pub(super) fn call(&self) -> Call {
        self.call.clone()
    }
}

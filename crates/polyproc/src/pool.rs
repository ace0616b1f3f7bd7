//! A pool of processes that work through many tasks.
//!
//! The engine's ledger knows which task is in which worker's lane, and what a worker's death means for each. This file keeps
//! what the ledger does not know: the tasks that wait, what came of them, who is to be replaced, and when a task is late.
//!
//! Whoever waits for a result does the pool's work meanwhile: collects, sends, replaces. So a round trip has no thread in
//! between. While nobody waits, the pool's own thread does it.

mod desk;
mod map;
mod worker;

pub use map::{Map, Unordered};

use crate::task::{Place, Task};
use crate::{Result, TaskError, wire};
use desk::{Desk, Group, Waiting};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

/// A number of processes that work through tasks.
///
/// A task that panics, or whose worker dies, is an error of that task alone: another worker takes the place of the dead, and
/// tasks that it had not begun go to others. Dropping the pool kills its workers; what was submitted and not done is lost.
/// [`Pool::finish`] does it first.
///
/// # Examples
/// ```
/// use polyproc::{Pool, TaskError};
///
/// fn invert(number: u32) -> u32 {
///     1000 / number
/// }
///
/// let pool = Pool::new()?;
/// let results: Vec<_> = pool.map(invert, [1, 0, 4])?.collect();
/// assert!(matches!(results[..], [Ok(1000), Err(TaskError::Panicked { .. }), Ok(250)]));
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct Pool {
    desk: Arc<Desk>,
}

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
#[derive(Clone, Debug, Default)]
#[must_use = "a builder starts nothing until build is called"]
pub struct Builder {
    workers: Option<usize>,
    timeout: Option<Duration>,
    retries: u32,
    recycle_after: Option<u32>,
}

impl Builder {
    /// How many workers; as many as there are CPUs for this process, if nobody says.
    pub fn workers(mut self, count: usize) -> Builder {
        self.workers = Some(count.max(1));
        self
    }

    /// How long one task may take. The worker of one that takes longer is killed; the task ends with
    /// [`TaskError::TimedOut`].
    pub fn timeout(mut self, timeout: Duration) -> Builder {
        self.timeout = Some(timeout);
        self
    }

    /// How many times a task whose worker died is tried again. A task that panicked, or was too late, is not.
    pub fn retry(mut self, times: u32) -> Builder {
        self.retries = times;
        self
    }

    /// After how many tasks a worker is replaced by a fresh one: for libraries that leak.
    pub fn recycle_after(mut self, tasks: u32) -> Builder {
        self.recycle_after = Some(tasks.max(1));
        self
    }

    /// Starts the workers.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if the system has no room for them.
    pub fn build(self) -> Result<Pool> {
        Ok(Pool { desk: Desk::open(self)? })
    }
}

impl Pool {
    /// A pool with as many workers as there are CPUs for this process.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn new() -> Result<Pool> {
        Pool::builder().build()
    }

    /// A builder, to say more.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// How many workers it has.
    pub fn workers(&self) -> usize {
        self.desk.workers()
    }

    /// Submits a task: `function` with `arguments`, a tuple, as in [`Process::spawn`](crate::Process::spawn).
    ///
    /// # Errors
    /// As [`Process::spawn`](crate::Process::spawn).
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::new()?;
    /// let one = pool.submit(|a: u32, b: u32| a * b, (6, 7))?;
    /// let two = pool.submit(|text: String| text.len(), ("hello".to_owned(),))?;
    /// assert_eq!((one.join().unwrap(), two.join().unwrap()), (42, 5));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn submit<F, A>(&self, function: F, arguments: A) -> Result<Ticket<F::Output>>
    where
        F: Task<A>,
        A: Serialize,
    {
        let _ = function;
        let place = Place::of::<F, A>()?;
        self.submit_at(place, &arguments, None)
    }

    fn submit_at<A: Serialize, R>(&self, place: Place, arguments: &A, group: Option<&Arc<Group>>) -> Result<Ticket<R>> {
        let (mut head, _) = wire::encode(&place, vec![0; 8])?;
        head.push(worker::place::HERE);
        let begins = head.len();
        let (mut record, mut luggage) = wire::encode(arguments, head)?;
        wire::leave_descriptors(&mut record, &mut luggage)?;
        if !luggage.blocks.is_empty() {
            // A task may have to be sent twice.
            let detail =
                "polyproc::Bytes cannot go to a pool: give it to a Process, or send it through a queue".to_owned();
            return Err(crate::Error::Encode { type_name: std::any::type_name::<A>(), detail });
        }
        let id = self.desk.submit(Waiting { record, begins, luggage, attempts: 0 }, group.map(Arc::clone));
        Ok(Ticket { desk: Arc::clone(&self.desk), id, returns: PhantomData })
    }

    /// Runs a function of one argument over items; gives the results in their order. Items are taken as results are asked
    /// for, some thousands ahead.
    ///
    /// # Errors
    /// [`Error::Unreachable`](crate::Error::Unreachable), as [`Process::spawn`](crate::Process::spawn). An item that cannot be
    /// sent is an error in its place.
    pub fn map<F, T, I>(&self, function: F, items: I) -> Result<Map<'_, T, F::Output, I::IntoIter>>
    where
        F: Task<(T,)>,
        T: Serialize,
        I: IntoIterator<Item = T>,
    {
        let _ = function;
        let place = Place::of::<F, (T,)>()?;
        Ok(Map::new(self, place, items.into_iter()))
    }

    /// Waits until all that was submitted is done, and ends the workers.
    pub fn finish(self) {
        self.desk.finish();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.desk.close();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("workers", &self.workers()).finish_non_exhaustive()
    }
}

/// A task that was submitted: its result, some time. Dropping it forgets the result; the task is done all the same.
pub struct Ticket<R> {
    desk: Arc<Desk>,
    id: u64,
    returns: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned> Ticket<R> {
    /// Waits for the result.
    ///
    /// # Errors
    /// Why there is none: see [`TaskError`].
    pub fn join(self) -> Result<R, TaskError> {
        self.desk.wait(self.id, polyproc_engine::Deadline::Never);
        self.desk.take(self.id, polyproc_engine::Deadline::Never, Duration::MAX)
    }

    /// As [`Ticket::join`], but waits no longer than `timeout`.
    ///
    /// # Errors
    /// As [`Ticket::join`], and [`TaskError::TimedOut`]: then the task goes on, and can be joined again.
    pub fn join_timeout(&mut self, timeout: Duration) -> Result<R, TaskError> {
        let deadline = wire::within(timeout);
        self.desk.wait(self.id, deadline);
        self.desk.take(self.id, deadline, timeout)
    }

    /// Gives the task up: it does not begin, or, if it runs, its worker is killed, and replaced by another.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(1).build()?;
    /// let endless = pool.submit(|| std::thread::sleep(std::time::Duration::MAX), ())?;
    /// let next = pool.submit(|| 1, ())?;
    /// endless.cancel();
    /// assert_eq!(next.join().unwrap(), 1);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn cancel(self) {
        self.desk.cancel(self.id);
    }

    /// True once there is a result, or an error.
    pub fn is_done(&self) -> bool {
        self.desk.wait(self.id, polyproc_engine::Deadline::Now)
    }
}

impl<R> Drop for Ticket<R> {
    fn drop(&mut self) {
        self.desk.forget(self.id);
    }
}

impl<R> fmt::Debug for Ticket<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("id", &self.id).finish_non_exhaustive()
    }
}

//! A pool of processes that work through many tasks.
//!
//! The engine's ledger knows which task is in which worker's lane, and what a worker's death means for each. This file keeps
//! what the ledger does not know: the tasks that wait, what came of them, who is to be replaced, and when a task is late.
//!
//! Whoever waits for a result does the pool's work meanwhile: collects, sends, replaces. So a round trip has no thread in
//! between. While nobody waits, the pool's own thread does it.

mod books;
mod builder;
mod desk;
mod map;
mod outcome;
mod progress;
mod staff;
#[cfg(feature = "async")]
pub(crate) mod stream;
mod terms;
mod ticket;
mod worker;

pub use builder::Builder;
#[doc(hidden)]
pub use map::Single;
pub use map::{Map, ParMap, Unordered};
pub use progress::{Progress, Watched};
pub use terms::Terms;
pub use ticket::Ticket;

use crate::Result;
use crate::task::Task;
use desk::Desk;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;

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

impl Pool {
    /// A pool with as many workers as there are CPUs for this process.
    ///
    /// # Errors
    /// As [`Builder::build`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::new()?;
    /// assert_eq!(pool.submit(|| 6 * 7, ())?.join().unwrap(), 42);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn new() -> Result<Pool> {
        Pool::builder().build()
    }

    /// A builder, to say more.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(3).build()?;
    /// assert_eq!(pool.workers(), 3);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// How many workers it has.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(2).build()?;
    /// assert_eq!(pool.workers(), 2);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn workers(&self) -> usize {
        self.desk.workers()
    }

    /// From now on it has so many workers; at least one. If there are more, those that have the least to do end once they have
    /// done the task that they are in, and what they have not begun goes to others: no task is lost.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if the system has no room for another worker: those that could be started are
    /// there, and the rest is tried again when one ends.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(1).build()?;
    /// let squares = pool.map(|x: u64| x * x, 0..100)?;
    /// pool.resize(3)?;
    /// assert_eq!((pool.workers(), squares.map(Result::unwrap).sum()), (3, 328_350));
    /// pool.resize(1)?;
    /// assert_eq!(pool.submit(|| 1, ())?.join().unwrap(), 1);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn resize(&self, workers: usize) -> Result<()> {
        self.desk.resize(workers.max(1))
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
        self.with().submit(function, arguments)
    }

    /// Runs a function of one argument over items; gives the results in their order. Items are taken as results are asked
    /// for, some thousands ahead ([`Terms::in_flight`]), so the iterator may be lazy, or endless.
    ///
    /// # Errors
    /// [`Error::Unreachable`](crate::Error::Unreachable), as [`Process::spawn`](crate::Process::spawn). An item that cannot be
    /// sent is an error in its place.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(2).build()?;
    /// let lengths: Result<Vec<usize>, _> = pool.map(|s: String| s.len(), "a bb ccc".split(' ').map(String::from))?.collect();
    /// assert_eq!(lengths.unwrap(), [1, 2, 3]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn map<F, T, I>(&self, function: F, items: I) -> Result<Map<'_, F::Output, Single<I::IntoIter>>>
    where
        F: Task<(T,)>,
        T: Serialize,
        I: IntoIterator<Item = T>,
    {
        self.with().map(function, items)
    }

    /// As [`Pool::map`], for a function of several arguments: each item is a tuple of them.
    ///
    /// # Errors
    /// As [`Pool::map`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(2).build()?;
    /// let powers = pool.starmap(u64::pow, [(2, 10), (3, 4), (10, 3)])?;
    /// assert_eq!(powers.map(Result::unwrap).collect::<Vec<_>>(), [1024, 81, 1000]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn starmap<F, A, I>(&self, function: F, items: I) -> Result<Map<'_, F::Output, I::IntoIter>>
    where
        F: Task<A>,
        A: Serialize,
        I: IntoIterator<Item = A>,
    {
        self.with().starmap(function, items)
    }

    /// To say on what terms some tasks are done: how long each may take, how often it is tried again, how urgent it is.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// use std::time::Duration;
    ///
    /// let pool = Pool::builder().workers(2).build()?;
    /// let halves = pool.with().timeout(Duration::from_secs(5)).retry(2).map(|x: u32| x / 2, [8, 10])?;
    /// assert_eq!(halves.map(Result::unwrap).collect::<Vec<_>>(), [4, 5]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn with(&self) -> Terms<'_> {
        Terms::new(self)
    }

    /// Waits until all that was submitted is done, and ends the workers.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(2).build()?;
    /// let ticket = pool.submit(|| 1, ())?;
    /// pool.finish();
    /// assert_eq!(ticket.join().unwrap(), 1, "what was submitted was done");
    /// # Ok::<(), polyproc::Error>(())
    /// ```
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

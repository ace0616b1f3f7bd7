//! On what terms some tasks are done.

use super::books::{Group, Policy, Waiting};
use super::desk::Desk;
use super::map::{Map, Single, Source};
use super::{Pool, Ticket, worker};
use crate::task::{Place, Task};
use crate::{Result, wire};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// How many results may be ahead of the one that is asked for, if nobody says.
const IN_FLIGHT: usize = 4096;

/// A pool, and on what terms it is to do the tasks that it is given by this. Made by [`Pool::with`].
///
/// # Examples
/// ```
/// use polyproc::{Pool, TaskError};
/// use std::time::Duration;
///
/// fn wait(milliseconds: u64) -> u64 {
///     std::thread::sleep(Duration::from_millis(milliseconds));
///     milliseconds
/// }
///
/// let pool = Pool::builder().workers(2).build()?;
/// let patient = pool.submit(wait, (300,))?;
/// let hasty = pool.with().timeout(Duration::from_millis(50)).submit(wait, (60_000,))?;
/// assert!(matches!(hasty.join(), Err(TaskError::TimedOut { .. })));
/// assert_eq!(patient.join().unwrap(), 300);
/// # Ok::<(), polyproc::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is done until submit or map is called"]
pub struct Terms<'a> {
    pool: &'a Pool,
    policy: Policy,
    in_flight: usize,
}

impl<'a> Terms<'a> {
    pub(super) fn new(pool: &'a Pool) -> Terms<'a> {
        Terms { pool, policy: pool.desk.policy(), in_flight: IN_FLIGHT }
    }

    /// How long each of the tasks may take: see [`Builder::timeout`](super::Builder::timeout).
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Pool, TaskError};
    /// use std::time::Duration;
    /// let pool = Pool::builder().workers(1).build()?;
    /// let late = pool.with().timeout(Duration::from_millis(20)).submit(|| std::thread::sleep(Duration::MAX), ())?;
    /// assert!(matches!(late.join(), Err(TaskError::TimedOut { .. })));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Terms<'a> {
        self.policy.timeout = Some(timeout);
        self
    }

    /// How many times each of the tasks is tried again if its worker died: see [`Builder::retry`](super::Builder::retry).
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(2).build()?;
    /// assert_eq!(pool.with().retry(3).submit(|| 1, ())?.join().unwrap(), 1);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn retry(mut self, times: u32) -> Terms<'a> {
        self.policy.retries = times;
        self
    }

    /// How much more memory each of the tasks may take than its worker had: see
    /// [`Builder::memory_limit`](super::Builder::memory_limit).
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(2).build()?;
    /// assert_eq!(pool.with().memory_limit(1 << 30).submit(|| 1, ())?.join().unwrap(), 1);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn memory_limit(mut self, bytes: u64) -> Terms<'a> {
        self.policy.memory = Some(bytes);
        self
    }

    /// How urgent the tasks are: the higher goes first, among those that no worker has begun, and the older among those of the
    /// same priority; 0 if nobody says. What runs is not interrupted.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Event, Pool, Queue};
    ///
    /// fn report(order: Queue<String>, what: String) {
    ///     order.put(&what).unwrap();
    /// }
    ///
    /// let pool = Pool::builder().workers(1).build()?;
    /// let (order, go) = (Queue::unbounded()?, Event::new()?);
    /// pool.submit(|go: Event| { go.wait(); }, (go.clone(),))?;
    /// pool.with().priority(-1).submit(report, (order.clone(), "some time".to_owned()))?;
    /// pool.submit(report, (order.clone(), "usual".to_owned()))?;
    /// pool.with().priority(10).submit(report, (order.clone(), "urgent".to_owned()))?;
    /// go.set();
    /// assert_eq!([order.get()?, order.get()?, order.get()?], ["urgent", "usual", "some time"]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn priority(mut self, priority: i32) -> Terms<'a> {
        self.policy.priority = priority;
        self
    }

    /// How many items a map may have taken from its iterator beyond the result that is asked for; 4096 if nobody says, and
    /// fewer while the arguments that wait weigh more than 64 MiB.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// use std::cell::Cell;
    ///
    /// let pool = Pool::builder().workers(2).build()?;
    /// let taken = Cell::new(0);
    /// let endless = std::iter::repeat_with(|| taken.replace(taken.get() + 1));
    /// let mut squares = pool.with().in_flight(4).map(|x: u64| x * x, endless)?;
    /// for expected in [0, 1, 4, 9, 16] {
    ///     assert_eq!(squares.next().unwrap().unwrap(), expected);
    ///     assert!(taken.get() <= 9);
    /// }
    /// # drop(squares);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn in_flight(mut self, most: usize) -> Terms<'a> {
        self.in_flight = most.max(1);
        self
    }

    /// As [`Pool::submit`].
    ///
    /// # Errors
    /// As [`Pool::submit`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(2).build()?;
    /// let ticket = pool.with().retry(1).submit(|a: u32, b: u32| a + b, (1, 2))?;
    /// assert_eq!(ticket.join().unwrap(), 3);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn submit<F, A>(self, function: F, arguments: A) -> Result<Ticket<F::Output>>
    where
        F: Task<A>,
        A: Serialize,
    {
        let _ = function;
        let place = Place::of::<F, A>()?;
        let id = self.pool.desk.submit(waiting(place, &arguments, self.policy)?, None);
        Ok(Ticket::new(&self.pool.desk, id, false))
    }

    /// As [`Pool::map`].
    ///
    /// # Errors
    /// As [`Pool::map`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(2).build()?;
    /// let squares = pool.with().retry(1).map(|x: u32| x * x, [1, 2, 3])?;
    /// assert_eq!(squares.map(Result::unwrap).collect::<Vec<_>>(), [1, 4, 9]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn map<F, T, I>(self, function: F, items: I) -> Result<Map<'a, F::Output, Single<I::IntoIter>>>
    where
        F: Task<(T,)>,
        T: Serialize,
        I: IntoIterator<Item = T>,
    {
        let _ = function;
        Ok(Map::new(self.source(Ok(Place::of::<F, (T,)>()?), Single(items.into_iter()))))
    }

    /// As [`Pool::starmap`].
    ///
    /// # Errors
    /// As [`Pool::starmap`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(2).build()?;
    /// let sums = pool.with().retry(1).starmap(|a: u32, b: u32| a + b, [(1, 2), (3, 4)])?;
    /// assert_eq!(sums.map(Result::unwrap).collect::<Vec<_>>(), [3, 7]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn starmap<F, A, I>(self, function: F, items: I) -> Result<Map<'a, F::Output, I::IntoIter>>
    where
        F: Task<A>,
        A: Serialize,
        I: IntoIterator<Item = A>,
    {
        let _ = function;
        Ok(Map::new(self.source(Ok(Place::of::<F, A>()?), items.into_iter())))
    }

    pub(super) fn source<I: Iterator>(self, place: Result<Place, String>, items: I) -> Source<'a, I> {
        Source::new(self.pool, place, self.policy, self.in_flight, items)
    }
}

/// A task that can be submitted.
pub(super) fn waiting<A: Serialize>(place: Place, arguments: &A, policy: Policy) -> Result<Waiting> {
    let (mut head, _) = wire::encode(&place, vec![0; 8])?;
    head.push(worker::place::HERE);
    let begins = head.len();
    let (mut record, mut luggage) = wire::encode(arguments, head)?;
    wire::leave_descriptors(&mut record, &mut luggage)?;
    Ok(Waiting { record, begins, luggage, attempts: 0, policy })
}

/// Submits what a [`Map`] has taken: dropped before it was sent, it is taken back.
pub(super) fn submit_at<A: Serialize, R>(
    desk: &Arc<Desk>,
    place: Place,
    arguments: &A,
    policy: Policy,
    group: Option<&Arc<Group>>,
) -> Result<Ticket<R>> {
    let id = desk.submit(waiting(place, arguments, policy)?, group.map(Arc::clone));
    Ok(Ticket::new(desk, id, true))
}

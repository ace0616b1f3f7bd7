//! A task that was submitted.

use super::desk::Desk;
use crate::{TaskError, wire};
use polyproc_engine::Deadline;
use serde::de::DeserializeOwned;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

/// A task that was submitted: its result, some time. Dropping it forgets the result; the task is done all the same.
///
/// Wait for it with [`join`](Ticket::join), ask with [`try_join`](Ticket::try_join), or await it, in any runtime: a ticket is
/// a [`Future`]. [`Select`](crate::Select), [`wait`](crate::wait()) and epoll wait for it beside other things.
///
/// # Examples
/// ```
/// use polyproc::{Pool, pool::Ticket};
///
/// async fn sum(one: Ticket<u32>, two: Ticket<u32>) -> u32 {
///     one.await.unwrap() + two.await.unwrap()
/// }
///
/// let pool = Pool::builder().workers(2).build()?;
/// let (one, two) = (pool.submit(|| 40, ())?, pool.submit(|| 2, ())?);
/// # use std::{pin::pin, sync::Arc, task::{Context, Poll, Wake}, thread};
/// # struct Unpark(thread::Thread);
/// # impl Wake for Unpark { fn wake(self: Arc<Self>) { self.0.unpark() } }
/// # fn block_on<F: Future>(future: F) -> F::Output {
/// #     let waker = Arc::new(Unpark(thread::current())).into();
/// #     let mut future = pin!(future);
/// #     loop {
/// #         match future.as_mut().poll(&mut Context::from_waker(&waker)) {
/// #             Poll::Ready(output) => return output,
/// #             Poll::Pending => thread::park(),
/// #         }
/// #     }
/// # }
/// assert_eq!(block_on(sum(one, two)), 42);
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct Ticket<R> {
    desk: Arc<Desk>,
    id: u64,
    /// Dropped, it takes the task back if that was not sent yet.
    takes_back: bool,
    /// Readable once the task is settled; made when it is first asked for.
    bell: OnceLock<Arc<OwnedFd>>,
    returns: PhantomData<fn() -> R>,
}

impl<R> Ticket<R> {
    pub(super) fn new(desk: &Arc<Desk>, id: u64, takes_back: bool) -> Ticket<R> {
        Ticket { desk: Arc::clone(desk), id, takes_back, bell: OnceLock::new(), returns: PhantomData }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
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
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(2).build()?;
    /// let ticket = pool.submit(|| 1, ())?;
    /// while !ticket.is_done() {
    ///     std::thread::yield_now(); // or something useful
    /// }
    /// assert_eq!(ticket.join().unwrap(), 1);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn is_done(&self) -> bool {
        self.desk.wait(self.id, Deadline::Now)
    }

    /// A descriptor that is readable once there is a result, or an error: for poll, epoll and the like, to wait for several
    /// things at once. It stays readable. Nothing is ever to be read from it.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if there is no descriptor to be had.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(1).build()?;
    /// let ticket = pool.submit(|| 6 * 7, ())?;
    /// let descriptor = ticket.descriptor()?;
    /// assert_eq!(polyproc::wait([&descriptor as &dyn std::os::fd::AsFd], None)?, [0]);
    /// assert_eq!(ticket.join().unwrap(), 42);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn descriptor(&self) -> crate::Result<BorrowedFd<'_>> {
        self.desk.bell(self.id, &self.bell)
    }
}

/// For [`Select`](crate::Select) and [`wait`](crate::wait()): ready once the task is done. As [`Ticket::descriptor`].
///
/// # Panics
/// If there is no descriptor to be had.
///
/// # Examples
/// ```
/// use polyproc::{Event, Pool, Select};
/// let pool = Pool::builder().workers(2).build()?;
/// let go = Event::new()?;
/// let (slow, quick) = (pool.submit(|go: Event| { go.wait(); }, (go.clone(),))?, pool.submit(|| 42, ())?);
/// let mut select = Select::new();
/// let (_, on_quick) = (select.add(&slow), select.add(&quick));
/// assert_eq!(select.ready()?, on_quick);
/// assert_eq!(quick.join().unwrap(), 42);
/// go.set();
/// # Ok::<(), polyproc::Error>(())
/// ```
impl<R> AsFd for Ticket<R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.descriptor() {
            Ok(descriptor) => descriptor,
            Err(error) => panic!("this ticket can have no descriptor: {error}"),
        }
    }
}

impl<R: DeserializeOwned> Ticket<R> {
    /// Waits for the result.
    ///
    /// # Errors
    /// Why there is none: see [`TaskError`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(2).build()?;
    /// assert_eq!(pool.submit(|| 1, ())?.join().unwrap(), 1);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn join(mut self) -> Result<R, TaskError> {
        self.desk.wait(self.id, Deadline::Never);
        self.take(Deadline::Never, Duration::MAX)
    }

    /// As [`Ticket::join`], but waits no longer than `timeout`.
    ///
    /// # Errors
    /// As [`Ticket::join`], and [`TaskError::TimedOut`]: then the task goes on, and can be joined again. After a result was
    /// given, [`TaskError::Lost`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(2).build()?;
    /// let mut ticket = pool.submit(|| std::thread::sleep(std::time::Duration::from_secs(60)), ())?;
    /// let outcome = ticket.join_timeout(std::time::Duration::from_millis(5));
    /// assert!(matches!(outcome, Err(polyproc::TaskError::TimedOut { .. })));
    /// ticket.cancel();
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn join_timeout(&mut self, timeout: Duration) -> Result<R, TaskError> {
        let deadline = wire::within(timeout);
        self.desk.wait(self.id, deadline);
        self.take(deadline, timeout)
    }

    /// The result if it is there. `None` while the task waits or runs.
    ///
    /// # Errors
    /// As [`Ticket::join`]; after a result was given, [`TaskError::Lost`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(1).build()?;
    /// let mut ticket = pool.submit(|| "done".to_owned(), ())?;
    /// let result = loop {
    ///     match ticket.try_join() {
    ///         Some(result) => break result,
    ///         None => std::thread::yield_now(), // or something useful
    ///     }
    /// };
    /// assert_eq!(result.unwrap(), "done");
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn try_join(&mut self) -> Option<Result<R, TaskError>> {
        self.is_done().then(|| self.take(Deadline::Now, Duration::ZERO))
    }

    fn take(&mut self, deadline: Deadline, after: Duration) -> Result<R, TaskError> {
        self.desk.take(self.id, deadline, after)
    }
}

/// Ready once the task is done. Nothing of a runtime is needed: the pool's own thread wakes who waits.
impl<R: DeserializeOwned> Future for Ticket<R> {
    type Output = Result<R, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<R, TaskError>> {
        if self.desk.watch(self.id, context.waker()) {
            Poll::Ready(self.take(Deadline::Now, Duration::ZERO))
        } else {
            Poll::Pending
        }
    }
}

impl<R> Drop for Ticket<R> {
    fn drop(&mut self) {
        if self.takes_back {
            self.desk.take_back(self.id);
        } else {
            self.desk.forget(self.id);
        }
    }
}

impl<R> fmt::Debug for Ticket<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("id", &self.id).finish_non_exhaustive()
    }
}

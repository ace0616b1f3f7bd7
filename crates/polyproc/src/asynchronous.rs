//! Waiting without a thread: streams of what comes, and futures of how processes end, for any executor.
//!
//! With the feature `async`. There is nothing to set up and no executor to choose: the first wait starts one thread for the
//! program, which sleeps in epoll and wakes the tasks whose descriptor has become readable.
//!
//! * [`Queue::stream`], [`Receiver::into_stream`] and [`End::stream`] give [`Items`], which is a [`futures_core::Stream`] of results.
//! * [`Map::into_stream`](crate::pool::Map::into_stream) gives [`Results`], a stream of what a pool's tasks came to. Tickets are
//!   futures.
//! * A [`Process`] is [`IntoFuture`]: `process.await` is `process.join()`.
//! * All else that has a descriptor can be awaited with [`readable`].
//!
//! # Examples
//! ```
//! use polyproc::{Process, Queue};
//!
//! fn work(numbers: Queue<u32>) -> &'static str {
//!     numbers.put(&7).unwrap();
//!     "done"
//! }
//!
//! # fn work_owned(numbers: Queue<u32>) -> String { work(numbers).to_owned() }
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let numbers = Queue::unbounded()?;
//! let child = Process::spawn(work_owned, (numbers.clone(),))?;
//! let mut coming = numbers.stream();
//! assert_eq!(coming.next().await.unwrap()?, 7);
//! assert_eq!(child.await.unwrap(), "done");
//! # Ok::<(), polyproc::Error>(())
//! # }).unwrap();
//! ```

use crate::pipe::{End, Receiver};
pub use crate::pool::stream::Results;
use crate::{Error, Process, Queue, Result, TaskError};
use polyproc_engine::Deadline;
use polyproc_engine::sys::{epoll, fork, thread};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// What waits for its descriptor to become readable. The thread sleeps in epoll; each descriptor is a copy of its own, so that
/// one can be waited for many times over, and be closed meanwhile.
struct Reactor {
    set: OwnedFd,
    waiting: Mutex<Waiting>,
    /// The fork count of the process whose thread watches.
    born_in: i32,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// By number: the copy, and whom to wake.
    sleepers: HashMap<u64, (OwnedFd, Waker)>,
}

static REACTOR: Mutex<Option<Arc<Reactor>>> = Mutex::new(None);

fn reactor() -> Result<Arc<Reactor>> {
    let mut reactor = REACTOR.lock().unwrap_or_else(PoisonError::into_inner);
    // A forked child has neither the thread nor an epoll set of its own.
    if let Some(reactor) = reactor.as_ref().filter(|reactor| reactor.born_in == fork::count()) {
        return Ok(reactor.clone());
    }
    let fresh = Arc::new(Reactor { set: epoll::create()?, waiting: Mutex::default(), born_in: fork::count() });
    let for_thread = fresh.clone();
    thread::spawn_without_signals("polyproc-reactor", move || for_thread.run())?;
    *reactor = Some(fresh.clone());
    Ok(fresh)
}

impl Reactor {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut ready = Vec::new();
        loop {
            ready.clear();
            if let Err(error) = epoll::wait(&self.set, &mut ready, Deadline::Never) {
                log::debug!("polyproc: the reactor could not wait: {error}");
            }
            for number in &ready {
                // Each registration is good for one wake.
                let sleeper = self.waiting().sleepers.remove(number);
                if let Some((descriptor, waker)) = sleeper {
                    let _ = epoll::remove(&self.set, &descriptor);
                    waker.wake();
                }
            }
        }
    }
}

/// A task that waits for a descriptor. Dropping it, nobody is woken any more.
struct Registration {
    reactor: Arc<Reactor>,
    number: u64,
}

impl Registration {
    fn new(descriptor: BorrowedFd<'_>, waker: &Waker) -> Result<Registration> {
        let reactor = reactor()?;
        let error = |source| polyproc_engine::Error::Os { call: "dup", source };
        let copy = descriptor.try_clone_to_owned().map_err(error)?;
        let mut waiting = reactor.waiting();
        let number = waiting.next;
        waiting.next += 1;
        // Under the lock: the thread finds the sleeper, however soon it learns of the descriptor.
        epoll::add(&reactor.set, &copy, number)?;
        waiting.sleepers.insert(number, (copy, waker.clone()));
        drop(waiting);
        Ok(Registration { reactor, number })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let sleeper = self.reactor.waiting().sleepers.remove(&self.number);
        if let Some((descriptor, _)) = sleeper {
            let _ = epoll::remove(&self.reactor.set, &descriptor);
        }
    }
}

/// Waits until a descriptor is readable: of an [`Event`](crate::Event), say, or of whatever else is [`AsFd`].
///
/// # Errors
/// [`Error::Engine`] if the system has no room for another descriptor, or the reactor's thread.
///
/// # Examples
/// ```
/// use polyproc::{Event, Process, asynchronous};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let ready = Event::new()?;
/// let child = Process::spawn(|ready: Event| ready.set(), (ready.clone(),))?;
/// asynchronous::readable(&ready).await?;
/// assert!(ready.is_set());
/// child.await.unwrap();
/// # Ok::<(), polyproc::Error>(())
/// # }).unwrap();
/// ```
pub async fn readable(source: impl AsFd) -> Result<()> {
    let mut registration: Option<Registration> = None;
    poll_fn(move |context| {
        if crate::wait([&source as &dyn AsFd], Some(Duration::ZERO))?.is_empty() {
            // The one before is of no use any more.
            drop(registration.replace(Registration::new(source.as_fd(), context.waker())?));
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    })
    .await
}

/// Where items come from.
mod source {
    use super::{BorrowedFd, Result};

    pub trait Source: Unpin {
        type Item;
        fn try_take(&self) -> Result<Self::Item>;
        fn descriptor(&self) -> Result<BorrowedFd<'_>>;
    }
}

use source::Source;

impl<T: DeserializeOwned> Source for Queue<T> {
    type Item = T;

    fn try_take(&self) -> Result<T> {
        self.try_get()
    }

    fn descriptor(&self) -> Result<BorrowedFd<'_>> {
        Queue::descriptor(self)
    }
}

impl<T: DeserializeOwned> Source for Receiver<T> {
    type Item = T;

    fn try_take(&self) -> Result<T> {
        self.try_receive()
    }

    fn descriptor(&self) -> Result<BorrowedFd<'_>> {
        Ok(self.as_fd())
    }
}

impl<S, R: DeserializeOwned> Source for &End<S, R> {
    type Item = R;

    fn try_take(&self) -> Result<R> {
        self.try_receive()
    }

    fn descriptor(&self) -> Result<BorrowedFd<'_>> {
        Ok(self.as_fd())
    }
}

/// The items of a [`Queue`] or a [`Receiver`], as they come: a [`futures_core::Stream`]. It ends where a pipe does; a queue has
/// no end.
///
/// # Examples
/// ```
/// use polyproc::Queue;
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let numbers = Queue::unbounded()?;
/// numbers.put(&1)?;
/// numbers.put(&2)?;
/// let mut coming = numbers.stream();
/// assert_eq!(coming.next().await.unwrap()? + coming.next().await.unwrap()?, 3);
/// # Ok::<(), polyproc::Error>(())
/// # }).unwrap();
/// ```
pub struct Items<S> {
    source: S,
    registration: Option<Registration>,
}

impl<S: Source> Items<S> {
    /// The next item; `None` at the end.
    ///
    /// # Examples
    /// ```
    /// use polyproc::pipe;
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let (sender, receiver) = pipe::channel()?;
    /// let mut numbers = receiver.into_stream();
    /// sender.send(&1)?;
    /// drop(sender);
    /// assert_eq!(numbers.next().await.unwrap()?, 1);
    /// assert!(numbers.next().await.is_none());
    /// # Ok::<(), polyproc::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn next(&mut self) -> Option<Result<S::Item>> {
        poll_fn(|context| self.poll_item(context)).await
    }

    /// The queue or the receiver.
    ///
    /// # Examples
    /// ```
    /// let numbers = polyproc::Queue::<u32>::unbounded()?.stream();
    /// assert!(numbers.into_inner().is_empty());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn into_inner(self) -> S {
        self.source
    }

    fn poll_item(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<S::Item>>> {
        match self.source.try_take() {
            Err(Error::TimedOut) => {}
            Err(Error::EndOfFile) => return Poll::Ready(None),
            outcome => return Poll::Ready(Some(outcome)),
        }
        self.registration = None;
        let registered = self.source.descriptor().and_then(|fd| Registration::new(fd, context.waker()));
        match registered {
            Ok(registration) => {
                self.registration = Some(registration);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}

impl<S: Source> futures_core::Stream for Items<S> {
    type Item = Result<S::Item>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<S::Item>>> {
        self.poll_item(context)
    }
}

impl<S> fmt::Debug for Items<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items").finish_non_exhaustive()
    }
}

impl<T: DeserializeOwned> Queue<T> {
    /// The items of this queue, as they come, without a thread that waits. With the feature `async`; see [`asynchronous`](self).
    ///
    /// # Examples
    /// ```
    /// use polyproc::Queue;
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let numbers = Queue::unbounded()?;
    /// let mut coming = numbers.stream();
    /// numbers.put(&1)?;
    /// assert_eq!(coming.next().await.unwrap()?, 1);
    /// # Ok::<(), polyproc::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn stream(&self) -> Items<Queue<T>> {
        Items { source: self.clone(), registration: None }
    }
}

impl<T: DeserializeOwned> Receiver<T> {
    /// What is received, as it comes, without a thread that waits, until the other end is gone. With the feature `async`.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Process, pipe};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let (sender, receiver) = pipe::channel()?;
    /// let child = Process::spawn(|sender: pipe::Sender<u32>| sender.send(&1).unwrap(), (sender,))?;
    /// let (mut numbers, mut sum) = (receiver.into_stream(), 0);
    /// while let Some(number) = numbers.next().await {
    ///     sum += number?;
    /// }
    /// assert_eq!(sum, 1);
    /// child.await.unwrap();
    /// # Ok::<(), polyproc::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn into_stream(self) -> Items<Receiver<T>> {
        Items { source: self, registration: None }
    }
}

impl<S, R: DeserializeOwned> End<S, R> {
    /// What is received, as it comes, without a thread that waits, until the other end is gone; this end can still be sent
    /// through. With the feature `async`.
    ///
    /// # Examples
    /// ```
    /// use polyproc::pipe;
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let (ours, theirs) = pipe::duplex::<u32, u32>()?;
    /// let mut answers = ours.stream();
    /// ours.send(&1)?;
    /// theirs.send(&(theirs.receive()? + 1))?;
    /// assert_eq!(answers.next().await.unwrap()?, 2);
    /// # Ok::<(), polyproc::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn stream(&self) -> Items<&End<S, R>> {
        Items { source: self, registration: None }
    }
}

/// How a process ends: the future of [`Process::join`].
///
/// # Examples
/// ```
/// use polyproc::{Process, asynchronous::Join};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let ended: Join<u32> = Process::spawn(|a: u32, b: u32| a * b, (6, 7))?.into_future();
/// assert_eq!(ended.await.unwrap(), 42);
/// # Ok::<(), polyproc::Error>(())
/// # }).unwrap();
/// ```
pub struct Join<R> {
    process: Process<R>,
    registration: Option<Registration>,
}

impl<R: DeserializeOwned> Future for Join<R> {
    type Output = Result<R, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.process.join_timeout(Duration::ZERO) {
            Err(TaskError::TimedOut { .. }) => {}
            outcome => return Poll::Ready(outcome),
        }
        self.registration = None;
        match Registration::new(self.process.as_fd(), context.waker()) {
            Ok(registration) => {
                self.registration = Some(registration);
                Poll::Pending
            }
            // No descriptor to be had: it still ends, and waiting for it is all that is left.
            Err(_) => Poll::Ready(self.process.join_timeout(Duration::MAX)),
        }
    }
}

impl<R: DeserializeOwned> IntoFuture for Process<R> {
    type Output = Result<R, TaskError>;
    type IntoFuture = Join<R>;

    /// The future of [`Process::join`]. With the feature `async`. Dropping it detaches the process.
    fn into_future(self) -> Join<R> {
        Join { process: self, registration: None }
    }
}

impl<R> fmt::Debug for Join<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Join").field(&self.process).finish()
    }
}

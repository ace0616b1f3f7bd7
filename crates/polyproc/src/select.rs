//! Waiting for several things at once: queues, the ends of pipes, events, processes, and all else that has a descriptor.

use crate::wire;
use crate::{Error, Result};
use polyproc_engine::Deadline;
use polyproc_engine::sys::poll::{self, Polled};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

/// Waits for the first of several things: in the manner of crossbeam's `Select`.
///
/// A [`Queue`](crate::Queue) is ready while it has an item, the receiving end of a [pipe](crate::pipe) while there is something
/// to receive, be it the end of file, an [`Event`](crate::Event) while it is set, a [`Process`](crate::Process) once it has
/// ended, a [`Ticket`](crate::pool::Ticket) once its task is done; a socket, or whatever else has a descriptor, while it is readable. If several are ready each has its turn.
///
/// What was ready may no longer be when you come to it: another process was faster. So take it with `try_get` or `try_receive`,
/// and select again if there is nothing.
///
/// # Examples
/// ```
/// use polyproc::{Error, Event, Queue, Process, Select};
///
/// fn work(numbers: Queue<u32>, done: Event) {
///     for number in 0..3 {
///         numbers.put(&number).unwrap();
///     }
///     done.set();
/// }
///
/// let (numbers, done) = (Queue::unbounded()?, Event::new()?);
/// let child = Process::spawn(work, (numbers.clone(), done.clone()))?;
/// let mut select = Select::new();
/// let (on_number, on_done) = (select.add(&numbers), select.add(&done));
/// let mut sum = 0;
/// loop {
///     let ready = select.ready()?;
///     if ready == on_number {
///         match numbers.try_get() {
///             Ok(number) => sum += number,
///             Err(Error::TimedOut) => {}
///             Err(error) => return Err(error),
///         }
///     } else if ready == on_done && numbers.is_empty() {
///         break;
///     }
/// }
/// assert_eq!(sum, 3);
/// child.join().unwrap();
/// # Ok::<(), polyproc::Error>(())
/// ```
#[derive(Default)]
pub struct Select<'a> {
    sources: Vec<BorrowedFd<'a>>,
    /// Whose turn it is if all are ready.
    next: usize,
}

impl<'a> Select<'a> {
    /// A selection of nothing.
    ///
    /// # Examples
    /// ```
    /// let mut select = polyproc::Select::new();
    /// assert!(select.try_ready().is_err());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn new() -> Select<'a> {
        Select::default()
    }

    /// Adds something to wait for. Gives its number: 0 for the first, 1 for the second, and so on.
    ///
    /// # Panics
    /// If it is a queue or an event, and there is no descriptor to be had for it.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Event, Queue, Select};
    /// let (jobs, stop) = (Queue::<u32>::unbounded()?, Event::new()?);
    /// let mut select = Select::new();
    /// assert_eq!((select.add(&jobs), select.add(&stop)), (0, 1));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn add(&mut self, source: &'a impl AsFd) -> usize {
        self.sources.push(source.as_fd());
        self.sources.len() - 1
    }

    /// Waits until one of them is ready, and gives its number.
    ///
    /// # Errors
    /// [`Error::Engine`] if the system refuses to wait; [`Error::TimedOut`] at once if there is nothing to wait for.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Event, Select};
    /// let (go, stop) = (Event::new()?, Event::new()?);
    /// let mut select = Select::new();
    /// let (_, on_stop) = (select.add(&go), select.add(&stop));
    /// stop.set();
    /// assert_eq!(select.ready()?, on_stop);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn ready(&mut self) -> Result<usize> {
        self.ready_by(Deadline::Never)
    }

    /// The number of one that is ready now.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if none is; otherwise as [`Select::ready`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Error, Event, Select};
    /// let stop = Event::new()?;
    /// let mut select = Select::new();
    /// select.add(&stop);
    /// assert!(matches!(select.try_ready(), Err(Error::TimedOut)));
    /// stop.set();
    /// assert_eq!(select.try_ready()?, 0);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn try_ready(&mut self) -> Result<usize> {
        self.ready_by(Deadline::Now)
    }

    /// As [`Select::ready`], waiting no longer than `timeout`.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; otherwise as [`Select::ready`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Error, Queue, Select};
    /// use std::time::Duration;
    /// let queue: Queue<u32> = Queue::unbounded()?;
    /// let mut select = Select::new();
    /// select.add(&queue);
    /// assert!(matches!(select.ready_timeout(Duration::from_millis(1)), Err(Error::TimedOut)));
    /// queue.put(&1)?;
    /// assert_eq!(select.ready_timeout(Duration::from_secs(5))?, 0);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn ready_timeout(&mut self, timeout: Duration) -> Result<usize> {
        self.ready_by(wire::within(timeout))
    }

    fn ready_by(&mut self, deadline: Deadline) -> Result<usize> {
        let ready = poll_all(&self.sources, deadline)?;
        let chosen = ready.iter().find(|number| **number >= self.next).or(ready.first()).copied();
        let chosen = chosen.ok_or(Error::TimedOut)?;
        self.next = chosen + 1;
        Ok(chosen)
    }
}

impl fmt::Debug for Select<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Select").field("sources", &self.sources.len()).finish_non_exhaustive()
    }
}

/// Waits until some of these are ready, and gives the numbers of all that are: Python's `multiprocessing.connection.wait`.
/// `None` waits as long as it takes; nothing is ready if the timeout came first. See [`Select`] for what is ready when.
///
/// # Errors
/// [`Error::Engine`] if the system refuses to wait.
///
/// # Panics
/// If one is a queue or an event, and there is no descriptor to be had for it.
///
/// # Examples
/// ```
/// use polyproc::Process;
/// use std::os::fd::AsFd;
///
/// let children: Vec<_> = (0..3).map(|_| Process::spawn(|| (), ())).collect::<Result<_, _>>()?;
/// let ended = polyproc::wait(children.iter().map(|child| child as &dyn AsFd), None)?;
/// assert!(!ended.is_empty());
/// # Ok::<(), polyproc::Error>(())
/// ```
pub fn wait<'a>(sources: impl IntoIterator<Item = &'a dyn AsFd>, timeout: Option<Duration>) -> Result<Vec<usize>> {
    let sources: Vec<BorrowedFd<'a>> = sources.into_iter().map(AsFd::as_fd).collect();
    poll_all(&sources, Deadline::after(timeout))
}

fn poll_all(sources: &[BorrowedFd<'_>], deadline: Deadline) -> Result<Vec<usize>> {
    if sources.is_empty() && deadline == Deadline::Never {
        return Ok(Vec::new());
    }
    let mut polled: Vec<Polled> = sources.iter().map(|source| Polled::new(source.as_raw_fd())).collect();
    wire::again(|| poll::wait(&mut polled, deadline))?;
    Ok(polled.iter().enumerate().filter(|(_, polled)| polled.ready).map(|(number, _)| number).collect())
}

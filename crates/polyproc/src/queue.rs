//! Queues between processes.

use crate::wire;
use crate::{Error, Result};
use polyproc_engine::Deadline;
use polyproc_engine::channel::Queue as Engine;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

const ITEM: u8 = 1;

/// A queue between processes: any number put, any number get, each item comes to one of them.
///
/// A [`put`](Queue::put) that returned is delivered: the item is in shared memory, and survives its producer. An item is
/// encoded from a reference, so that whoever could not put it still has it. A clone is another handle of the same queue, as is
/// what comes out of an argument, a result or a message.
///
/// # Examples
/// ```
/// use polyproc::{Process, Queue};
///
/// fn produce(queue: Queue<u32>) {
///     for i in 0..3 {
///         queue.put(&i).unwrap();
///     }
/// }
///
/// let queue = Queue::unbounded()?;
/// let producer = Process::spawn(produce, (queue.clone(),))?;
/// assert_eq!((queue.get()?, queue.get()?, queue.get()?), (0, 1, 2));
/// producer.join().unwrap();
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct Queue<T> {
    queue: Engine,
    items: PhantomData<fn(T) -> T>,
}

impl<T> Queue<T> {
    /// A queue that grows as long as the session's memory budget allows; a put never waits.
    ///
    /// # Errors
    /// [`Error::Engine`] if there is no memory.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Queue;
    /// let queue: Queue<String> = Queue::unbounded()?;
    /// queue.put("an item")?;
    /// assert_eq!(queue.get()?, "an item");
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn unbounded() -> Result<Queue<T>> {
        Ok(Queue { queue: Engine::new(0)?, items: PhantomData })
    }

    /// A queue of at most `most` items, at least 1; a put waits for room.
    ///
    /// # Errors
    /// [`Error::Engine`] if there is no memory.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Error, Queue};
    /// let queue = Queue::bounded(1)?;
    /// queue.put("first")?;
    /// assert!(matches!(queue.try_put("second"), Err(Error::TimedOut)));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn bounded(most: u32) -> Result<Queue<T>> {
        Ok(Queue { queue: Engine::new(most.clamp(1, Engine::MAX_SIZE))?, items: PhantomData })
    }

    /// How many items it holds; exact at some moment during the call.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Queue;
    /// let queue: Queue<u32> = Queue::unbounded()?;
    /// queue.put(&1)?;
    /// assert_eq!(queue.len(), 1);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.queue.len() as usize
    }

    /// True if it holds none.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Queue;
    /// let queue: Queue<u32> = Queue::unbounded()?;
    /// assert!(queue.is_empty());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The most items it may hold; `None` means any number.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Queue;
    /// assert_eq!(Queue::<u32>::bounded(8)?.capacity(), Some(8));
    /// assert_eq!(Queue::<u32>::unbounded()?.capacity(), None);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn capacity(&self) -> Option<usize> {
        (self.queue.most() != 0).then_some(self.queue.most() as usize)
    }

    /// A descriptor that is readable while the queue is not empty: for poll, epoll and the like, to wait for several things at
    /// once. It is made, with a thread that watches the queue, when it is first asked for.
    ///
    /// # Errors
    /// [`Error::Engine`] if there is no descriptor, or no thread, to be had.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Queue;
    /// use std::os::fd::AsFd;
    /// let queue = Queue::unbounded()?;
    /// let descriptor = queue.descriptor()?;
    /// queue.put(&1)?;
    /// assert_eq!(polyproc::wait([&descriptor as &dyn AsFd], None)?, [0]);
    /// assert_eq!(queue.try_get()?, 1);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn descriptor(&self) -> Result<BorrowedFd<'_>> {
        Ok(self.queue.bell_descriptor()?)
    }

    /// Says that one item which was taken out is finished: for [`Queue::join`].
    ///
    /// # Errors
    /// [`Error::Engine`] if all are finished.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Queue;
    /// let queue: Queue<u32> = Queue::unbounded()?;
    /// queue.put(&1)?;
    /// queue.get()?;
    /// queue.task_done()?;
    /// assert!(queue.task_done().is_err(), "once for each item");
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn task_done(&self) -> Result<()> {
        Ok(self.queue.finish_one()?)
    }

    /// Waits until every item that was put in was taken out and [finished](Queue::task_done).
    ///
    /// # Errors
    /// [`Error::Engine`] if the queue is damaged.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Queue;
    /// let queue = Queue::unbounded()?;
    /// queue.put(&1)?;
    /// queue.get()?;
    /// queue.task_done()?;
    /// queue.join()?;
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn join(&self) -> Result<()> {
        Ok(wire::again(|| self.queue.wait_finished(Deadline::Never))?)
    }
}

/// What can be put into a `Queue<T>`: a reference to a `T`, or to what encodes as one (`str` for a `String`, a slice for a
/// `Vec`).
///
/// # Examples
/// ```
/// use polyproc::{EncodesAs, Queue, Result};
///
/// fn put_twice<E: EncodesAs<String> + ?Sized>(words: &Queue<String>, word: &E) -> Result<()> {
///     words.put(word)?;
///     words.put(word)
/// }
///
/// let words = Queue::unbounded()?;
/// put_twice(&words, "borrowed")?;
/// put_twice(&words, &"owned".to_owned())?;
/// assert_eq!(words.get()?, "borrowed");
/// # Ok::<(), polyproc::Error>(())
/// ```
pub trait EncodesAs<T: ?Sized>: Serialize {}

impl<T: Serialize> EncodesAs<T> for T {}
impl EncodesAs<String> for str {}
impl<T: Serialize> EncodesAs<Vec<T>> for [T] {}

impl<T> Queue<T> {
    /// Puts an item in, waiting for room if the queue is bounded and full.
    ///
    /// # Errors
    /// [`Error::Encode`]; [`Error::Engine`] if the session's memory budget is used up.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Queue;
    /// let queue: Queue<Vec<u32>> = Queue::unbounded()?;
    /// let item = vec![1, 2];
    /// queue.put(&item)?;
    /// assert_eq!(queue.get()?, item);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    #[inline]
    pub fn put<V: EncodesAs<T> + ?Sized>(&self, item: &V) -> Result<()> {
        self.put_by(item, Deadline::Never)
    }

    /// Puts an item in if there is room now.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if there is none; otherwise as [`Queue::put`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Queue;
    /// let queue: Queue<u32> = Queue::bounded(1)?;
    /// assert!(queue.try_put(&1).is_ok());
    /// assert!(matches!(queue.try_put(&2), Err(polyproc::Error::TimedOut)));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn try_put<V: EncodesAs<T> + ?Sized>(&self, item: &V) -> Result<()> {
        self.put_by(item, Deadline::Now)
    }

    /// Puts an item in, waiting no longer than `timeout` for room.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; otherwise as [`Queue::put`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Queue;
    /// let queue: Queue<u32> = Queue::bounded(1)?;
    /// let time = std::time::Duration::from_millis(5);
    /// assert!(queue.put_timeout(&1, time).is_ok());
    /// assert!(matches!(queue.put_timeout(&2, time), Err(polyproc::Error::TimedOut)));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn put_timeout<V: EncodesAs<T> + ?Sized>(&self, item: &V, timeout: Duration) -> Result<()> {
        self.put_by(item, wire::within(timeout))
    }

    fn put_by<V: Serialize + ?Sized>(&self, item: &V, deadline: Deadline) -> Result<()> {
        wire::with_bytes(|bytes| {
            let (mut bytes, mut luggage) = match wire::encode(item, bytes) {
                Ok(encoded) => encoded,
                Err(error) => return (Vec::new(), Err(error)),
            };
            if let Err(error) = wire::leave_descriptors(&mut bytes, &mut luggage) {
                return (bytes, Err(error.into()));
            }
            let handles = luggage.handles();
            let outcome = wire::parcel(ITEM, &bytes, &mut luggage, &handles)
                .and_then(|mut parcel| wire::by(deadline, |deadline| self.queue.put(&mut parcel, deadline)));
            (bytes, outcome.map_err(Error::from))
        })
    }
}

impl<T: DeserializeOwned> Queue<T> {
    /// Takes the oldest item out, waiting for one.
    ///
    /// # Errors
    /// [`Error::Decode`] if what came is not a `T`.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Queue;
    /// let queue: Queue<u32> = Queue::unbounded()?;
    /// queue.put(&7)?;
    /// assert_eq!(queue.get()?, 7);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    #[inline]
    pub fn get(&self) -> Result<T> {
        self.get_by(Deadline::Never)
    }

    /// Takes the oldest item out if there is one now.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if there is none; otherwise as [`Queue::get`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Queue;
    /// let queue: Queue<u32> = Queue::unbounded()?;
    /// assert!(matches!(queue.try_get(), Err(polyproc::Error::TimedOut)));
    /// queue.put(&7)?;
    /// assert_eq!(queue.try_get()?, 7);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn try_get(&self) -> Result<T> {
        self.get_by(Deadline::Now)
    }

    /// Takes the oldest item out, waiting no longer than `timeout` for one.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; otherwise as [`Queue::get`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Queue;
    /// let queue: Queue<u32> = Queue::unbounded()?;
    /// let time = std::time::Duration::from_millis(5);
    /// assert!(matches!(queue.get_timeout(time), Err(polyproc::Error::TimedOut)));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn get_timeout(&self, timeout: Duration) -> Result<T> {
        self.get_by(wire::within(timeout))
    }

    fn get_by(&self, deadline: Deadline) -> Result<T> {
        wire::with_envelope(|envelope| {
            wire::by(deadline, |deadline| self.queue.get(envelope, deadline))?;
            wire::open(envelope, Vec::new())
        })
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Queue<T> {
        Queue { queue: self.queue.clone(), items: PhantomData }
    }
}

impl<T> AsFd for Queue<T> {
    /// As [`Queue::descriptor`].
    ///
    /// # Panics
    /// If there is no descriptor, or no thread, to be had.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.descriptor() {
            Ok(descriptor) => descriptor,
            Err(error) => panic!("this queue can have no descriptor: {error}"),
        }
    }
}

impl<T> AsRawFd for Queue<T> {
    /// As [`Queue::as_fd`].
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("len", &self.len()).field("capacity", &self.capacity()).finish()
    }
}

impl<T> Serialize for Queue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        wire::pack(self.queue.hold(), serializer)
    }
}

impl<'de, T> Deserialize<'de> for Queue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Queue<T>, D::Error> {
        Ok(Queue { queue: wire::unpack(deserializer, Engine::from_handle)?, items: PhantomData })
    }
}

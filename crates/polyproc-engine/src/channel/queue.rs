//! A queue between processes: any number of producers and consumers.

use super::bell;
use super::parcel::{Envelope, Parcel};
use super::ring::Ring;
use crate::Result;
use crate::shm::{Handle, Hold, Participant};
use crate::sys::clock::Deadline;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

/// A queue. A put that returned is in shared memory: it survives the end of its producer, however that comes.
///
/// Each item is delivered once, whole, and in the order in which each producer put it. A consumer that is killed between
/// taking an item out and returning from [`Queue::get`] takes it along.
///
/// # Examples
/// ```
/// use polyproc_engine::{Deadline, channel::{Envelope, Parcel, Queue}};
/// let queue = Queue::new(0)?;
/// queue.put(&mut Parcel::new(1, b"hello")?, Deadline::Never)?;
/// let mut envelope = Envelope::new();
/// queue.get(&mut envelope, Deadline::Never)?;
/// assert_eq!((envelope.kind, &envelope.inline[..]), (1, &b"hello"[..]));
/// # Ok::<(), polyproc_engine::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Queue {
    ring: Arc<Ring>,
}

impl Queue {
    /// The most items that a bounded queue can be made for.
    pub const MAX_SIZE: u32 = i32::MAX as u32;

    /// A new queue of at most `most` items; 0 means that it grows as long as the session's budget allows.
    pub fn new(most: u32) -> Result<Queue> {
        Ok(Queue { ring: Arc::new(Ring::new(most, false)?) })
    }

    /// A new queue for a few small items: it begins with a page of memory where [`Queue::new`] takes 64 KiB, and grows like
    /// any other.
    pub fn modest() -> Result<Queue> {
        Ok(Queue { ring: Arc::new(Ring::modest()?) })
    }

    /// The queue of a handle.
    pub fn from_handle(handle: Handle) -> Result<Queue> {
        Ok(Queue { ring: Arc::new(Ring::from_handle(handle)?) })
    }

    /// This process's hold on it.
    pub fn hold(&self) -> &Hold {
        self.ring.hold()
    }

    /// Puts a message in, waiting for room in a bounded queue that is full.
    ///
    /// # Errors
    /// [`crate::Error::TimedOut`], [`crate::Error::Interrupted`]; [`crate::Error::BudgetExhausted`] if it cannot grow. The
    /// parcel is then as it was.
    #[inline]
    pub fn put(&self, parcel: &mut Parcel<'_>, deadline: Deadline) -> Result<()> {
        self.ring.put(parcel, deadline, &|| false)?;
        bell::rang(&self.ring);
        Ok(())
    }

    /// Takes the oldest message out, waiting for one.
    ///
    /// # Errors
    /// [`crate::Error::TimedOut`], [`crate::Error::Interrupted`], [`crate::Error::Damaged`].
    #[inline]
    pub fn get(&self, envelope: &mut Envelope, deadline: Deadline) -> Result<()> {
        self.ring.get(envelope, deadline)?;
        bell::rang(&self.ring);
        Ok(())
    }

    /// As [`Queue::get`], where one process alone puts messages in: an error as soon as that is dead and the queue is empty. At
    /// once if the process was made a holder of the queue ([`Hold::share_with`]), so that the sweep of it wakes who sleeps here;
    /// within a second otherwise.
    ///
    /// # Errors
    /// [`crate::Error::EndOfFile`]; otherwise as [`Queue::get`].
    pub fn get_from(&self, producer: Participant, envelope: &mut Envelope, deadline: Deadline) -> Result<()> {
        self.ring.get_from(producer, envelope, deadline)?;
        bell::rang(&self.ring);
        Ok(())
    }

    /// Waits until it holds a message, and leaves it in: another consumer may be faster.
    ///
    /// # Errors
    /// [`crate::Error::TimedOut`], [`crate::Error::Interrupted`].
    pub fn wait(&self, deadline: Deadline) -> Result<()> {
        self.ring.wait(deadline)
    }

    /// How many messages it holds; exact at some moment during the call.
    pub fn len(&self) -> u32 {
        self.ring.len()
    }

    /// True if it holds none.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// True if a put would wait.
    pub fn is_full(&self) -> bool {
        self.ring.is_full()
    }

    /// The most messages it may hold; 0 means any number.
    pub fn most(&self) -> u32 {
        self.ring.most()
    }

    /// Says that one message which was taken out is finished.
    ///
    /// # Errors
    /// [`crate::Error::ReleasedTooOften`] if there is none.
    pub fn finish_one(&self) -> Result<()> {
        self.ring.finish_one()
    }

    /// How many messages are not finished: those in the queue and those taken out.
    pub fn unfinished(&self) -> u32 {
        self.ring.unfinished()
    }

    /// Waits until every message that was put in is finished.
    ///
    /// # Errors
    /// [`crate::Error::TimedOut`], [`crate::Error::Interrupted`].
    pub fn wait_finished(&self, deadline: Deadline) -> Result<()> {
        self.ring.wait_finished(deadline)
    }

    /// A descriptor that is readable while the queue is not empty, for poll, epoll and the like. The first call in a process
    /// starts a thread that watches the queue; the descriptor is the engine's, and lives as long as this process has the
    /// queue.
    pub fn bell(&self) -> Result<RawFd> {
        bell::arm(&self.ring)
    }

    /// As [`Queue::bell`], borrowed for as long as the queue is.
    pub fn bell_descriptor(&self) -> Result<BorrowedFd<'_>> {
        // SAFETY: it stays open for as long as this process has the queue.
        Ok(unsafe { BorrowedFd::borrow_raw(self.bell()?) })
    }
}

//! A read-write lock that holds its data, between processes, and survives those who hold it.

use crate::guarded::{self, Guarded};
use crate::wire;
use crate::{Abandoned, Plain, Result, TryLockError};
use polyproc_engine::Deadline;
use polyproc_engine::sync::RwLock as Engine;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// Data in shared memory that many may read at a time, or one write: [`std::sync::RwLock`] between processes.
///
/// When a process dies while it writes, or panics, those who come next get their guards all the same, as [`Abandoned`] ones:
/// readers until a writer has had the news, who is the one to repair what is half done. A reader that dies gives its share
/// back. A writer that waits keeps new readers out, but for some after each writer: nobody starves. So a thread that reads must
/// not read once more: a writer may be waiting in between.
///
/// # Examples
/// ```
/// use polyproc::{Process, RwLock};
///
/// fn look(table: RwLock<[u32; 4]>) -> u32 {
///     table.read().unwrap().iter().sum()
/// }
///
/// let table = RwLock::new([0; 4])?;
/// table.write().unwrap()[2] = 7;
/// let readers: Vec<_> = (0..2).map(|_| Process::spawn(look, (table.clone(),))).collect::<Result<_, _>>()?;
/// for reader in readers {
///     assert_eq!(reader.join().unwrap(), 7);
/// }
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct RwLock<T: Plain> {
    lock: Engine,
    data: Guarded<T>,
}

/// A share of a [`RwLock`]: the data can be read. Dropping it gives the share back.
///
/// # Examples
/// ```
/// use polyproc::RwLock;
/// let level = RwLock::new(5)?;
/// let guard: polyproc::ReadGuard<'_, i32> = level.read().unwrap();
/// assert_eq!(*guard, 5);
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct ReadGuard<'a, T: Plain> {
    lock: &'a RwLock<T>,
    /// As with std's guards, the thread that took it gives it back.
    stays: PhantomData<*const ()>,
}

/// A [`RwLock`] is held alone: the data can be read and written. Dropping it releases the lock.
///
/// # Examples
/// ```
/// use polyproc::RwLock;
/// let level = RwLock::new(5)?;
/// let mut guard: polyproc::WriteGuard<'_, i32> = level.write().unwrap();
/// *guard = 6;
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct WriteGuard<'a, T: Plain> {
    lock: &'a RwLock<T>,
    stays: PhantomData<*const ()>,
}

impl<T: Plain> RwLock<T> {
    /// A lock around `value`.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if the session's memory budget is used up.
    ///
    /// # Examples
    /// ```
    /// let table = polyproc::RwLock::new([0u8; 16])?;
    /// assert_eq!(table.read().unwrap().len(), 16);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn new(value: T) -> Result<RwLock<T>> {
        Ok(RwLock { lock: Engine::new()?, data: Guarded::new(value)? })
    }

    /// Takes a share, waiting for it.
    ///
    /// # Errors
    /// [`Abandoned`], with the guard in it, if a writer died or panicked and no writer has had the news yet.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{RwLock, TryLockError};
    /// let level = RwLock::new(5)?;
    /// let (one, two) = (level.read().unwrap(), level.read().unwrap());
    /// assert_eq!(*one + *two, 10);
    /// assert!(matches!(level.try_write(), Err(TryLockError::TimedOut)));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn read(&self) -> Result<ReadGuard<'_, T>, Abandoned<ReadGuard<'_, T>>> {
        never_late(self.read_by(Deadline::Never))
    }

    /// Takes a share if there is one now.
    ///
    /// # Errors
    /// [`TryLockError`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::{RwLock, TryLockError};
    /// let level = RwLock::new(5)?;
    /// assert_eq!(*level.try_read().unwrap(), 5);
    /// let writing = level.write().unwrap();
    /// assert!(matches!(level.try_read(), Err(TryLockError::TimedOut)));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn try_read(&self) -> Result<ReadGuard<'_, T>, TryLockError<ReadGuard<'_, T>>> {
        self.read_by(Deadline::Now)
    }

    /// Takes a share, waiting no longer than `timeout`.
    ///
    /// # Errors
    /// [`TryLockError`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::RwLock;
    /// use std::time::Duration;
    /// let level = RwLock::new(5)?;
    /// let writing = level.write().unwrap();
    /// assert!(level.read_timeout(Duration::from_millis(5)).is_err());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn read_timeout(&self, timeout: Duration) -> Result<ReadGuard<'_, T>, TryLockError<ReadGuard<'_, T>>> {
        self.read_by(wire::within(timeout))
    }

    /// Takes all of it, waiting for it.
    ///
    /// # Errors
    /// [`Abandoned`], with the guard in it, if the last writer died or panicked. The news is then given: whoever comes next
    /// relies on what this writer leaves.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Process, RwLock};
    ///
    /// fn fail(level: RwLock<u32>) {
    ///     *level.write().unwrap() = 1;
    ///     let _half_done = level.write().unwrap();
    ///     std::process::abort();
    /// }
    ///
    /// let level = RwLock::new(0)?;
    /// assert!(Process::spawn(fail, (level.clone(),))?.join().is_err());
    /// assert_eq!(**level.read().unwrap_err().get_ref(), 1);
    /// *level.write().unwrap_err().into_inner() = 0;
    /// assert_eq!(*level.read().unwrap(), 0);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn write(&self) -> Result<WriteGuard<'_, T>, Abandoned<WriteGuard<'_, T>>> {
        never_late(self.write_by(Deadline::Never))
    }

    /// Takes all of it if it is free now.
    ///
    /// # Errors
    /// [`TryLockError`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::RwLock;
    /// let level = RwLock::new(5)?;
    /// *level.try_write().unwrap() = 6;
    /// let reading = level.read().unwrap();
    /// assert!(level.try_write().is_err());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn try_write(&self) -> Result<WriteGuard<'_, T>, TryLockError<WriteGuard<'_, T>>> {
        self.write_by(Deadline::Now)
    }

    /// Takes all of it, waiting no longer than `timeout`.
    ///
    /// # Errors
    /// [`TryLockError`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::RwLock;
    /// use std::time::Duration;
    /// let level = RwLock::new(5)?;
    /// let reading = level.read().unwrap();
    /// assert!(level.write_timeout(Duration::from_millis(5)).is_err());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn write_timeout(&self, timeout: Duration) -> Result<WriteGuard<'_, T>, TryLockError<WriteGuard<'_, T>>> {
        self.write_by(wire::within(timeout))
    }

    fn read_by(&self, deadline: Deadline) -> Result<ReadGuard<'_, T>, TryLockError<ReadGuard<'_, T>>> {
        let Some(acquired) = wire::until(deadline, || self.lock.read(deadline)) else {
            return Err(TryLockError::TimedOut);
        };
        let guard = ReadGuard { lock: self, stays: PhantomData };
        Abandoned::judge(guard, acquired, self.data.panic_news()).map_err(TryLockError::Abandoned)
    }

    fn write_by(&self, deadline: Deadline) -> Result<WriteGuard<'_, T>, TryLockError<WriteGuard<'_, T>>> {
        let Some(acquired) = wire::until(deadline, || self.lock.write(deadline)) else {
            return Err(TryLockError::TimedOut);
        };
        let guard = WriteGuard { lock: self, stays: PhantomData };
        let panicked = self.data.panic_news();
        if panicked.is_some() {
            self.data.clear_news();
        }
        Abandoned::judge(guard, acquired, panicked).map_err(TryLockError::Abandoned)
    }

    /// How many shares readers have now.
    ///
    /// # Examples
    /// ```
    /// let level = polyproc::RwLock::new(5)?;
    /// let (_one, _two) = (level.read().unwrap(), level.read().unwrap());
    /// assert_eq!(level.readers(), 2);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn readers(&self) -> usize {
        self.lock.readers() as usize
    }

    /// The pid of the process that has it to write now.
    ///
    /// # Examples
    /// ```
    /// let level = polyproc::RwLock::new(5)?;
    /// assert_eq!(level.writer(), None);
    /// let _writing = level.write().unwrap();
    /// assert_eq!(level.writer(), Some(std::process::id() as i32));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn writer(&self) -> Option<i32> {
        self.lock.writer().map(|holder| holder.pid)
    }
}

fn never_late<G>(outcome: Result<G, TryLockError<G>>) -> Result<G, Abandoned<G>> {
    outcome.map_err(|error| match error {
        TryLockError::Abandoned(abandoned) => abandoned,
        TryLockError::TimedOut => unreachable!("a wait without a deadline has passed it"),
    })
}

impl<T: Plain> Deref for ReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the place is large enough, aligned, and any bytes there are a T (Plain). While this process has a share no
        // other writes there, unless it breaks the rules; then what is read is some other T.
        unsafe { &*self.lock.data.place() }
    }
}

impl<T: Plain> Deref for WriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: as above.
        unsafe { &*self.lock.data.place() }
    }
}

impl<T: Plain> DerefMut for WriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above; and this thread alone has a guard.
        unsafe { &mut *self.lock.data.place() }
    }
}

impl<T: Plain> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        // The only failure is that this process has no share: somebody has given it back behind our back.
        let _ = self.lock.lock.release_read();
    }
}

impl<T: Plain> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.data.note_panic();
        let _ = self.lock.lock.release_write();
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for ReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for WriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Plain> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (readers, writer) = (self.readers(), self.writer());
        f.debug_struct("RwLock").field("readers", &readers).field("writer", &writer).finish_non_exhaustive()
    }
}

impl<T: Plain> Clone for RwLock<T> {
    fn clone(&self) -> RwLock<T> {
        RwLock { lock: self.lock.clone(), data: self.data.clone() }
    }
}

impl<T: Plain> Serialize for RwLock<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        guarded::pack(self.lock.hold(), &self.data, serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for RwLock<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<RwLock<T>, D::Error> {
        let (lock, data) = guarded::unpack(deserializer, Engine::from_handle)?;
        Ok(RwLock { lock, data })
    }
}

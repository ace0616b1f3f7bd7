//! A lock that holds its data, between processes, and survives those who hold it.

use crate::guarded::{self, Guarded};
use crate::wire;
use crate::{Abandoned, Plain, Result, TryLockError};
use polyproc_engine::Deadline;
use polyproc_engine::sync::Lock as Engine;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// Data in shared memory, and the lock that guards it: [`std::sync::Mutex`] between processes.
///
/// When a process dies while it holds the lock, or panics, the next one gets the lock all the same, as an [`Abandoned`]
/// guard, in the manner of std's poisoning: what it guards may be half done. The news comes once.
///
/// A clone is another handle of the same lock, as is what comes out of an argument, a result or a message.
///
/// # Examples
/// ```
/// use polyproc::{Lock, Process};
///
/// fn count(total: Lock<u64>) {
///     for _ in 0..1000 {
///         *total.lock().unwrap() += 1;
///     }
/// }
///
/// let total = Lock::new(0)?;
/// let children: Vec<_> =
///     (0..3).map(|_| Process::spawn(count, (total.clone(),))).collect::<Result<_, _>>()?;
/// for child in children {
///     child.join().unwrap();
/// }
/// assert_eq!(*total.lock().unwrap(), 3000);
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct Lock<T: Plain> {
    lock: Engine,
    data: Guarded<T>,
}

/// The lock is held; the data can be read and written. Dropping it releases the lock.
///
/// # Examples
/// ```
/// use polyproc::Lock;
/// let lock = Lock::new(1)?;
/// let mut guard: polyproc::Guard<'_, i32> = lock.lock().unwrap();
/// *guard += 1;
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct Guard<'a, T: Plain> {
    lock: &'a Lock<T>,
    /// As with std's guards, the thread that took the lock releases it.
    stays: PhantomData<*const ()>,
}

impl<T: Plain> Lock<T> {
    /// A lock around `value`.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if the session's memory budget is used up.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Lock;
    /// let lock = Lock::new([1u32, 2])?;
    /// assert_eq!(*lock.lock().unwrap(), [1, 2]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn new(value: T) -> Result<Lock<T>> {
        Ok(Lock { lock: Engine::new()?, data: Guarded::new(value)? })
    }

    /// Takes the lock, waiting for it.
    ///
    /// # Errors
    /// [`Abandoned`], with the guard in it, if the last holder died or panicked.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Lock;
    /// let lock = Lock::new(0u32)?;
    /// *lock.lock().unwrap() += 1;
    /// assert_eq!(*lock.lock().unwrap(), 1);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    #[inline]
    pub fn lock(&self) -> Result<Guard<'_, T>, Abandoned<Guard<'_, T>>> {
        match self.lock_by(Deadline::Never) {
            Ok(guard) => Ok(guard),
            Err(TryLockError::Abandoned(abandoned)) => Err(abandoned),
            Err(TryLockError::TimedOut) => unreachable!("a wait without a deadline has passed it"),
        }
    }

    /// Takes the lock if it is free now.
    ///
    /// # Errors
    /// [`TryLockError`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Lock, TryLockError};
    /// let lock = Lock::new(0)?;
    /// let held = lock.lock().unwrap();
    /// assert!(matches!(lock.try_lock(), Err(TryLockError::TimedOut)));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn try_lock(&self) -> Result<Guard<'_, T>, TryLockError<Guard<'_, T>>> {
        self.lock_by(Deadline::Now)
    }

    /// Takes the lock, waiting no longer than `timeout`.
    ///
    /// # Errors
    /// [`TryLockError`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Lock;
    /// let lock = Lock::new(0u32)?;
    /// let guard = lock.lock().unwrap();
    /// let other = lock.clone();
    /// // Another thread, or process, does not get it now.
    /// let late = std::thread::spawn(move || other.lock_timeout(std::time::Duration::from_millis(5)).is_err());
    /// assert!(late.join().unwrap());
    /// drop(guard);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn lock_timeout(&self, timeout: Duration) -> Result<Guard<'_, T>, TryLockError<Guard<'_, T>>> {
        self.lock_by(wire::within(timeout))
    }

    #[inline]
    fn lock_by(&self, deadline: Deadline) -> Result<Guard<'_, T>, TryLockError<Guard<'_, T>>> {
        let Some(acquired) = wire::until(deadline, || self.lock.acquire(deadline)) else {
            return Err(TryLockError::TimedOut);
        };
        let guard = Guard { lock: self, stays: PhantomData };
        let panicked = self.data.panic_news();
        if panicked.is_some() {
            self.data.clear_news();
        }
        Abandoned::judge(guard, acquired, panicked).map_err(TryLockError::Abandoned)
    }

    /// The pid of the process that holds it now.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Lock;
    /// let lock = Lock::new(0u32)?;
    /// let guard = lock.lock().unwrap();
    /// assert_eq!(lock.holder(), Some(std::process::id() as i32));
    /// drop(guard);
    /// assert_eq!(lock.holder(), None);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn holder(&self) -> Option<i32> {
        self.lock.holder().map(|holder| holder.pid)
    }
}

impl<'a, T: Plain> Guard<'a, T> {
    /// The lock that is held.
    pub(crate) fn of(&self) -> &'a Lock<T> {
        self.lock
    }
}

impl<T: Plain> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the place is large enough, aligned, and any bytes there are a T (Plain). While this process holds the lock
        // no other writes there, unless it breaks the rules; then what is read is some other T.
        unsafe { &*self.lock.data.place() }
    }
}

impl<T: Plain> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above; and this thread alone has the guard.
        unsafe { &mut *self.lock.data.place() }
    }
}

impl<T: Plain> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.data.note_panic();
        // The only failure is that nobody holds it: somebody has made the lock free behind our back.
        let _ = self.lock.lock.release();
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for Guard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Plain> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("holder", &self.holder()).finish_non_exhaustive()
    }
}

impl<T: Plain> Clone for Lock<T> {
    fn clone(&self) -> Lock<T> {
        Lock { lock: self.lock.clone(), data: self.data.clone() }
    }
}

impl<T: Plain> Serialize for Lock<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        guarded::pack(self.lock.hold(), &self.data, serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for Lock<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Lock<T>, D::Error> {
        let (lock, data) = guarded::unpack(deserializer, Engine::from_handle)?;
        Ok(Lock { lock, data })
    }
}

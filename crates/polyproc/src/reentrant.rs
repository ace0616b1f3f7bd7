//! A lock that holds its data, between processes, and that the thread which has it may take again.

use crate::guarded::{self, Guarded};
use crate::wire;
use crate::{Abandoned, Plain, Result, TryLockError};
use polyproc_engine::Deadline;
use polyproc_engine::sync::ReentrantLock as Engine;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::time::Duration;

/// Data in shared memory, guarded by a lock that the thread which holds it may take again.
///
/// As a thread can have several guards at a time, a guard gives no `&mut T` but a [`Cell`]: `get`, `set`, `replace`. When a
/// process dies while it holds the lock, or panics, the next one is told, as with [`Lock`](crate::Lock).
///
/// # Examples
/// ```
/// use polyproc::ReentrantLock;
///
/// fn add(total: &ReentrantLock<u64>, number: u64) {
///     let total = total.lock().unwrap();
///     total.set(total.get() + number);
/// }
///
/// let total = ReentrantLock::new(0)?;
/// let outer = total.lock().unwrap();
/// add(&total, 2);
/// add(&total, 3);
/// assert_eq!(outer.get(), 5);
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct ReentrantLock<T: Plain> {
    lock: Engine,
    data: Guarded<T>,
}

/// A [`ReentrantLock`] is held. Dropping it releases the lock once; it is free when the last guard of the thread is dropped.
///
/// # Examples
/// ```
/// use polyproc::ReentrantLock;
/// let lock = ReentrantLock::new(1)?;
/// let guard: polyproc::ReentrantGuard<'_, i32> = lock.lock().unwrap();
/// let _again = lock.lock().unwrap();
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct ReentrantGuard<'a, T: Plain> {
    lock: &'a ReentrantLock<T>,
    /// The thread that took the lock has it.
    stays: PhantomData<*const ()>,
}

impl<T: Plain> ReentrantLock<T> {
    /// A lock around `value`.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if the session's memory budget is used up.
    ///
    /// # Examples
    /// ```
    /// let total = polyproc::ReentrantLock::new(5)?;
    /// assert_eq!(total.lock().unwrap().get(), 5);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn new(value: T) -> Result<ReentrantLock<T>> {
        Ok(ReentrantLock { lock: Engine::new()?, data: Guarded::new(value)? })
    }

    /// Takes the lock, waiting for it; once more if this thread has it.
    ///
    /// # Errors
    /// [`Abandoned`], with the guard in it, if the last holder died or panicked.
    ///
    /// # Examples
    /// ```
    /// let total = polyproc::ReentrantLock::new(5)?;
    /// let (outer, inner) = (total.lock().unwrap(), total.lock().unwrap());
    /// inner.set(6);
    /// assert_eq!(outer.get(), 6);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn lock(&self) -> Result<ReentrantGuard<'_, T>, Abandoned<ReentrantGuard<'_, T>>> {
        self.lock_by(Deadline::Never).map_err(|error| match error {
            TryLockError::Abandoned(abandoned) => abandoned,
            TryLockError::TimedOut => unreachable!("a wait without a deadline has passed it"),
        })
    }

    /// Takes the lock if it is free now, or this thread's.
    ///
    /// # Errors
    /// [`TryLockError`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::{ReentrantLock, TryLockError};
    /// let total = ReentrantLock::new(5)?;
    /// let ours = total.try_lock().unwrap();
    /// assert!(total.try_lock().is_ok());
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| assert!(matches!(total.try_lock(), Err(TryLockError::TimedOut))));
    /// });
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn try_lock(&self) -> Result<ReentrantGuard<'_, T>, TryLockError<ReentrantGuard<'_, T>>> {
        self.lock_by(Deadline::Now)
    }

    /// Takes the lock, waiting no longer than `timeout`.
    ///
    /// # Errors
    /// [`TryLockError`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::ReentrantLock;
    /// use std::time::Duration;
    /// let total = ReentrantLock::new(5)?;
    /// let ours = total.lock().unwrap();
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| assert!(total.lock_timeout(Duration::from_millis(5)).is_err()));
    /// });
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn lock_timeout(
        &self,
        timeout: Duration,
    ) -> Result<ReentrantGuard<'_, T>, TryLockError<ReentrantGuard<'_, T>>> {
        self.lock_by(wire::within(timeout))
    }

    fn lock_by(&self, deadline: Deadline) -> Result<ReentrantGuard<'_, T>, TryLockError<ReentrantGuard<'_, T>>> {
        let Some(acquired) = wire::until(deadline, || self.lock.acquire(deadline)) else {
            return Err(TryLockError::TimedOut);
        };
        let guard = ReentrantGuard { lock: self, stays: PhantomData };
        let panicked = self.data.panic_news().filter(|_| self.lock.count() == 1);
        if panicked.is_some() {
            self.data.clear_news();
        }
        Abandoned::judge(guard, acquired, panicked).map_err(TryLockError::Abandoned)
    }

    /// The pid of the process that holds it now.
    ///
    /// # Examples
    /// ```
    /// let total = polyproc::ReentrantLock::new(5)?;
    /// let _guard = total.lock().unwrap();
    /// assert_eq!(total.holder(), Some(std::process::id() as i32));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn holder(&self) -> Option<i32> {
        self.lock.holder().map(|(holder, _)| holder.pid)
    }

    /// How many guards of it this thread has.
    ///
    /// # Examples
    /// ```
    /// let total = polyproc::ReentrantLock::new(5)?;
    /// let (_outer, _inner) = (total.lock().unwrap(), total.lock().unwrap());
    /// assert_eq!(total.depth(), 2);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn depth(&self) -> usize {
        self.lock.count() as usize
    }
}

impl<T: Plain> Deref for ReentrantGuard<'_, T> {
    type Target = Cell<T>;

    #[inline]
    fn deref(&self) -> &Cell<T> {
        // SAFETY: the place is large enough, aligned, and any bytes there are a T (Plain); a Cell is as its content. Only the
        // thread that has the lock can have this: guards stay in their thread, and a Cell cannot be shared with another.
        unsafe { &*self.lock.data.place().cast::<Cell<T>>() }
    }
}

impl<T: Plain> Drop for ReentrantGuard<'_, T> {
    fn drop(&mut self) {
        if self.lock.lock.count() == 1 {
            self.lock.data.note_panic();
        }
        // The only failure is that this thread does not hold it: somebody has released it behind our back.
        let _ = self.lock.lock.release();
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for ReentrantGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl<T: Plain> fmt::Debug for ReentrantLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReentrantLock").field("holder", &self.holder()).finish_non_exhaustive()
    }
}

impl<T: Plain> Clone for ReentrantLock<T> {
    fn clone(&self) -> ReentrantLock<T> {
        ReentrantLock { lock: self.lock.clone(), data: self.data.clone() }
    }
}

impl<T: Plain> Serialize for ReentrantLock<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        guarded::pack(self.lock.hold(), &self.data, serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for ReentrantLock<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<ReentrantLock<T>, D::Error> {
        let (lock, data) = guarded::unpack(deserializer, Engine::from_handle)?;
        Ok(ReentrantLock { lock, data })
    }
}

//! A lock that holds its data, between processes, and survives those who hold it.

use crate::wire;
use crate::{Plain, Result};
use polyproc_engine::shm::Memory;
use polyproc_engine::sync::{Acquired, Lock as Engine};
use polyproc_engine::{Deadline, Error as EngineError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicI32, Ordering};
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
    memory: std::sync::Arc<Memory>,
    data: PhantomData<T>,
}

/// The lock is held; the data can be read and written. Dropping it releases the lock.
pub struct Guard<'a, T: Plain> {
    lock: &'a Lock<T>,
    /// As with std's guards, the thread that took the lock releases it.
    stays: PhantomData<*const ()>,
}

/// The lock is held, but whoever held it before died, or panicked: what it guards may be half done.
///
/// # Examples
/// ```
/// use polyproc::{Lock, Process};
///
/// fn fail(level: Lock<u32>) {
///     let mut level = level.lock().unwrap();
///     *level = 1;
///     std::process::abort();
/// }
///
/// let level = Lock::new(0)?;
/// let child = Process::spawn(fail, (level.clone(),))?;
/// let pid = child.pid();
/// assert!(child.join().is_err());
/// let mut guard = level.lock().unwrap_or_else(|abandoned| {
///     assert_eq!(abandoned.pid(), pid);
///     abandoned.into_inner()
/// });
/// assert_eq!(*guard, 1);
/// *guard = 0;
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct Abandoned<G> {
    guard: G,
    pid: i32,
    panicked: bool,
}

/// Why [`Lock::try_lock`] or [`Lock::lock_timeout`] has no clean guard to give.
pub enum TryLockError<G> {
    /// The lock is held now, but its last holder died or panicked.
    Abandoned(Abandoned<G>),
    /// Somebody else holds it.
    TimedOut,
}

/// Before the data: the pid of a process that panicked while it held the lock, or zero.
const HEAD: usize = 64;

impl<T: Plain> Lock<T> {
    const OFFSET: usize = {
        assert!(align_of::<T>() <= 4096, "data in shared memory is aligned to at most 4096 bytes");
        if align_of::<T>() > HEAD { align_of::<T>() } else { HEAD }
    };

    /// A lock around `value`.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if the session's memory budget is used up.
    pub fn new(value: T) -> Result<Lock<T>> {
        let memory = Memory::allocate(Self::OFFSET + size_of::<T>())?;
        let lock: Lock<T> = Lock { lock: Engine::new()?, memory: memory.into(), data: PhantomData };
        // SAFETY: the memory is large enough and aligned, and nobody else knows of it yet.
        unsafe { lock.place().write(value) };
        Ok(lock)
    }

    #[inline]
    fn place(&self) -> *mut T {
        // SAFETY: the memory has OFFSET + size_of::<T>() bytes, as `new` asked for and `deserialize` has checked.
        unsafe { self.memory.as_ptr().add(Self::OFFSET).cast::<T>() }
    }

    #[inline]
    fn panicked(&self) -> &AtomicI32 {
        // SAFETY: the memory begins with HEAD bytes, of which the first four are only used as this atomic.
        unsafe { &*self.memory.as_ptr().cast::<AtomicI32>() }
    }

    /// Takes the lock, waiting for it.
    ///
    /// # Errors
    /// [`Abandoned`], with the guard in it, if the last holder died or panicked.
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
    pub fn lock_timeout(&self, timeout: Duration) -> Result<Guard<'_, T>, TryLockError<Guard<'_, T>>> {
        self.lock_by(wire::within(timeout))
    }

    #[inline]
    fn lock_by(&self, deadline: Deadline) -> Result<Guard<'_, T>, TryLockError<Guard<'_, T>>> {
        let acquired = loop {
            match self.lock.acquire(deadline) {
                Ok(acquired) => break acquired,
                Err(EngineError::TimedOut) if deadline != Deadline::Never => return Err(TryLockError::TimedOut),
                Err(_) => {}
            }
        };
        let guard = Guard { lock: self, stays: PhantomData };
        // ORDER: Relaxed: the lock orders it.
        let panicked = self.panicked().load(Ordering::Relaxed);
        let (pid, panicked) = match acquired {
            Acquired::HolderDied { pid } => (pid, false),
            Acquired::Clean if panicked != 0 => (panicked, true),
            Acquired::Clean => return Ok(guard),
        };
        self.panicked().store(0, Ordering::Relaxed);
        Err(TryLockError::Abandoned(Abandoned { guard, pid, panicked }))
    }

    /// The pid of the process that holds it now.
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
        unsafe { &*self.lock.place() }
    }
}

impl<T: Plain> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above; and this thread alone has the guard.
        unsafe { &mut *self.lock.place() }
    }
}

impl<T: Plain> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.lock.panicked().store(std::process::id() as i32, Ordering::Relaxed);
        }
        // The only failure is that nobody holds it: somebody has made the lock free behind our back.
        let _ = self.lock.lock.release();
    }
}

impl<G> Abandoned<G> {
    /// The guard, whatever it guards.
    pub fn into_inner(self) -> G {
        self.guard
    }

    /// The guard, to look at what it guards.
    pub fn get_ref(&self) -> &G {
        &self.guard
    }

    /// The guard, to repair what it guards.
    pub fn get_mut(&mut self) -> &mut G {
        &mut self.guard
    }

    /// Who held the lock.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// True if that process panicked and may live; false if it is dead.
    pub fn panicked(&self) -> bool {
        self.panicked
    }
}

impl<G> fmt::Debug for Abandoned<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Abandoned").field("pid", &self.pid).field("panicked", &self.panicked).finish_non_exhaustive()
    }
}

impl<G> fmt::Display for Abandoned<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.panicked { "panicked" } else { "died" };
        write!(f, "process {} {how} while it held this lock: what it guards may be half done", self.pid)
    }
}

impl<G> StdError for Abandoned<G> {}

impl<G> fmt::Debug for TryLockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TryLockError::Abandoned(abandoned) => abandoned.fmt(f),
            TryLockError::TimedOut => f.write_str("TimedOut"),
        }
    }
}

impl<G> fmt::Display for TryLockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TryLockError::Abandoned(abandoned) => abandoned.fmt(f),
            TryLockError::TimedOut => f.write_str("somebody else holds this lock"),
        }
    }
}

impl<G> StdError for TryLockError<G> {}

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
        Lock { lock: self.lock.clone(), memory: self.memory.clone(), data: PhantomData }
    }
}

/// The two objects that a lock consists of, on their way.
struct Named<'a>(&'a polyproc_engine::shm::Hold);

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        wire::pack(self.0, serializer)
    }
}

impl<T: Plain> Serialize for Lock<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        (Named(self.lock.hold()), Named(self.memory.hold())).serialize(serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for Lock<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Lock<T>, D::Error> {
        use polyproc_engine::Handle;
        let (lock, memory) = <([u8; 16], [u8; 16])>::deserialize(deserializer)?;
        let found = || {
            let lock = Engine::from_handle(Handle::from_bytes(&lock)?)?;
            let memory = Memory::from_handle(Handle::from_bytes(&memory)?)?;
            if memory.len() != Self::OFFSET + size_of::<T>() {
                return Err(EngineError::Damaged { what: "lock", detail: "its data is of another size than its type" });
            }
            Ok(Lock { lock, memory: memory.into(), data: PhantomData })
        };
        found().map_err(|error| wire::refuse(&error))
    }
}

//! The news that whoever held something died or panicked, and what comes with it.

use polyproc_engine::sync::Acquired;
use std::error::Error as StdError;
use std::fmt;

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

/// Why [`Lock::try_lock`](crate::Lock::try_lock) or [`Lock::lock_timeout`](crate::Lock::lock_timeout) has no clean guard to give.
///
/// # Examples
/// ```
/// use polyproc::{Lock, TryLockError};
///
/// fn try_to_count(total: &Lock<u32>) -> bool {
///     match total.try_lock() {
///         Ok(mut total) => *total += 1,
///         Err(TryLockError::Abandoned(abandoned)) => *abandoned.into_inner() = 1,
///         Err(TryLockError::TimedOut) => return false,
///     }
///     true
/// }
///
/// let total = Lock::new(0)?;
/// assert!(try_to_count(&total));
/// let _held = total.lock().unwrap();
/// assert!(!try_to_count(&total));
/// # Ok::<(), polyproc::Error>(())
/// ```
pub enum TryLockError<G> {
    /// The lock is held now, but its last holder died or panicked.
    Abandoned(Abandoned<G>),
    /// Somebody else holds it.
    TimedOut,
}

impl<G> Abandoned<G> {
    /// The guard, with the news if there is any: of a death first, of a panic otherwise.
    pub(crate) fn judge(guard: G, acquired: Acquired, panicked: Option<i32>) -> Result<G, Abandoned<G>> {
        match (acquired, panicked) {
            (Acquired::HolderDied { pid }, _) => Err(Abandoned { guard, pid, panicked: false }),
            (Acquired::Clean, Some(pid)) => Err(Abandoned { guard, pid, panicked: true }),
            (Acquired::Clean, None) => Ok(guard),
        }
    }

    /// The guard, whatever it guards.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Lock, Process};
    /// # fn die_holding(level: Lock<u32>) {
    /// #     let mut level = level.lock().unwrap();
    /// #     *level = 1;
    /// #     std::process::abort();
    /// # }
    /// let level = Lock::new(0)?;
    /// let child = Process::spawn(die_holding, (level.clone(),))?;
    /// assert!(child.join().is_err());
    /// *level.lock().unwrap_err().into_inner() = 0;
    /// assert_eq!(*level.lock().unwrap(), 0);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn into_inner(self) -> G {
        self.guard
    }

    /// The guard, to look at what it guards.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Lock, Process};
    /// # fn die_holding(level: Lock<u32>) {
    /// #     let mut level = level.lock().unwrap();
    /// #     *level = 1;
    /// #     std::process::abort();
    /// # }
    /// let level = Lock::new(0)?;
    /// let child = Process::spawn(die_holding, (level.clone(),))?;
    /// assert!(child.join().is_err());
    /// assert_eq!(**level.lock().unwrap_err().get_ref(), 1);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn get_ref(&self) -> &G {
        &self.guard
    }

    /// The guard, to repair what it guards.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Lock, Process};
    /// # fn die_holding(level: Lock<u32>) {
    /// #     let mut level = level.lock().unwrap();
    /// #     *level = 1;
    /// #     std::process::abort();
    /// # }
    /// let level = Lock::new(0)?;
    /// let child = Process::spawn(die_holding, (level.clone(),))?;
    /// assert!(child.join().is_err());
    /// let mut abandoned = level.lock().unwrap_err();
    /// **abandoned.get_mut() = 0;
    /// drop(abandoned);
    /// assert_eq!(*level.lock().unwrap(), 0);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn get_mut(&mut self) -> &mut G {
        &mut self.guard
    }

    /// Who held the lock.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Lock, Process};
    /// # fn die_holding(level: Lock<u32>) {
    /// #     let mut level = level.lock().unwrap();
    /// #     *level = 1;
    /// #     std::process::abort();
    /// # }
    /// let level = Lock::new(0)?;
    /// let child = Process::spawn(die_holding, (level.clone(),))?;
    /// let pid = child.pid();
    /// assert!(child.join().is_err());
    /// assert_eq!(level.lock().unwrap_err().pid(), pid);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// True if that process panicked and may live; false if it is dead.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Lock, Process};
    /// # fn die_holding(level: Lock<u32>) {
    /// #     let mut level = level.lock().unwrap();
    /// #     *level = 1;
    /// #     std::process::abort();
    /// # }
    /// let level = Lock::new(0)?;
    /// let child = Process::spawn(die_holding, (level.clone(),))?;
    /// assert!(child.join().is_err());
    /// assert!(!level.lock().unwrap_err().panicked());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
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

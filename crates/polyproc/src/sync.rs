//! Waiting for each other: semaphores, conditions, barriers.

use crate::wire;
use crate::{Abandoned, Guard, Plain, Result};
use polyproc_engine::sync as engine;
use polyproc_engine::{Deadline, Error as EngineError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::time::Duration;

macro_rules! travels {
    ($($object:ident)*) => {
        $(
            impl Serialize for $object {
                fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                    wire::pack(self.0.hold(), serializer)
                }
            }

            impl<'de> Deserialize<'de> for $object {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<$object, D::Error> {
                    Ok($object(wire::unpack(deserializer, engine::$object::from_handle)?))
                }
            }
        )*
    };
}

travels!(Semaphore Condition Barrier);

/// A number of permits that processes take and give back.
///
/// The permits of a process that was killed come back, unless somebody gives back what he has not taken: then the semaphore
/// counts something else, and the dead have no permits.
///
/// # Examples
/// ```
/// use polyproc::{Error, Semaphore};
/// let seats = Semaphore::new(2)?;
/// let one = seats.acquire()?;
/// let two = seats.acquire()?;
/// assert!(matches!(seats.try_acquire(), Err(Error::TimedOut)));
/// drop(one);
/// assert_eq!(seats.available(), 1);
/// # Ok::<(), polyproc::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Semaphore(engine::Semaphore);

/// A permit of a [`Semaphore`]; dropping it gives it back.
///
/// # Examples
/// ```
/// use polyproc::Semaphore;
/// let places = Semaphore::new(1)?;
/// let place: polyproc::Permit<'_> = places.acquire()?;
/// drop(place);
/// # Ok::<(), polyproc::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a permit that is not kept is given back at once"]
pub struct Permit<'a>(&'a Semaphore);

impl Permit<'_> {
    /// Keeps the permit for ever, or until somebody calls [`Semaphore::release`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Semaphore;
    /// let items = Semaphore::new(1)?;
    /// items.acquire()?.forget();
    /// assert_eq!(items.available(), 0);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let _ = self.0.release(1);
    }
}

impl Semaphore {
    /// A semaphore with so many permits.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if the session has no room for another object.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Semaphore;
    /// let places = Semaphore::new(2)?;
    /// assert_eq!(places.available(), 2);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn new(permits: u32) -> Result<Semaphore> {
        Ok(Semaphore(engine::Semaphore::new(permits, None)?))
    }

    /// Takes a permit, waiting for one.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if the semaphore is damaged.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Semaphore;
    /// let places = Semaphore::new(1)?;
    /// let place = places.acquire()?;
    /// assert_eq!(places.available(), 0);
    /// drop(place);
    /// assert_eq!(places.available(), 1);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn acquire(&self) -> Result<Permit<'_>> {
        self.acquire_by(Deadline::Never)
    }

    /// Takes a permit if there is one now.
    ///
    /// # Errors
    /// [`Error::TimedOut`](crate::Error::TimedOut) if there is none.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Semaphore;
    /// let places = Semaphore::new(1)?;
    /// let _place = places.try_acquire()?;
    /// assert!(matches!(places.try_acquire(), Err(polyproc::Error::TimedOut)));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn try_acquire(&self) -> Result<Permit<'_>> {
        self.acquire_by(Deadline::Now)
    }

    /// Takes a permit, waiting no longer than `timeout`.
    ///
    /// # Errors
    /// [`Error::TimedOut`](crate::Error::TimedOut).
    ///
    /// # Examples
    /// ```
    /// use polyproc::Semaphore;
    /// let places = Semaphore::new(0)?;
    /// let time = std::time::Duration::from_millis(5);
    /// assert!(matches!(places.acquire_timeout(time), Err(polyproc::Error::TimedOut)));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Permit<'_>> {
        self.acquire_by(wire::within(timeout))
    }

    fn acquire_by(&self, deadline: Deadline) -> Result<Permit<'_>> {
        wire::again(|| self.0.acquire(deadline))?;
        Ok(Permit(self))
    }

    /// Gives so many permits, taken before or not.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if there would be too many to count.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Semaphore;
    /// let items = Semaphore::new(0)?;
    /// items.release(3)?;
    /// assert_eq!(items.available(), 3);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn release(&self, permits: u32) -> Result<()> {
        Ok(self.0.release(permits)?)
    }

    /// How many permits there are to take.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Semaphore;
    /// assert_eq!(Semaphore::new(5)?.available(), 5);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn available(&self) -> u32 {
        self.0.value()
    }
}

/// What a waiter gets back: the guard of its lock.
type Locked<'a, T> = std::result::Result<Guard<'a, T>, Abandoned<Guard<'a, T>>>;

/// Waiting, with a [`Lock`](crate::Lock), until something is true of what the lock guards.
///
/// # Examples
/// ```
/// use polyproc::{Condition, Lock, Process};
///
/// fn raise(level: Lock<u32>, changed: Condition) {
///     *level.lock().unwrap() = 3;
///     changed.notify_all();
/// }
///
/// let (level, changed) = (Lock::new(0)?, Condition::new()?);
/// let child = Process::spawn(raise, (level.clone(), changed.clone()))?;
/// let guard = changed.wait_while(level.lock().unwrap(), |level| *level < 3).unwrap();
/// assert_eq!(*guard, 3);
/// drop(guard);
/// child.join().unwrap();
/// # Ok::<(), polyproc::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Condition(engine::Condition);

impl Condition {
    /// A condition that nobody waits for.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if the session has no room for another object.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Condition;
    /// let _changed = Condition::new()?;
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn new() -> Result<Condition> {
        Ok(Condition(engine::Condition::new()?))
    }

    /// Releases the lock, waits to be notified, and takes the lock again.
    ///
    /// # Errors
    /// [`Abandoned`], with the guard in it, if whoever held the lock meanwhile died or panicked.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Condition, Lock, Process};
    ///
    /// fn fill(full: Lock<u32>, changed: Condition) {
    ///     *full.lock().unwrap() = 1;
    ///     changed.notify_one();
    /// }
    ///
    /// let (full, changed) = (Lock::new(0u32)?, Condition::new()?);
    /// let mut guard = full.lock().unwrap();
    /// let child = Process::spawn(fill, (full.clone(), changed.clone()))?;
    /// while *guard == 0 {
    ///     guard = changed.wait(guard).unwrap();
    /// }
    /// assert_eq!(*guard, 1);
    /// drop(guard);
    /// child.join().unwrap();
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn wait<'a, T: Plain>(&self, guard: Guard<'a, T>) -> Locked<'a, T> {
        self.wait_by(guard, Deadline::Never).0
    }

    /// As [`Condition::wait`], but no longer than `timeout`; true if it was notified.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Condition, Lock};
    /// let (full, changed) = (Lock::new(0u32)?, Condition::new()?);
    /// let (guard, in_time) = changed.wait_timeout(full.lock().unwrap(), std::time::Duration::from_millis(5));
    /// assert!(!in_time);
    /// drop(guard);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn wait_timeout<'a, T: Plain>(&self, guard: Guard<'a, T>, timeout: Duration) -> (Locked<'a, T>, bool) {
        self.wait_by(guard, wire::within(timeout))
    }

    /// Waits as long as `wrong` is true of what the lock guards.
    ///
    /// # Errors
    /// As [`Condition::wait`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Condition, Lock, Process};
    ///
    /// fn fill(level: Lock<u32>, changed: Condition) {
    ///     for _ in 0..3 {
    ///         *level.lock().unwrap() += 1;
    ///         changed.notify_all();
    ///     }
    /// }
    ///
    /// let (level, changed) = (Lock::new(0u32)?, Condition::new()?);
    /// let child = Process::spawn(fill, (level.clone(), changed.clone()))?;
    /// let guard = changed.wait_while(level.lock().unwrap(), |level| *level < 3).unwrap();
    /// assert_eq!(*guard, 3);
    /// drop(guard);
    /// child.join().unwrap();
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn wait_while<'a, T: Plain>(
        &self,
        mut guard: Guard<'a, T>,
        mut wrong: impl FnMut(&mut T) -> bool,
    ) -> Locked<'a, T> {
        while wrong(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    fn wait_by<'a, T: Plain>(&self, guard: Guard<'a, T>, deadline: Deadline) -> (Locked<'a, T>, bool) {
        let lock = guard.of();
        let ticket = self.0.enqueue();
        drop(guard);
        let notified = loop {
            match self.0.wait(&ticket, deadline) {
                Ok(notified) => break notified,
                Err(EngineError::Interrupted) => {}
                Err(_) => break false,
            }
        };
        (lock.lock(), notified)
    }

    /// Wakes one who waits. The caller should hold the lock, or have held it when it made the condition true.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Condition, Lock};
    /// let (full, changed) = (Lock::new(0u32)?, Condition::new()?);
    /// *full.lock().unwrap() = 1;
    /// changed.notify_one(); // who waits looks again
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn notify_one(&self) {
        self.0.notify(1);
    }

    /// Wakes all who wait.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Condition, Lock};
    /// let (full, changed) = (Lock::new(0u32)?, Condition::new()?);
    /// *full.lock().unwrap() = 1;
    /// changed.notify_all(); // all who wait look again
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn notify_all(&self) {
        self.0.notify(u32::MAX);
    }
}

/// A place where a number of processes wait until all are there.
///
/// # Examples
/// ```
/// use polyproc::{Barrier, Process};
/// let meeting = Barrier::new(2)?;
/// let child = Process::spawn(|meeting: Barrier| meeting.wait().is_ok(), (meeting.clone(),))?;
/// meeting.wait()?;
/// assert!(child.join().unwrap());
/// # Ok::<(), polyproc::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Barrier(engine::Barrier);

impl Barrier {
    /// A barrier for so many, at least 1.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if the session has no room for another object.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Barrier;
    /// let barrier = Barrier::new(1)?;
    /// assert!(barrier.wait().is_ok());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn new(parties: u32) -> Result<Barrier> {
        Ok(Barrier(engine::Barrier::new(parties)?))
    }

    /// Waits until all are there. True for exactly one of them.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) with [`BrokenBarrier`](polyproc_engine::Error::BrokenBarrier) if one who was
    /// waiting died or was not in time, or somebody called [`Barrier::abort`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Barrier;
    /// let barrier = Barrier::new(1)?;
    /// assert!(barrier.wait()?, "one of those who came is told so");
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn wait(&self) -> Result<bool> {
        self.wait_by(Deadline::Never)
    }

    /// As [`Barrier::wait`], but breaks the barrier if not all are there within `timeout`.
    ///
    /// # Errors
    /// As [`Barrier::wait`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Barrier;
    /// let barrier = Barrier::new(2)?;
    /// assert!(barrier.wait_timeout(std::time::Duration::from_millis(5)).is_err());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool> {
        self.wait_by(wire::within(timeout))
    }

    fn wait_by(&self, deadline: Deadline) -> Result<bool> {
        let arrival = wire::again(|| self.0.enter(deadline))?;
        let outcome = if arrival.last {
            self.0.open();
            Ok(())
        } else {
            wire::again(|| self.0.wait(deadline))
        };
        self.0.leave();
        outcome?;
        Ok(arrival.last)
    }

    /// Breaks the barrier: all who wait, and all who come, get an error.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Barrier;
    /// let barrier = Barrier::new(2)?;
    /// barrier.abort();
    /// assert!(barrier.wait().is_err());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn abort(&self) {
        self.0.abort();
    }

    /// Makes the barrier as new.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Barrier;
    /// let barrier = Barrier::new(1)?;
    /// barrier.abort();
    /// barrier.reset();
    /// assert!(barrier.wait().is_ok());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn reset(&self) {
        self.0.reset();
    }

    /// How many it takes.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Barrier;
    /// assert_eq!(Barrier::new(3)?.parties(), 3);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn parties(&self) -> u32 {
        self.0.parties()
    }

    /// How many are waiting.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Barrier;
    /// assert_eq!(Barrier::new(3)?.waiting(), 0);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn waiting(&self) -> u32 {
        self.0.waiting()
    }
}

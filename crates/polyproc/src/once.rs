//! What is done once, by one of all processes.

use crate::guarded::{self, Guarded};
use crate::wire;
use crate::{Plain, Result};
use polyproc_engine::Deadline;
use polyproc_engine::sync::{Begun, Once as Engine};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Something that is to be done once, by whichever process comes first: [`std::sync::Once`] between processes.
///
/// If the one that is at it dies, or panics, the next one does it: there is no poisoning, so what is done must be such that it
/// can be begun anew.
///
/// # Examples
/// ```
/// use polyproc::{Once, Process, Shared};
/// use std::sync::atomic::{AtomicU32, Ordering};
///
/// fn prepare(once: Once, times: Shared<AtomicU32>) {
///     once.call_once(|| {
///         times.fetch_add(1, Ordering::Relaxed);
///     });
/// }
///
/// let (once, times) = (Once::new()?, Shared::new(AtomicU32::new(0))?);
/// let children: Vec<_> =
///     (0..3).map(|_| Process::spawn(prepare, (once.clone(), times.clone()))).collect::<Result<_, _>>()?;
/// for child in children {
///     child.join().unwrap();
/// }
/// assert_eq!(times.load(Ordering::Relaxed), 1);
/// # Ok::<(), polyproc::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Once(Engine);

impl Once {
    /// Something that nobody has done.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if the session has no room for another object.
    ///
    /// # Examples
    /// ```
    /// let once = polyproc::Once::new()?;
    /// assert!(!once.is_completed());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn new() -> Result<Once> {
        Ok(Once(Engine::new()?))
    }

    /// Does it, unless it is done; waits for whoever is at it. When this returns it is done.
    ///
    /// # Examples
    /// ```
    /// let once = polyproc::Once::new()?;
    /// let mut times = 0;
    /// once.call_once(|| times += 1);
    /// once.call_once(|| times += 1);
    /// assert_eq!(times, 1);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn call_once(&self, function: impl FnOnce()) {
        self.call_once_force(|_| function());
    }

    /// As [`Once::call_once`]; the function is given the pid of a process that died over it, if there is one.
    ///
    /// # Examples
    /// ```
    /// use polyproc::{Once, Process};
    ///
    /// fn die_over(once: Once) {
    ///     once.call_once(|| std::process::abort());
    /// }
    ///
    /// let once = Once::new()?;
    /// let child = Process::spawn(die_over, (once.clone(),))?;
    /// let pid = child.pid();
    /// assert!(child.join().is_err());
    /// once.call_once_force(|died| assert_eq!(died, Some(pid)));
    /// assert!(once.is_completed());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn call_once_force(&self, function: impl FnOnce(Option<i32>)) {
        run(&self.0, function);
    }

    /// True if it is done.
    ///
    /// # Examples
    /// ```
    /// let once = polyproc::Once::new()?;
    /// once.call_once(|| {});
    /// assert!(once.is_completed());
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    #[inline]
    pub fn is_completed(&self) -> bool {
        self.0.is_done()
    }
}

/// Gives the turn up, unless it was finished: the function has panicked.
struct Turn<'a> {
    once: &'a Engine,
    done: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.done { self.once.finish() } else { self.once.give_up() }
    }
}

fn run(once: &Engine, function: impl FnOnce(Option<i32>)) {
    if let Some(Begun::Mine { died }) = wire::until(Deadline::Never, || once.begin(Deadline::Never)) {
        let mut turn = Turn { once, done: false };
        function(died);
        turn.done = true;
    }
}

/// A value in shared memory that is written once, by whichever process comes first: [`std::sync::OnceLock`] between processes.
///
/// # Examples
/// ```
/// use polyproc::{OnceLock, Process};
///
/// let seed = OnceLock::<u64>::new()?;
/// let child = Process::spawn(|seed: OnceLock<u64>| *seed.get_or_init(|| 42), (seed.clone(),))?;
/// assert_eq!(child.join().unwrap(), 42);
/// assert_eq!(*seed.get_or_init(|| 7), 42);
/// assert_eq!(seed.set(8), Err(8));
/// # Ok::<(), polyproc::Error>(())
/// ```
pub struct OnceLock<T: Plain> {
    once: Engine,
    data: Guarded<T>,
}

impl<T: Plain> OnceLock<T> {
    /// A place that nobody has written to.
    ///
    /// # Errors
    /// [`Error::Engine`](crate::Error::Engine) if the session's memory budget is used up.
    ///
    /// # Examples
    /// ```
    /// let seed = polyproc::OnceLock::<u64>::new()?;
    /// assert_eq!(seed.get(), None);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn new() -> Result<OnceLock<T>> {
        Ok(OnceLock { once: Engine::new()?, data: Guarded::zeroed()? })
    }

    /// The value, if it was written.
    ///
    /// # Examples
    /// ```
    /// let seed = polyproc::OnceLock::new()?;
    /// seed.set(7u64).unwrap();
    /// assert_eq!(seed.get(), Some(&7));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    #[inline]
    pub fn get(&self) -> Option<&T> {
        // SAFETY: the place is large enough, aligned, and any bytes there are a T (Plain). Once it is done nobody writes there.
        self.once.is_done().then(|| unsafe { &*self.data.place() })
    }

    /// The value; what `make` gives if nobody has written it. Waits for whoever is at it; if that process dies, or panics,
    /// the next one does it.
    ///
    /// # Examples
    /// ```
    /// let seed = polyproc::OnceLock::new()?;
    /// assert_eq!(*seed.get_or_init(|| 7u64), 7);
    /// assert_eq!(*seed.get_or_init(|| unreachable!()), 7);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        run(&self.once, |_| {
            let value = make();
            // SAFETY: large enough and aligned; this process alone has the turn to write, and nobody reads before it is done.
            unsafe { self.data.place().write(value) };
        });
        // SAFETY: as in `get`: `run` returns when it is done.
        unsafe { &*self.data.place() }
    }

    /// Writes the value.
    ///
    /// # Errors
    /// `value` itself, if it was written before.
    ///
    /// # Examples
    /// ```
    /// let seed = polyproc::OnceLock::new()?;
    /// assert_eq!(seed.set(7u64), Ok(()));
    /// assert_eq!(seed.set(8), Err(8));
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn set(&self, value: T) -> Result<(), T> {
        let mut written = false;
        self.get_or_init(|| {
            written = true;
            value
        });
        if written { Ok(()) } else { Err(value) }
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for OnceLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnceLock").field(&self.get()).finish()
    }
}

impl<T: Plain> Clone for OnceLock<T> {
    fn clone(&self) -> OnceLock<T> {
        OnceLock { once: self.once.clone(), data: self.data.clone() }
    }
}

impl Serialize for Once {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        wire::pack(self.0.hold(), serializer)
    }
}

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Once, D::Error> {
        Ok(Once(wire::unpack(deserializer, Engine::from_handle)?))
    }
}

impl<T: Plain> Serialize for OnceLock<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        guarded::pack(self.once.hold(), &self.data, serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for OnceLock<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<OnceLock<T>, D::Error> {
        let (once, data) = guarded::unpack(deserializer, Engine::from_handle)?;
        Ok(OnceLock { once, data })
    }
}

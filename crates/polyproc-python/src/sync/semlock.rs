//! What `Lock`, `RLock`, `Semaphore` and `BoundedSemaphore` have in common, with the surface of the standard library's
//! `_multiprocessing.SemLock`.
//!
//! `acquire` and `release` themselves are in [`super::entry`].
//!
//! The engine knows which process holds a lock. Which of its threads does is known here, for `_is_mine()`.

use std::ffi::CString;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use polyproc_engine::shm::Hold;
use polyproc_engine::sync::{Acquired, Lock, ReentrantLock, Semaphore};
use polyproc_engine::sys::{fork, proc};
use polyproc_engine::{Deadline, Error, Result};
use pyo3::exceptions::{PyAssertionError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyTuple, PyType};

use crate::{errors, sharing, waiting};

/// The kinds as the standard library numbers them, and one more: a lock that any thread of any process may release.
mod kind {
    pub const RECURSIVE_MUTEX: u8 = 0;
    pub const SEMAPHORE: u8 = 1;
    pub const LOCK: u8 = 2;
}

enum Native {
    Lock(Lock),
    Reentrant(ReentrantLock),
    Semaphore(Semaphore),
}

impl Native {
    fn acquire(&self, deadline: Deadline) -> Result<Acquired> {
        match self {
            Native::Lock(lock) => lock.acquire(deadline),
            Native::Reentrant(lock) => lock.acquire(deadline),
            Native::Semaphore(semaphore) => semaphore.acquire(deadline).map(|()| Acquired::Clean),
        }
    }

    fn release(&self) -> Result<()> {
        match self {
            Native::Lock(lock) => lock.release(),
            Native::Reentrant(lock) => lock.release(),
            Native::Semaphore(semaphore) => semaphore.release(1),
        }
    }

    fn hold(&self) -> &Hold {
        match self {
            Native::Lock(lock) => lock.hold(),
            Native::Reentrant(lock) => lock.hold(),
            Native::Semaphore(semaphore) => semaphore.hold(),
        }
    }
}

/// Base of the locks and semaphores.
#[pyclass(module = "polyproc._polyproc", subclass, frozen)]
pub struct SemLock {
    native: OnceLock<Native>,
    /// The thread of this process that acquired it last.
    thread: AtomicI32,
    /// Of a semaphore: how often this process acquired it, less how often it released it; since which fork.
    taken: AtomicI32,
    since: AtomicI32,
}

impl SemLock {
    #[inline]
    fn native(&self) -> PyResult<&Native> {
        self.native
            .get()
            .ok_or_else(|| PyRuntimeError::new_err("this lock was not initialised: call super().__init__()"))
    }

    fn fill(&self, native: Native) -> PyResult<()> {
        self.native.set(native).map_err(|_| PyRuntimeError::new_err("this lock is initialised already"))
    }

    /// Acquires, if that takes no waiting, no warning and nothing of Python.
    #[inline]
    pub fn take_free(&self) -> bool {
        let Some(native) = self.native.get() else { return false };
        let free = match native {
            Native::Lock(lock) => lock.acquire_free(),
            Native::Reentrant(lock) => lock.acquire_free(),
            Native::Semaphore(_) => return self.take_permit(native),
        };
        if free {
            self.thread.store(proc::thread(), Ordering::Relaxed);
        }
        free
    }

    /// Acquires. `frames` says how far up the caller stands that a warning is to name.
    pub fn take(&self, py: Python<'_>, deadline: Deadline, frames: i32) -> PyResult<bool> {
        let native = self.native()?;
        let acquired = match waiting::wait(py, deadline, |deadline| native.acquire(deadline))? {
            Ok(acquired) => acquired,
            Err(Error::TimedOut) => return Ok(false),
            Err(error) => return Err(errors::raise(error)),
        };
        self.count_taken(native, 1);
        if let Acquired::HolderDied { pid } = acquired
            && let Err(error) = warn(py, pid, frames)
        {
            // Whoever turns the warning into an exception gets no lock with it, so that `with` leaks none.
            self.give()?;
            return Err(error);
        }
        Ok(true)
    }

    /// Acquires, for those to whom it makes no difference that the last holder died.
    pub fn take_unwarned(&self, py: Python<'_>) -> PyResult<()> {
        if self.take_free() {
            return Ok(());
        }
        let native = self.native()?;
        waiting::wait(py, Deadline::Never, |deadline| native.acquire(deadline))?.map_err(errors::raise)?;
        self.count_taken(native, 1);
        Ok(())
    }

    /// Releases, if that takes nothing of Python.
    #[inline]
    pub fn give_taken(&self) -> bool {
        match self.native.get() {
            Some(Native::Lock(lock)) => lock.release_taken(),
            Some(Native::Reentrant(lock)) => lock.release_taken(),
            Some(native) => self.give_permit(native),
            None => false,
        }
    }

    #[inline(never)]
    fn take_permit(&self, semaphore: &Native) -> bool {
        let taken = semaphore.acquire(Deadline::Now).is_ok();
        if taken {
            self.count_taken(semaphore, 1);
        }
        taken
    }

    #[inline(never)]
    fn give_permit(&self, semaphore: &Native) -> bool {
        let given = semaphore.release().is_ok();
        if given {
            self.count_taken(semaphore, -1);
        }
        given
    }

    /// Releases, with the standard library's exceptions.
    pub fn give(&self) -> PyResult<()> {
        let native = self.native()?;
        native.release().map_err(not_held)?;
        if let Native::Semaphore(_) = native {
            self.count_taken(native, -1);
        }
        Ok(())
    }

    /// Takes note of who acquired it.
    #[inline]
    fn count_taken(&self, native: &Native, by: i32) {
        // ORDER: Relaxed throughout: a thread asks only whether it was itself.
        if by > 0 {
            self.thread.store(proc::thread(), Ordering::Relaxed);
        }
        if let Native::Semaphore(_) = native {
            let now = fork::count();
            // What the parent acquired before it forked, the parent has.
            let before = if self.since.load(Ordering::Relaxed) == now { self.taken.load(Ordering::Relaxed) } else { 0 };
            // Nobody else is here between the two: all of this is done attached.
            self.taken.store(before.wrapping_add(by), Ordering::Relaxed);
            self.since.store(now, Ordering::Relaxed);
        }
    }

    /// How often this process has it.
    fn count(&self) -> PyResult<i32> {
        Ok(match self.native()? {
            Native::Lock(lock) => i32::from(lock.is_mine()),
            Native::Reentrant(lock) => match lock.holder() {
                Some((holder, _)) if holder.pid == proc::pid() => lock.holder_count().cast_signed(),
                _ => 0,
            },
            Native::Semaphore(_) if self.since.load(Ordering::Relaxed) == fork::count() => {
                self.taken.load(Ordering::Relaxed)
            }
            Native::Semaphore(_) => 0,
        })
    }

    /// Whether the calling thread has it.
    pub fn is_mine(&self) -> PyResult<bool> {
        Ok(match self.native()? {
            Native::Reentrant(lock) => lock.is_mine(),
            _ => self.count()? > 0 && self.thread.load(Ordering::Relaxed) == proc::thread(),
        })
    }

    fn value(&self) -> PyResult<u32> {
        Ok(match self.native()? {
            Native::Lock(lock) => u32::from(!lock.is_locked()),
            Native::Reentrant(lock) => u32::from(!lock.is_locked()),
            Native::Semaphore(semaphore) => semaphore.value(),
        })
    }

    /// Releases it as often as the calling thread has acquired it, and tells how often that was.
    pub fn give_all(&self) -> PyResult<i32> {
        let count = self.count()?;
        for _ in 0..count {
            self.give()?;
        }
        Ok(count)
    }

    /// Acquires it `count` times, as long as that takes. Unlike after [`SemLock::take`], a warning that is raised as an
    /// exception leaves it acquired: the caller's `with` releases it.
    pub fn take_all(&self, py: Python<'_>, count: i32) -> PyResult<()> {
        let native = self.native()?;
        let mut died = None;
        for _ in 0..count {
            let acquired = waiting::wait(py, Deadline::Never, |deadline| native.acquire(deadline))?;
            if let Acquired::HolderDied { pid } = acquired.map_err(errors::raise)? {
                died = Some(pid);
            }
            self.count_taken(native, 1);
        }
        died.map_or(Ok(()), |pid| warn(py, pid, 2))
    }
}

#[pymethods]
impl SemLock {
    #[new]
    #[pyo3(signature = (*_arguments, **_options))]
    fn new(_arguments: &Bound<'_, PyTuple>, _options: Option<&Bound<'_, PyAny>>) -> SemLock {
        SemLock {
            native: OnceLock::new(),
            thread: AtomicI32::new(0),
            taken: AtomicI32::new(0),
            since: AtomicI32::new(fork::count()),
        }
    }

    /// The most permits that a semaphore can have.
    #[classattr]
    const SEM_VALUE_MAX: u32 = Semaphore::MAX;

    /// Becomes a lock that any thread of any process may release.
    fn _open_lock(&self) -> PyResult<()> {
        self.fill(Native::Lock(Lock::new().map_err(errors::raise)?))
    }

    /// Becomes a lock that the thread which holds it may acquire again, and only it releases.
    fn _open_recursive(&self) -> PyResult<()> {
        self.fill(Native::Reentrant(ReentrantLock::new().map_err(errors::raise)?))
    }

    /// Becomes a semaphore of `value` permits, which never has more than `maxvalue`.
    fn _open_semaphore(&self, value: u32, maxvalue: u32) -> PyResult<()> {
        self.fill(Native::Semaphore(Semaphore::new(value, Some(maxvalue)).map_err(errors::raise)?))
    }

    /// Becomes what `_share()` named, in this or another process.
    fn _attach(&self, kind: u8, shared: &[u8]) -> PyResult<()> {
        let handle = sharing::received(shared)?;
        let native = match kind {
            kind::RECURSIVE_MUTEX => ReentrantLock::from_handle(handle).map(Native::Reentrant),
            kind::SEMAPHORE => Semaphore::from_handle(handle).map(Native::Semaphore),
            kind::LOCK => Lock::from_handle(handle).map(Native::Lock),
            other => return Err(PyValueError::new_err(format!("there are no locks of the kind {other}"))),
        };
        self.fill(native.map_err(errors::raise)?)
    }

    /// What `_attach()` needs, for a child or a message that is being pickled.
    fn _share<'py>(slf: &Bound<'py, Self>) -> PyResult<(u8, Bound<'py, PyBytes>)> {
        let native = slf.get().native()?;
        let kind = match native {
            Native::Reentrant(_) => kind::RECURSIVE_MUTEX,
            Native::Semaphore(_) => kind::SEMAPHORE,
            Native::Lock(_) => kind::LOCK,
        };
        let class = slf.get_type().name()?.to_string();
        Ok((kind, sharing::share(slf.py(), native.hold(), &class)?))
    }

    /// How often this process has it.
    fn _count(&self) -> PyResult<i32> {
        self.count()
    }

    /// Whether this thread has it.
    fn _is_mine(&self) -> PyResult<bool> {
        self.is_mine()
    }

    /// How often it could be acquired at this moment.
    fn _get_value(&self) -> PyResult<u32> {
        self.value()
    }

    /// Whether nobody could acquire it at this moment.
    fn _is_zero(&self) -> PyResult<bool> {
        Ok(self.value()? == 0)
    }

    /// Nothing is to be done after a fork.
    fn _after_fork(&self) {}

    /// Its number in the session.
    #[getter]
    fn handle(&self) -> PyResult<u64> {
        let handle = self.native()?.hold().handle();
        Ok(u64::from(handle.generation) << 32 | u64::from(handle.cell))
    }

    /// It has no name in the file system.
    #[getter]
    fn name(&self) -> Option<String> {
        None
    }

    /// Whether it is recursive (0) or not (1), as the standard library numbers it.
    #[getter]
    fn kind(&self) -> PyResult<u8> {
        Ok(match self.native()? {
            Native::Reentrant(_) => kind::RECURSIVE_MUTEX,
            _ => kind::SEMAPHORE,
        })
    }

    /// The most permits it may have.
    #[getter]
    fn maxvalue(&self) -> PyResult<u32> {
        Ok(match self.native()? {
            Native::Semaphore(semaphore) => semaphore.most(),
            _ => 1,
        })
    }
}

#[cold]
fn not_held(error: Error) -> PyErr {
    match error {
        Error::NotHolder { .. } => PyAssertionError::new_err("attempt to release recursive lock not owned by thread"),
        Error::ReleasedTooOften { .. } => PyValueError::new_err("semaphore or lock released too many times"),
        other => errors::raise(other),
    }
}

/// Says that the lock which was acquired had a holder that died.
#[cold]
fn warn(py: Python<'_>, pid: i32, frames: i32) -> PyResult<()> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let class = CLASS.import(py, "polyproc.errors", "HolderDiedWarning")?;
    let text = format!(
        "process {pid} died while it held this lock, which is now yours: what the lock guards may be half done, check it"
    );
    PyErr::warn(py, class.as_any(), &CString::new(text).unwrap_or_default(), frames)
}

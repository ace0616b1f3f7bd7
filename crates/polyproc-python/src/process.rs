//! Birth and supervision for the Python face: the fork that runs Python's hooks, what an exec'd child is handed, and the
//! descriptor by which a parent waits.
//!
//! ```text
//!  parent                                                child
//!  fork() ── PyOS_BeforeFork ─ fork ─ AfterFork_Parent   AfterFork_Child ─ arm_lifeline(descriptor)
//!  Estate() ─ descriptors ─▶ exec'd Python               accept_estate(memory, life, lifeline, participant)
//!  Child(pid, name): sentinel, report(), send_signal()
//! ```
//!
//! From Python 3.12 on, `os.fork()` warns in a process that has more than one thread. The supervisor is such a thread, and
//! is none of the user's business: it ends before a fork of the user's and comes back when the interpreter is next free.
//! Our own forks leave it running, and warn where the standard library's would.
//!
//! **When a participant dies:** its parent's `Child.sentinel` is readable, and its children's lifelines fire.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use polyproc_engine::process::{self, birth, lifeline, supervisor};
use polyproc_engine::sys::{proc, spawn};
use polyproc_engine::{Participant, shm};
use pyo3::exceptions::{PyDeprecationWarning, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors;

/// A started process under supervision.
#[pyclass(module = "polyproc._polyproc", frozen)]
pub struct Child {
    child: Arc<process::Child>,
}

impl Child {
    pub fn engine(&self) -> &Arc<process::Child> {
        &self.child
    }
}

#[pymethods]
impl Child {
    /// `pidfd` is a descriptor of the process that is ours from now on, or -1 to open one.
    #[new]
    #[pyo3(signature = (pid, name, participant=0, pidfd=-1))]
    fn new(py: Python<'_>, pid: i32, name: String, participant: u32, pidfd: RawFd) -> PyResult<Child> {
        watch_user_forks(py)?;
        let participant = Participant::from_bits(participant);
        let child = if pidfd < 0 {
            process::Child::adopt(pid, name, participant)
        } else {
            // SAFETY: the caller gives the descriptor away.
            process::Child::adopt_descriptor(pid, unsafe { OwnedFd::from_raw_fd(pidfd) }, name, participant)
        };
        Ok(Child { child: child.map_err(errors::raise)? })
    }

    #[getter]
    fn pid(&self) -> i32 {
        self.child.pid()
    }

    /// Readable once the process has ended.
    #[getter]
    fn sentinel(&self) -> RawFd {
        self.child.as_fd().as_raw_fd()
    }

    /// The exit code, for a process that has ended and whose status somebody else has collected; None if nobody knows.
    fn report(&self) -> Option<i32> {
        self.child.collect().ok().flatten().and_then(|report| report.status.code())
    }

    /// ProcessLookupError once its status was collected.
    fn send_signal(&self, number: i32) -> PyResult<()> {
        self.child.send_signal(number).map_err(errors::raise)
    }
}

/// What a child that is about to be exec'd will be handed: its place in the session, and its lifeline.
#[pyclass(module = "polyproc._polyproc", frozen)]
struct Estate {
    estate: std::sync::Mutex<Option<birth::Estate>>,
    participant: u32,
}

#[pymethods]
impl Estate {
    #[new]
    fn new() -> PyResult<Estate> {
        let estate = birth::prepare().map_err(errors::raise)?;
        Ok(Estate { participant: estate.participant().bits(), estate: std::sync::Mutex::new(Some(estate)) })
    }

    /// The child's name in the session.
    #[getter]
    fn participant(&self) -> u32 {
        self.participant
    }

    /// The session memory, the child's life descriptor, the lifeline.
    #[getter]
    fn descriptors(&self) -> PyResult<[RawFd; 3]> {
        let estate = self.estate.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*estate {
            Some(estate) => Ok(estate.descriptors()),
            None => Err(PyValueError::new_err("this estate is closed: its child was started, or could not be")),
        }
    }

    /// The child has it by now, or will never: gives our copy back.
    fn close(&self) {
        self.estate.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    }
}

/// Takes the place in the session that a parent has prepared, and arms the lifeline.
#[pyfunction]
fn accept_estate(py: Python<'_>, memory: RawFd, life: RawFd, lifeline: RawFd, participant: u32) -> PyResult<()> {
    watch_user_forks(py)?;
    // SAFETY: the preparation data says so, which nobody but our parent writes.
    unsafe { birth::accept(memory, life, lifeline, Participant::from_bits(participant)) }.map_err(errors::raise)?;
    Ok(())
}

/// As `accept_estate`, for a server that outlives whoever started it.
#[pyfunction]
fn accept_estate_of_server(memory: RawFd, life: RawFd, participant: u32) -> PyResult<()> {
    // SAFETY: the command line says so, which nobody but our parent writes.
    unsafe { birth::accept_without_lifeline(memory, life, Participant::from_bits(participant)) }.map_err(errors::raise)
}

/// From now on this process ends soon after the one behind this pidfd.
#[pyfunction]
fn arm_lifeline(py: Python<'_>, descriptor: RawFd) -> PyResult<()> {
    watch_user_forks(py)?;
    if descriptor < 0 {
        return Err(PyValueError::new_err("a lifeline is a descriptor"));
    }
    // SAFETY: it is the sentinel of parent_process(), which stays open as long as this process.
    lifeline::arm(unsafe { BorrowedFd::borrow_raw(descriptor) }).map_err(errors::raise)
}

/// A pidfd of this process, for its children.
#[pyfunction]
fn own_pidfd() -> PyResult<RawFd> {
    lifeline::own().map_err(errors::raise)
}

/// Releases what the dead have held, here and now. It happens by itself a little later.
#[pyfunction]
fn sweep_dead(py: Python<'_>) -> usize {
    py.detach(shm::sweep_dead)
}

/// Says that this process ends of its own will.
#[pyfunction]
fn leave() {
    shm::leave();
}

thread_local! {
    /// This thread is inside `fork` below.
    static OURS: Cell<bool> = const { Cell::new(false) };
}

/// Forks as `os.fork` does, with Python's hooks, into a child that takes part in the session. Gives the child's pid and its
/// name in the session (zero if no place was left for it); twice zero in the child.
#[pyfunction]
fn fork(py: Python<'_>) -> PyResult<(i32, u32)> {
    shm::current().map_err(errors::raise)?;
    py.import("sys")?.call_method1("audit", ("os.fork",))?;
    OURS.set(true);
    // SAFETY: the interpreter is attached to this thread; the hooks are called in the order that CPython's own fork has.
    let (forked, child) = unsafe {
        ffi::PyOS_BeforeFork();
        let forked = spawn::fork();
        // Before the hooks, which may fork as well.
        let child = shm::last_forked();
        match forked {
            Ok(0) => ffi::PyOS_AfterFork_Child(),
            _ => ffi::PyOS_AfterFork_Parent(),
        }
        (forked, child)
    };
    OURS.set(false);
    let pid = forked.map_err(errors::raise)?;
    if pid != 0 && py.version_info() >= (3, 12) && has_threads_of_the_user() {
        let text = format!(
            "This process (pid={}) is multi-threaded, use of fork() may lead to deadlocks in the child.",
            proc::pid()
        );
        let text = std::ffi::CString::new(text).unwrap_or_default();
        PyErr::warn(py, &py.get_type::<PyDeprecationWarning>(), &text, 1)?;
    }
    Ok((pid, if pid == 0 { 0 } else { child.bits() }))
}

fn has_threads_of_the_user() -> bool {
    proc::threads().is_some_and(|threads| threads > 1 + u32::from(supervisor::is_running()))
}

/// From 3.12 on: a fork of the user's must find no thread of ours.
fn watch_user_forks(py: Python<'_>) -> PyResult<()> {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if py.version_info() < (3, 12) || WATCHED.swap(true, Ordering::AcqRel) {
        return Ok(());
    }
    let module = py.import("polyproc._polyproc")?;
    let hooks = PyDict::new(py);
    hooks.set_item("before", module.getattr("_before_fork")?)?;
    hooks.set_item("after_in_parent", module.getattr("_after_fork")?)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&hooks))?;
    Ok(())
}

#[pyfunction]
fn _before_fork(py: Python<'_>) {
    if !OURS.get() {
        py.detach(supervisor::pause);
    }
}

#[pyfunction]
fn _after_fork() {
    extern "C" fn resume(_: *mut c_void) -> c_int {
        if let Err(error) = supervisor::resume() {
            log::error!("polyproc: the thread that watches the children could not be started again: {error}");
        }
        0
    }
    if !OURS.get() {
        // CPython counts the threads after this hook: so not now, but as soon as the interpreter looks up from its work.
        // SAFETY: the function needs no argument and may run at any time.
        unsafe { ffi::Py_AddPendingCall(Some(resume), std::ptr::null_mut()) };
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Child>()?;
    module.add_class::<Estate>()?;
    module.add_function(wrap_pyfunction!(fork, module)?)?;
    module.add_function(wrap_pyfunction!(own_pidfd, module)?)?;
    module.add_function(wrap_pyfunction!(arm_lifeline, module)?)?;
    module.add_function(wrap_pyfunction!(accept_estate, module)?)?;
    module.add_function(wrap_pyfunction!(accept_estate_of_server, module)?)?;
    module.add_function(wrap_pyfunction!(sweep_dead, module)?)?;
    let leave = wrap_pyfunction!(leave, module)?;
    // Registered early, so it runs late. Children that skip atexit call it themselves.
    module.py().import("atexit")?.call_method1("register", (&leave,))?;
    module.add_function(leave)?;
    module.add_function(wrap_pyfunction!(_before_fork, module)?)?;
    module.add_function(wrap_pyfunction!(_after_fork, module)?)
}

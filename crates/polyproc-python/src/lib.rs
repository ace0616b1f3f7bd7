//! The Python face's extension module, `polyproc._polyproc`: the engine's objects as Python classes.
//!
//! What a message is, from the object to the engine and back:
//!
//! * [`codec`]: the plain codec, a short cut past pickle.
//! * [`pickling`]: pickle and its buffers, by way of `polyproc._pickling`.
//! * [`message`]: which of the two, and how the engine carries it.
//! * [`block`]: received memory that Python holds through the buffer protocol.
//! * [`sharing`]: engine objects inside messages and in the arguments of children.
//!
//! The engine's objects:
//!
//! * [`queue`], [`pipe`]: channels.
//! * [`sync`]: locks, semaphores, conditions, events, barriers.
//! * [`memory`]: what values and arrays lie in.
//! * [`journal`]: the logs of a manager's objects.
//! * [`process`]: birth and supervision.
//! * [`pool`]: the ledger.
//!
//! And what all of them need: [`errors`], [`waiting`].
//!
//! **Invariant:** no wait holds the interpreter, and none of the user's code runs under a lock of the engine.

mod block;
mod codec;
mod errors;
mod journal;
mod memory;
mod message;
mod pickling;
mod pipe;
mod pool;
mod process;
mod queue;
mod sharing;
mod sync;
mod waiting;

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;

/// The engine under polyproc. Programs use the package; nothing here is promised to stay.
#[pymodule(gil_used = true)]
fn _polyproc(module: &Bound<'_, PyModule>) -> PyResult<()> {
    refuse_free_threading(module.py())?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    // Python's handlers run when a call returns to it.
    polyproc_engine::sys::signal::handle_later();
    codec::register(module)?;
    block::register(module)?;
    sharing::register(module)?;
    queue::register(module)?;
    pipe::register(module)?;
    sync::register(module)?;
    memory::register(module)?;
    journal::register(module)?;
    process::register(module)?;
    pool::register(module)
}

/// A build without the interpreter's lock would run what leans on it in two threads at once.
fn refuse_free_threading(py: Python<'_>) -> PyResult<()> {
    // Not sysconfig, which every child would take a millisecond to import.
    let free_threaded = py.import("sys")?.getattr("abiflags")?.extract::<String>()?.contains('t');
    if free_threaded {
        return Err(PyImportError::new_err(
            "polyproc does not run on the free-threaded build of Python yet: use the ordinary build (python3.x, not python3.xt)",
        ));
    }
    Ok(())
}

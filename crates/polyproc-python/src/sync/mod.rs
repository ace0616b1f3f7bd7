//! Locks, semaphores, events, conditions and barriers: the engine's, as what `polyproc.synchronize` is made of.
//!
//! | class | what it is |
//! | --- | --- |
//! | [`semlock::SemLock`] | base of `Lock`, `RLock`, `Semaphore`, `BoundedSemaphore`, as in the standard library |
//! | [`event::Event`] | base of `Event` |
//! | [`condition::Condition`], [`barrier::Barrier`] | what `Condition` and `Barrier` stand on |
//! | [`guarded::Guarded`] | base of `Value` and `Array`: an object and its lock; [`cells`] are its numbers |
//!
//! A wait that has to put something right at its end (a condition's lock, a barrier's place) is one call from Python, so
//! that no signal handler can run between its steps.
//!
//! **Invariant:** after any exception each of them is as if the call had not been made, but for a condition whose lock was
//! not yet taken again when a signal handler raised, as in the standard library.
//!
//! **When a participant dies:** `acquire` gives the lock and warns with `polyproc.HolderDiedWarning`; a barrier breaks; the
//! rest go on.

mod barrier;
mod cells;
mod condition;
mod entry;
mod event;
mod guarded;
mod method;
mod semlock;

use pyo3::prelude::*;

pub use semlock::SemLock;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<semlock::SemLock>()?;
    entry::register(module)?;
    module.add_class::<event::Event>()?;
    module.add_class::<condition::Condition>()?;
    module.add_class::<barrier::Barrier>()?;
    guarded::register(module)
}

//! The one table that names every kind of shared object: what its holder's death means, and what its end means.
//!
//! The directory (in [`crate::shm`]) must not know what a lock or a ring is, and yet has to act when a process that holds
//! one dies. This is the only knot between it and the layers above.

use crate::shm::{Death, Directory, Kind, Participant};
use crate::{channel, pool, sync};

/// What the death of a process that held the object changes in it. `count` is what the process had taken of it.
///
/// May run twice for the same death: each step leaves a state in which doing it again changes nothing.
pub(crate) fn on_death(kind: Kind, cell: u32, count: u32, death: &Death) {
    match kind {
        // A block goes when its row of holdings is cleared, unless it is in transit.
        Kind::Free | Kind::Block | Kind::IdleBlock => {}
        Kind::Lock => sync::lock::on_death(cell, death),
        Kind::ReentrantLock => sync::reentrant::on_death(cell, death),
        Kind::RwLock => sync::rwlock::on_death(cell, count, death),
        Kind::Once => sync::once::on_death(cell, death),
        Kind::Semaphore => sync::semaphore::on_death(cell, count, death),
        Kind::Event => sync::event::on_death(cell),
        Kind::Condition => sync::condition::on_death(cell, count, death),
        Kind::Barrier => sync::barrier::on_death(cell, count, death),
        Kind::Ring => channel::ring::on_death(cell, death),
        Kind::PipeEnd => channel::pipe::on_death(cell, death),
        Kind::Lane => pool::on_death(cell, death),
    }
}

/// What a process that drops its last hold on an object still has of it: something other than zero if its death will mean
/// something to the object.
pub(crate) fn still_taken(kind: Kind, cell: u32, count: u32, process: Participant) -> u32 {
    match kind {
        Kind::Lock => u32::from(sync::lock::is_taken_by(cell, process)),
        Kind::ReentrantLock => u32::from(sync::reentrant::is_taken_by(cell, process)),
        Kind::Once => u32::from(sync::once::is_taken_by(cell, process)),
        Kind::Semaphore | Kind::RwLock => count,
        _ => 0,
    }
}

/// Gives back what an object had of other objects, when nobody holds it any more. Under the directory's lock.
pub(crate) fn destroy(kind: Kind, directory: &Directory, cell: u32) {
    match kind {
        Kind::Ring => channel::ring::destroy(directory, cell),
        Kind::PipeEnd => channel::pipe::destroy(directory, cell),
        _ => {}
    }
}

/// True if the object is on its way from one process to another, so that no process holds it.
pub(crate) fn in_transit(kind: Kind, cell: u32) -> bool {
    kind == Kind::Block && channel::ring::carries(cell)
}

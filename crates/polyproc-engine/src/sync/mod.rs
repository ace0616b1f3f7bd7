//! Waiting and owning, and what happens when an owner dies.
//!
//! | object | what a dead participant means |
//! | --- | --- |
//! | [`Lock`], [`ReentrantLock`] | it was the owner: the next owner gets the lock, and the news |
//! | [`RwLock`] | a writer: as above; a reader: its share comes back; one that waited: it bars nobody any more |
//! | [`Once`] | it was at it: the next one does it |
//! | [`Vector`], [`Table`] | what it had begun is done, or not, when the next one enters |
//! | [`Semaphore`] | its permits come back, if its end was not its own will and nobody uses the semaphore as a counter |
//! | [`Event`] | nothing |
//! | [`Condition`] | its waiters are struck off |
//! | [`Barrier`] | a party that was waiting breaks the barrier |
//!
//! **Invariant:** nothing here knows what a message is. A wait ends by the deadline, by a signal
//! ([`crate::Error::Interrupted`]), or by what it waits for; and it looks again at least once a second, so that a wake-up
//! that was spent on a process which died delays it but does not lose it.

pub(crate) mod barrier;
pub(crate) mod condition;
pub(crate) mod event;
pub(crate) mod lock;
#[cfg(all(test, loom))]
mod models;
pub(crate) mod monitor;
pub(crate) mod once;
pub(crate) mod reentrant;
mod region;
pub(crate) mod rwlock;
pub(crate) mod semaphore;
pub mod signal;
pub(crate) mod spin;
mod table;
mod vector;

pub use barrier::{Arrival, Barrier};
pub use condition::{Condition, Ticket};
pub use event::Event;
pub use lock::{Acquired, Holder, Lock};
pub use once::{Begun, Once};
pub use reentrant::ReentrantLock;
pub use rwlock::RwLock;
pub use semaphore::Semaphore;
pub use table::{InTable, Table};
pub use vector::{InVector, Vector};

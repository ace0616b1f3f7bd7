//! A ledger of tasks over workers: who runs what, and what a worker's death means for it.
//!
//! ```text
//!  parent                                            worker
//!  ┌──────────────────────────────┐  tasks           ┌───────────────────────────────────────────────┐
//!  │ Ledger                       │ ═══lane═══▶ take │ running = id ─▶ taken ─▶ the caller's code    │
//!  │   seat 0: flight = 7, 9, 12  │                  │                                               │
//!  │   seat 1: flight = 8, 10, 11 │ ◀══lane═══ commit│ result ─▶ running = 0                         │
//!  └──────────────────────────────┘  results         └───────────────────────────────────────────────┘
//!              ▲ news: one word that every worker of the ledger rings, and everybody who waits sleeps on
//! ```
//!
//! * [`lane`]: the two rings and the few words between a ledger and one worker.
//! * [`ledger`]: the parent's side, with its [`book`] and [`place`]s; [`control`]: limits, priorities, giving up; [`settled`]:
//!   what it is told and tells.
//! * [`backlog`]: tasks that were not sent yet, by priority.
//! * [`worker`]: the other side.
//!
//! A worker that dies leaves three facts, each written by one store, and no guess is needed:
//!
//! | fact | what it means |
//! | --- | --- |
//! | results in its lane | they are delivered |
//! | tasks in its lane | they never began: others get them |
//! | `running = id`, and `id` is in neither | this is the task that it died in |
//!
//! Tiny tasks travel in bundles, each a task to the ledger. Within a bundle the worker writes each result to its lane's
//! scratch memory and counts it with one store, so that a death costs one task of the bundle and loses no result.
//!
//! **Invariant:** this layer does not know what a task computes. It moves records that begin with the task's number, and
//! knows each number's state: in a lane, running, or settled.
//!
//! DEATH of the parent: workers see it by their lifeline.

mod backlog;
mod book;
mod control;
mod lane;
mod ledger;
mod place;
mod settled;
mod worker;

pub use backlog::Backlog;
pub(crate) use lane::on_death;
pub use ledger::Ledger;
pub use settled::{Because, Ended, Life, Outcome, Room, Seat, Settled, Terms, Withdrawn};
pub use worker::{Taken, Worker};

/// The records of the lanes, by the kind of their parcel.
mod record {
    /// A task: its number, then the face's bytes.
    pub const TASK: u8 = 1;
    /// The worker is to end, once it has done what lies before.
    pub const STOP: u8 = 2;
    /// The result of a task: its number, then the face's bytes.
    pub const RESULT: u8 = 3;
    /// Results of some tasks of a bundle: its number, then the face's bytes.
    pub const PART: u8 = 5;
    /// A word to the ledger that belongs to no task.
    pub const NOTE: u8 = 4;
}

/// The number that a record begins with.
fn number_of(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|head| u64::from_le_bytes(*head))
}

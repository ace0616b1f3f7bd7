//! The engine under polyproc: it moves bytes, memory blocks and file descriptors between processes,
//! and it knows who is alive.
//!
//! It knows nothing of Python, of pickle or serde, or of what a task means. Seven layers, each of which
//! may use only what stands before it:
//!
//! ```text
//! sys ─▶ shm ─▶ sync ─▶ channel ─▶ process ─▶ pool
//! ```
//!
//! * [`sys`]: the system calls. Decides nothing.
//! * [`shm`]: memory that several processes see: the session, its participants, its objects, its blocks.
//! * [`sync`]: waiting and owning, and what happens when an owner dies.
//! * [`channel`]: records, rings and bells: queues and pipes.
//! * [`process`]: birth, supervision, exit reports.
//! * [`pool`]: a ledger of tasks over workers.
//!
//! The promise that shapes all of it: **any process may be killed at any instruction**, and the others go on.

#![allow(rustdoc::private_intra_doc_links, reason = "who reads the engine's documentation reads its sources too")]

pub mod channel;
mod error;
pub mod fault;
mod kinds;
pub mod pool;
pub mod process;
pub mod shm;
pub mod sync;
pub mod sys;

pub use error::{Error, Result};
pub use shm::{Handle, Participant};
pub use sys::clock::Deadline;

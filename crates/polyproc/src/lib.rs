//! Work in processes, as easily as in threads: for what may crash, leak, hold global state or must be stopped in time.
//!
//! ```
//! use polyproc::{Process, Queue, TaskError};
//!
//! fn measure(samples: Vec<f64>, results: Queue<f64>) -> usize {
//!     results.put(&(samples.iter().sum::<f64>() / samples.len() as f64)).unwrap();
//!     samples.len()
//! }
//!
//! #[polyproc::main]
//! fn main() -> polyproc::Result<()> {
//!     let results = Queue::unbounded()?;
//!     let child = Process::spawn(measure, (vec![1.0, 2.0, 6.0], results.clone()))?;
//!     match child.join() {
//!         Ok(count) => assert_eq!((count, results.get()?), (3, 3.0)),
//!         Err(TaskError::Crashed { process, signal, .. }) => eprintln!("{process} crashed with signal {signal}"),
//!         Err(other) => eprintln!("{other}"),
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Which to take
//!
//! | to | take |
//! | --- | --- |
//! | run one function elsewhere, and know how it ended | [`Process`] |
//! | put limits on it: memory, processor time, a deadline, processors | [`Process::builder`] |
//! | work through many items | [`Pool::map`], or [`par_map`](ParMap::par_map) on any iterator |
//! | give single tasks to workers, and wait for them, cancel them, await them | [`Pool::submit`] and its [`Ticket`](pool::Ticket) |
//! | pass items from whoever has them to whoever is free | [`Queue`] |
//! | ask one process, and be answered | [`pipe::duplex`] |
//! | wait for several of these at once | [`Select`], [`wait()`], or [`AsFd`](std::os::fd::AsFd) and epoll |
//! | guard data that several change | [`Lock`], [`RwLock`], [`ReentrantLock`] |
//! | count, or set a flag | [`Shared`] atomics |
//! | have a large array that all see | [`SharedSlice`]; growing, or by key: [`SharedVec`], [`SharedMap`] |
//! | send a large message once | [`Bytes`] |
//! | wait for a moment, a place, each other | [`Event`], [`Semaphore`], [`Condition`], [`Barrier`] |
//! | do something once for all processes | [`Once`], [`OnceLock`] |
//! | share what cannot lie in shared memory: maps of strings, connections | [`Manager`] |
//! | hand over an open file or socket | [`pipe::Descriptor`] |
//!
//! All of these are handles: give them to a process as arguments, or send them to one that already runs.
//!
//! Coming from elsewhere: [`guide::from_multiprocessing`], [`guide::from_rayon`]. Programs to start from are in the folder
//! `examples`: `cargo run --release -p polyproc --example workers`.
//!
//! # How processes start
//!
//! [`#[polyproc::main]`](main) forks a small process, the *zygote*, before anything else happens. It never has a second
//! thread, so that a fork of it is safe, whatever threads the program has by then; each process is forked from it on
//! request, in a fraction of a millisecond. Such a process has the program's code and its environment at the start of
//! `main`, and none of its data: what a task needs are its arguments. It begins in the working directory in which it was
//! asked for.
//!
//! Without the attribute, as in a test or an example of the documentation, the first [`Process::spawn`] starts the
//! program's own file once more, as the zygote. A hook recognises that before `main`, or the test harness, runs: there is
//! nothing to do for it.
//!
//! # When somebody dies
//!
//! A process may be killed at any instruction. Nothing waits for the dead:
//!
//! | what had the dead | what the others see |
//! | --- | --- |
//! | a task of its own | `join` says how it ended ([`TaskError`]): a panic, a signal, an exit, a limit |
//! | a task of a [`Pool`] | that task ends with an error, or is tried again; the worker is replaced; no other task is lost |
//! | a [`Lock`] | the next who wants it has it, with the news that what it guards may be half done ([`Abandoned`]) |
//! | permits of a [`Semaphore`] | they are given back |
//! | a place at a [`Barrier`] | who waits there is told that it is broken |
//! | an item that was put into a [`Queue`] | it is there: `put` had returned; an item that was not put entirely is not there at all |
//! | an item that it had taken | is gone with it: it was delivered |
//! | the other end of a [`pipe`] | what was sent can be read, then the pipe is at its end ([`Error::EndOfFile`]) |
//! | an object of a [`Manager`] | every call fails, at once |
//! | children | they are ended: nothing outlives the program |
//!
//! All shared memory is anonymous: when the last process of a program has ended, however, nothing is left of it.
//!
//! # What can be sent
//!
//! Arguments, results and items are [`serde`] values; many bytes go faster as [`Bytes`], and open files and sockets go as
//! [`pipe::Descriptor`]. They are encoded with postcard, which does not describe itself: types that need that
//! (`#[serde(untagged)]`, `#[serde(flatten)]`) cannot be sent. The data in a [`Lock`], a [`SharedVec`] or a [`SharedMap`] is
//! [`Plain`]; what several processes use at the same time without a lock is a [`SharedCell`].
//!
//! What cannot cross does not compile: references, `Rc`, raw pointers, closures that capture.
//!
//! # Features
//!
//! * `log` (on): what processes log arrives in the program's logger; see [`logging`].
//! * `tracing`: events of the crate `tracing` as well.
//! * `async`: streams of what comes through queues and pipes, and futures of processes, for any executor: see the module
//!   `asynchronous`. It adds the crate `futures-core`, and nothing else. (A [`pool::Ticket`] is a future without it, and
//!   every descriptor can be waited for by any runtime.)
//!
//! # What it needs
//!
//! Linux 5.10 or newer, and Rust 1.88 or newer; a newer Rust will be asked for by a new minor version only.

// The attribute and the derives name this crate.
extern crate self as polyproc;

mod abandoned;
#[cfg(feature = "async")]
pub mod asynchronous;
mod bytes;
mod error;
mod event;
mod guarded;
pub mod guide;
mod lock;
pub mod logging;
mod manager;
mod once;
pub mod pipe;
mod plain;
pub mod pool;
mod process;
mod queue;
mod reentrant;
mod rwlock;
mod select;
mod shared;
mod shared_map;
mod shared_vec;
mod start;
mod sync;
mod task;
mod wire;

pub use abandoned::{Abandoned, TryLockError};
pub use bytes::Bytes;
pub use error::{Cause, Error, Identity, Result, TaskError};
pub use event::Event;
pub use lock::{Guard, Lock};
pub use manager::{Make, Managed, Manager, Method};
pub use once::{Once, OnceLock};
pub use plain::Plain;
/// ```
/// #[polyproc::main]
/// fn main() -> polyproc::Result<()> {
///     let child = polyproc::Process::spawn(|| "hello".len(), ())?;
///     assert_eq!(child.join().unwrap(), 5);
///     Ok(())
/// }
/// ```
///
pub use polyproc_macros::main;
pub use polyproc_macros::{Plain, SharedCell};
pub use pool::{ParMap, Pool};
pub use process::{Builder, Process};
pub use queue::{EncodesAs, Queue};
pub use reentrant::{ReentrantGuard, ReentrantLock};
pub use rwlock::{ReadGuard, RwLock, WriteGuard};
pub use select::{Select, wait};
pub use shared::{Shared, SharedCell, SharedSlice};
pub use shared_map::SharedMap;
pub use shared_vec::SharedVec;
pub use start::start;
pub use sync::{Barrier, Condition, Permit, Semaphore};
pub use task::{Sent, Task};

/// What most programs use: `use polyproc::prelude::*`.
pub mod prelude {
    pub use crate::{Lock, ParMap, Pool, Process, Queue, TaskError};
}

#[doc(hidden)]
pub use start::run_main;

/// The examples of both READMEs, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
#[doc = include_str!("../README.md")]
struct Readme;

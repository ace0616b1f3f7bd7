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
//! # What there is
//!
//! * [`Process`]: runs one function. [`join`](Process::join) gives its result, or says how the process ended without one
//!   ([`TaskError`]): a panic, a signal, an early exit. What the function itself returns is never mixed with that.
//! * [`Pool`]: processes that work through many tasks, with a deadline and retries for each if you like.
//! * [`Queue`]: any number put, any number get. [`pipe`]: two ends, each of which learns when the other is gone.
//! * [`Lock`], [`ReentrantLock`] and [`RwLock`], with data in shared memory that every process sees; [`Shared`] atomics and a
//!   [`SharedSlice`] that need no lock; a [`SharedVec`] and a [`SharedMap`] that are whole whoever dies; [`OnceLock`] and [`Once`]; [`Event`], [`Semaphore`], [`Condition`], [`Barrier`].
//!
//! * [`Select`] and [`wait()`]: several queues, pipes, events, processes, or whatever else has a descriptor, at once. All of
//!   them are [`AsFd`](std::os::fd::AsFd), for epoll and its kin.
//! * [`Manager`]: an object of any type in a process of its own, which others call.
//!
//! All of these are handles: give them to a process as arguments, or send them to one that already runs.
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
//! Nothing waits for the dead. A result that will never come is an error of `join`; a lock whose holder died goes to the next
//! who wants it, with the news ([`Abandoned`]); a pipe whose other end is gone is at its end; an item that was put into a
//! queue is there, whatever became of its producer. When the program ends, its processes end.
//!
//! # What can be sent
//!
//! Arguments, results and items are [`serde`] values; many bytes go faster as [`Bytes`], and open files and sockets go as
//! [`pipe::Descriptor`]. They are encoded with postcard, which does not describe itself: types that need that
//! (`#[serde(untagged)]`, `#[serde(flatten)]`) cannot be sent. The data in a [`Lock`], a [`SharedVec`] or a [`SharedMap`] is
//! [`Plain`]; what several processes use at the same time without a lock is a [`SharedCell`].
//!
//! # Features
//!
//! * `async`: streams of what comes through queues and pipes, and futures of processes, for any executor: see
//!   the module `asynchronous`. It adds the crate `futures-core`, and nothing else. Off unless asked for. (A [`pool::Ticket`] is a future without it, and every descriptor can be waited for by any runtime.)

// The attribute and the derives name this crate.
extern crate self as polyproc;

mod abandoned;
#[cfg(feature = "async")]
pub mod asynchronous;
mod bytes;
mod error;
mod event;
mod guarded;
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

/// The example of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

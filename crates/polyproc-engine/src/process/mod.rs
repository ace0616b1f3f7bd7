//! Processes as things that are born, watched, and end.
//!
//! ```text
//!  parent                                             child
//!  ┌─────────────────────────────┐    fork, exec     ┌──────────────────────────────┐
//!  │ Child: pid, pidfd, report   │ ────────────────▶ │ attached to the session      │
//!  │   ▲                         │   its own slot,   │ lifeline: a pidfd of whoever │
//!  │   │ one supervisor thread ──┼── its parent's    │ asked for it, watched by its │
//!  │   │ (epoll over pidfds)     │   pidfd           │ own supervisor thread        │
//!  └───┼─────────────────────────┘                   └──────────────────────────────┘
//!      └── the child ends: report, sweep, whoever asked to be told
//! ```
//!
//! * [`birth`]: how a process comes into being with a place in the session and a lifeline.
//! * [`child`]: what a parent knows of one child.
//! * [`supervisor`]: the thread that learns of ends.
//! * [`lifeline`]: what a child does when the one it works for is gone.
//! * [`report`]: how a process ended.
//! * [`zygote`]: a process with one thread for life that forks the children of programs with many.
//!
//! **Invariant:** this layer does not know what a process runs. It collects no exit status (no `wait`, no SIGCHLD
//! handler) unless its owner asks for it through [`Child::collect`]: statuses belong to the program.
//!
//! **When a participant dies:** that is what this layer is for. Its supervisor's pidfd becomes readable, the engine
//! sweeps what it held, and its children see their lifelines fire.

pub mod birth;
pub mod child;
pub mod lifeline;
pub mod report;
pub mod supervisor;
pub mod zygote;

pub use child::Child;
pub use report::{Cause, Ending, ExitReport, Limits, Status, Usage};

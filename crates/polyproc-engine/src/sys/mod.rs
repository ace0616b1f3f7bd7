//! The only place with system calls. It decides nothing: each function is one call, with typed arguments and an
//! [`crate::Error`] that names it.

pub mod clock;
pub mod cpu;
pub mod descriptor;
pub mod epoll;
pub mod event;
pub mod fork;
pub mod futex;
pub mod image;
pub mod life;
pub mod limit;
pub mod local;
pub mod memfd;
pub mod memory;
pub mod packet;
pub mod pidfd;
pub mod poll;
pub mod proc;
pub mod signal;
pub mod socket;
pub mod spawn;
pub mod thread;

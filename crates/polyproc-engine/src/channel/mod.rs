//! Messages between processes: records in rings, bells for those who wait, blocks for what is large.
//!
//! * [`Queue`]: many producers, many consumers; a put that returned is in shared memory.
//! * [`pipe()`]: two ends; a socket pair tells of what comes, of the end, and carries descriptors.
//! * [`keeper`]: descriptors on their way in a message that lies in shared memory.
//! * [`Parcel`] and [`Envelope`]: a message before it is sent and after it has come.
//!
//! **Invariant:** nothing here knows what a process is, only slots; and what lies in shared memory is not trusted: a record
//! that makes no sense is an error, never a read outside of its ring.

mod bell;
pub mod keeper;
mod parcel;
pub(crate) mod pipe;
mod queue;
pub(crate) mod ring;

pub use bell::{event_bell, event_changed};
pub use parcel::{Body, Envelope, INLINE_MAX, Parcel, duplicate};
pub use pipe::{PipeEnd, Transport, pipe};
pub use queue::Queue;

//! Memory that several processes see: one session memfd with its participants, its directory of objects, and its blocks.
//!
//! ```text
//!  session memory (one memfd, sparse, mapped once by every member at a place of its own)
//!  ┌────────┬──────────────┬───────────────────┬─────────────────────────────┬──────────────────────────────┐
//!  │ header │ slots        │ cells             │ holdings                    │ blocks                       │
//!  │        │ one a process│ one a shared      │ one word a (process, object)│ size classes, page aligned   │
//!  │        │              │ object, 128 bytes │                             │                              │
//!  └────────┴──────────────┴───────────────────┴─────────────────────────────┴──────────────────────────────┘
//! ```
//!
//! **Invariant:** whether an object is alive can always be derived: it is held by a slot, named by a message, or (a
//! block) in transit in a ring. Lists and counters only make that quick to find, and are rebuilt when the process that
//! was changing them dies.
//!
//! It does not know what a lock means or what a message is: [`crate::kinds`] tells it what to do with an object whose
//! holder has died.

mod block;
#[cfg(feature = "fault-points")]
mod census;
mod directory;
mod fork;
mod layout;
mod local;
mod lockword;
mod memory;
mod participant;
mod session;
mod sweep;

pub(crate) use block::{BlockState, Transit, free_block, free_segment, is_block, place, segment_of};
pub use block::{Lease, MAX_BLOCK, trim};
#[cfg(feature = "fault-points")]
pub use census::{Census, census};
pub(crate) use directory::{Cell, CellState, Directory, HELD, Kind, cell, cells_top, create, generation, holding};
pub use directory::{Handle, Hold};
pub use fork::{Birth, last_forked, life_descriptor, prepare_child};
pub(crate) use local::me;
pub(crate) use lockword::{Taken, forgive, is_owned_by, owner, release, take, take_from_dead, try_take};
pub use memory::Memory;
pub use participant::Participant;
pub use session::{
    Descriptors, attach, budget, current, descriptors, exists, id, leave, prepare, reserved, set_budget,
};
pub(crate) use sweep::{Death, look_after, look_after_owner, look_after_takers};
pub use sweep::{is_dead, pid_of, sweep, sweep_dead};

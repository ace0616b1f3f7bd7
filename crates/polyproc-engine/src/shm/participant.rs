//! Participants: the processes of a session, each with a slot.
//!
//! A participant's name is 30 bits: the index of its slot and the generation of the slot. It is never used twice within
//! the 262,144 lives of a slot, so it can stand in a lock word and be looked up years later.

use std::fmt;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64};

/// The name of a process within its session. Zero is nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Participant(u32);

const INDEX_BITS: u32 = 12;
/// The most slots that a session can have.
pub(super) const SLOTS_MAX: u32 = 1 << INDEX_BITS;
const GENERATION_MASK: u32 = (1 << (30 - INDEX_BITS)) - 1;

impl Participant {
    /// No process at all.
    pub const NOBODY: Participant = Participant(0);

    pub(super) fn new(index: u32, generation: u32) -> Participant {
        Participant(((generation & GENERATION_MASK) << INDEX_BITS) | (index & (SLOTS_MAX - 1)))
    }

    /// The participant that these bits name; what lies above 30 bits is dropped.
    pub fn from_bits(bits: u32) -> Participant {
        Participant(bits & ((1 << 30) - 1))
    }

    /// The name as a number of 30 bits.
    #[inline]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// True for [`Participant::NOBODY`].
    pub fn is_nobody(self) -> bool {
        self.0 == 0
    }

    pub(super) fn index(self) -> u32 {
        self.0 & (SLOTS_MAX - 1)
    }

    /// The name that the slot gives to its next life.
    pub(super) fn next_life(self) -> Participant {
        Participant::new(self.index(), (self.0 >> INDEX_BITS).wrapping_add(1))
    }
}

impl fmt::Debug for Participant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "participant {}.{}", self.index(), self.0 >> INDEX_BITS)
    }
}

/// The slot is free; its identity names the participant that it will give out next.
pub(super) const FREE: u32 = 0;
/// Reserved by a parent for a child that has not signed yet.
pub(super) const NEWBORN: u32 = 1 << 30;
/// Signed by its process.
pub(super) const LIVE: u32 = 2 << 30;
pub(super) const STATE: u32 = 3 << 30;

/// What a session keeps of one process.
///
/// | field | written by | read by |
/// | --- | --- | --- |
/// | identity | the reserving parent, under the directory's lock; then the process itself; at last the sweeper, under the sweep lock | all |
/// | pid, signed_at | the process itself, before identity says LIVE | those who name or look for the dead |
/// | parent | the reserving parent | the supervisor |
/// | clean | the process itself, at a normal exit | the sweeper |
///
/// DEATH: a process that dies between two of these stores leaves a NEWBORN slot without a pid; its life descriptor is
/// closed all the same, so the sweep finds it.
#[repr(C, align(64))]
pub(super) struct Slot {
    /// `state:2 | participant:30`, one word, so that a slot ends its life with one store.
    pub identity: AtomicU32,
    pub pid: AtomicI32,
    pub parent: AtomicU32,
    pub clean: AtomicU32,
    /// When it signed, in nanoseconds of [`crate::sys::clock::since_boot`]: with the pid this names a process for good, and
    /// costs no look into /proc.
    pub signed_at: AtomicU64,
}

const _: () = assert!(std::mem::size_of::<Slot>() == 64);

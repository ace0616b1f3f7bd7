//! What a ring keeps in its cell.

use crate::shm::{CellState, Kind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// | field | written by | under |
/// | --- | --- | --- |
/// | tail, put_segment, pending, rung, known_head | producers | put lock |
/// | head, get_segment, retired, hushed, known_tail | consumers (get_segment first by a producer, while the ring is empty) | get lock |
/// | carried, asked | see [`super::pipe`] | |
/// | items, space, finished | see [`crate::sync::signal`] | |
/// | most, growth | the creator | once |
/// | done | who finishes a task | atomically |
/// | watched, watched_too | who arms a bell | only ever set |
///
/// Producers use the first cache line and consumers the second. What the other side changes with every item is looked at
/// only when what is known of it (`known_head`, `known_tail`) is not enough: a line that both sides want travels between
/// their processors at every item, which costs more than all the rest.
#[repr(C)]
pub(crate) struct RingState {
    pub(super) put_lock: AtomicU32,
    pub(crate) items: AtomicU32,
    pub(super) tail: AtomicU64,
    pub(super) put_segment: AtomicU32,
    pub(super) pending: AtomicU32,
    pub(super) pending_generation: AtomicU32,
    /// Bells that a pipe's writer has rung.
    pub(crate) rung: AtomicU32,
    /// A pipe's reader has asked for more than there was.
    pub(crate) asked: AtomicU32,
    /// A position that head has reached, as some producer has last seen it.
    pub(super) known_head: AtomicU32,
    /// Whoever sleeps on items may be a bell.
    pub(super) watched: AtomicU32,
    padding: AtomicU32,
    pub(super) get_lock: AtomicU32,
    pub(crate) space: AtomicU32,
    pub(super) head: AtomicU64,
    pub(super) get_segment: AtomicU32,
    pub(super) retired: AtomicU32,
    pub(super) retired_generation: AtomicU32,
    /// Bells that a pipe's reader has taken away.
    pub(crate) hushed: AtomicU32,
    pub(super) most: AtomicU32,
    /// One of [`growth`].
    pub(super) growth: AtomicU32,
    pub(super) done: AtomicU32,
    pub(super) finished: AtomicU32,
    /// The items that lie before a tail which some consumer has seen.
    pub(super) known_tail: AtomicU32,
    /// Whoever sleeps on space may be a bell.
    pub(super) watched_too: AtomicU32,
    /// Bytes in blocks that a pipe carries.
    pub(crate) carried: AtomicU64,
}

/// Whether a ring adds segments, and how large the first is.
pub(super) mod growth {
    pub(crate) const USUAL: u32 = 0;
    /// It has one segment for life.
    pub(crate) const NONE: u32 = 1;
    /// It begins with a page.
    pub(crate) const MODEST: u32 = 2;
}

// SAFETY: plain atomics, 112 bytes, aligned to 8.
unsafe impl CellState for RingState {
    const KIND: Kind = Kind::Ring;
}

const _: () = assert!(std::mem::offset_of!(RingState, get_lock) + 16 == 64);

/// A cursor: how many items lie before it, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) items: u32,
    pub(super) position: u32,
}

impl Cursor {
    pub(super) fn of(bits: u64) -> Cursor {
        Cursor { items: (bits >> 32) as u32, position: bits as u32 }
    }

    pub(super) fn bits(self) -> u64 {
        (u64::from(self.items) << 32) | u64::from(self.position)
    }
}

/// How many items the ring holds.
pub(super) fn len(state: &RingState) -> u32 {
    let head = Cursor::of(state.head.load(Ordering::Acquire)).items;
    Cursor::of(state.tail.load(Ordering::Acquire)).items.wrapping_sub(head)
}

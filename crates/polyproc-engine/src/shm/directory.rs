//! The directory: every shared object of the session has a cell here, and every process says which objects it holds.
//!
//! ```text
//!  cell (128 bytes)
//!  ┌──────┬────────────┬──────┬───────────┬──────────────────────────────────────────┐
//!  │ kind │ generation │ named│ next_free │ state of the object, as its kind has it  │
//!  └──────┴────────────┴──────┴───────────┴──────────────────────────────────────────┘
//!  holdings[slot][cell]: HELD | what this process has taken of the object (permits, waiters)
//! ```
//!
//! An object lives while any slot holds it, or a message on its way names it, or (a block) it is in transit in a ring. So
//! nobody counts references across processes, and nothing needs to be put right when a process dies between two
//! counters: its row of holdings is read and cleared.
//!
//! DEATH under the directory's lock: the next holder rebuilds the free lists from the cells ([`Directory::open`]).

use super::layout::CLASSES;
use super::lockword::{self, Taken};
use super::participant::{FREE, Participant, STATE};
use super::session::{Session, known, session};
use super::{block, local};
use crate::sys::clock::Deadline;
use crate::{Error, Result, fault, kinds};
use std::sync::atomic::{AtomicU32, Ordering};

/// A process holds the object.
pub(crate) const HELD: u32 = 1 << 31;
/// A process holds the object only for the length of one call: a fork does not pass it on.
pub(crate) const PASSING: u32 = 1 << 30;

/// What a cell is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    /// Nothing.
    Free = 0,
    /// A block of memory that somebody uses.
    Block = 1,
    /// A block of memory that is kept for the next user.
    IdleBlock = 2,
    Lock = 3,
    ReentrantLock = 4,
    Semaphore = 5,
    Event = 6,
    Condition = 7,
    Barrier = 8,
    Ring = 9,
    PipeEnd = 10,
    Lane = 11,
    RwLock = 12,
    Once = 13,
}

impl Kind {
    fn of(number: u32) -> Kind {
        match number {
            1 => Kind::Block,
            2 => Kind::IdleBlock,
            3 => Kind::Lock,
            4 => Kind::ReentrantLock,
            5 => Kind::Semaphore,
            6 => Kind::Event,
            7 => Kind::Condition,
            8 => Kind::Barrier,
            9 => Kind::Ring,
            10 => Kind::PipeEnd,
            11 => Kind::Lane,
            12 => Kind::RwLock,
            13 => Kind::Once,
            _ => Kind::Free,
        }
    }

    /// The object's name in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Free => "object",
            Kind::Block | Kind::IdleBlock => "block",
            Kind::Lock => "lock",
            Kind::ReentrantLock => "reentrant lock",
            Kind::Semaphore => "semaphore",
            Kind::Event => "event",
            Kind::Condition => "condition",
            Kind::Barrier => "barrier",
            Kind::Ring => "queue",
            Kind::PipeEnd => "pipe",
            Kind::Lane => "lane",
            Kind::RwLock => "read-write lock",
            Kind::Once => "once",
        }
    }
}

/// One object of the session.
///
/// | field | written by | under |
/// | --- | --- | --- |
/// | kind, generation, next_free | anybody | the directory's lock |
/// | named | who sends a message with the object's handle; only ever set | a single store |
/// | state | as the kind says | as the kind says |
#[repr(C, align(128))]
pub(crate) struct Cell {
    pub(super) kind: AtomicU32,
    pub(super) generation: AtomicU32,
    /// Some message may name the object: see [`super::block::Lease::naming`].
    named: AtomicU32,
    pub(super) next_free: AtomicU32,
    state: [AtomicU32; 28],
}

const _: () = assert!(std::mem::size_of::<Cell>() == 128);

/// The state of one kind of object, as it lies in a cell.
///
/// # Safety
/// `repr(C)`, nothing but atomics, at most 112 bytes, aligned to at most 16; all zeros is a valid value.
pub(crate) unsafe trait CellState: Sized {
    /// What the cell is used for.
    const KIND: Kind;
}

impl Cell {
    #[inline]
    pub(crate) fn kind(&self) -> Kind {
        Kind::of(self.kind.load(Ordering::Acquire))
    }

    /// The state, as that of a kind. If the cell is of another kind the values mean nothing, and do no harm.
    #[inline]
    pub(crate) fn state<S: CellState>(&self) -> &S {
        const { assert!(std::mem::size_of::<S>() <= 112 && std::mem::align_of::<S>() <= 16) };
        // SAFETY: CellState promises plain atomics that fit; the state begins at byte 16 of a cell aligned to 128.
        unsafe { &*self.state.as_ptr().cast::<S>() }
    }
}

/// The name of a shared object within its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Handle {
    /// Its cell.
    pub cell: u32,
    /// The generation of the cell: a handle of an object that is gone does not name its successor.
    pub generation: u32,
}

impl Handle {
    /// The handle as bytes, with the session's number, to be sent anywhere.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&known().header().id.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.cell.to_le_bytes());
        bytes[12..].copy_from_slice(&self.generation.to_le_bytes());
        bytes
    }

    /// The handle in bytes made by [`Handle::to_bytes`].
    ///
    /// # Errors
    /// [`Error::Foreign`] if they come from another session.
    pub fn from_bytes(bytes: &[u8; 16]) -> Result<Handle> {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if u64::from(number(0)) | (u64::from(number(4)) << 32) != session()?.header().id {
            return Err(Error::Foreign { what: "object" });
        }
        Ok(Handle { cell: number(8), generation: number(12) })
    }
}

/// The cell of an object. A cell that never was one is Free.
#[inline]
pub(crate) fn cell(index: u32) -> &'static Cell {
    known().cell(index)
}

/// The generation of a cell.
pub(crate) fn generation(index: u32) -> u32 {
    cell(index).generation.load(Ordering::Acquire)
}

/// Cells at or above this were never used.
pub(crate) fn cells_top() -> u32 {
    known().cells_top()
}

/// What the process of a slot has of the object in `cell`.
#[inline]
pub(crate) fn holding(slot: Participant, cell: u32) -> &'static AtomicU32 {
    known().holding(slot.index(), cell)
}

/// The directory while its lock is held.
pub(crate) struct Directory {
    pub(super) session: &'static Session,
}

impl Directory {
    /// Takes the lock; if its last holder died, rebuilds the lists first.
    pub(crate) fn open() -> Directory {
        let session = known();
        let word = &session.header().directory.0;
        loop {
            match lockword::take(word, local::me(), Deadline::Never, &super::sweep::look_after) {
                Ok(taken) => {
                    fault!("directory.locked");
                    let directory = Directory { session };
                    if taken == Taken::Abandoned {
                        directory.rebuild();
                    }
                    return directory;
                }
                Err(_) => continue,
            }
        }
    }

    /// Takes a free cell and makes it a `kind`, held by this process with the bits of `holding`.
    pub(super) fn new_cell(&self, kind: Kind, holding: u32, prepare: impl FnOnce(&Cell)) -> Result<Handle> {
        let header = self.session.header();
        let index = match header.free_cell.load(Ordering::Relaxed) {
            0 => {
                let top = header.cells_top.load(Ordering::Relaxed);
                if top >= self.session.layout().cells {
                    return Err(Error::TooMany {
                        what: "shared objects",
                        limit: u64::from(self.session.layout().cells) - 1,
                    });
                }
                header.cells_top.store(top + 1, Ordering::Release);
                top
            }
            free => {
                header.free_cell.store(self.session.cell(free).next_free.load(Ordering::Relaxed), Ordering::Relaxed);
                free
            }
        };
        fault!("directory.popped");
        let cell = self.session.cell(index);
        for word in &cell.state {
            word.store(0, Ordering::Relaxed);
        }
        cell.named.store(0, Ordering::Relaxed);
        cell.next_free.store(0, Ordering::Relaxed);
        prepare(cell);
        let generation = cell.generation.load(Ordering::Relaxed);
        cell.kind.store(kind as u32, Ordering::Release);
        fault!("directory.kind_set");
        self.session.holding(local::me().index(), index).store(holding, Ordering::Release);
        fault!("directory.held");
        Ok(Handle { cell: index, generation })
    }

    /// True if any process holds the object, a message names it, or it is in transit.
    pub(super) fn is_alive(&self, index: u32) -> bool {
        let cell = self.session.cell(index);
        let handle = Handle { cell: index, generation: cell.generation.load(Ordering::Relaxed) };
        self.is_held(index)
            || kinds::in_transit(cell.kind(), index)
            || (cell.named.load(Ordering::Acquire) != 0 && block::is_named(self.session, handle))
    }

    /// True if any process holds the object.
    pub(super) fn is_held(&self, index: u32) -> bool {
        (1..self.session.slots_top()).any(|slot| {
            self.session.slot(slot).identity.load(Ordering::Acquire) & STATE != FREE
                && self.session.holding(slot, index).load(Ordering::Acquire) & (HELD | PASSING) != 0
        })
    }

    /// Ends an object that nobody holds any more; does nothing to one that is alive.
    pub(crate) fn free_if_unused(&self, index: u32) {
        let kind = self.session.cell(index).kind();
        if !matches!(kind, Kind::Free | Kind::IdleBlock) && !self.is_alive(index) {
            self.free(index);
        }
    }

    /// Ends an object.
    pub(crate) fn free(&self, index: u32) {
        let cell = self.session.cell(index);
        let kind = cell.kind();
        match kind {
            Kind::Free | Kind::IdleBlock => {}
            Kind::Block => block::retire(self, index),
            _ => {
                kinds::destroy(kind, self, index);
                for slot in 1..self.session.slots_top() {
                    self.session.holding(slot, index).store(0, Ordering::Relaxed);
                }
                cell.generation.fetch_add(1, Ordering::Relaxed);
                cell.kind.store(Kind::Free as u32, Ordering::Release);
                fault!("directory.freed");
                self.link_free(index);
            }
        }
    }

    fn link_free(&self, index: u32) {
        let header = self.session.header();
        self.session.cell(index).next_free.store(header.free_cell.load(Ordering::Relaxed), Ordering::Relaxed);
        header.free_cell.store(index, Ordering::Relaxed);
    }

    /// Makes the lists anew from the cells: what a process that died under the lock has left half done.
    fn rebuild(&self) {
        let header = self.session.header();
        header.free_cell.store(0, Ordering::Relaxed);
        for class in 0..CLASSES {
            header.free_blocks[class].store(0, Ordering::Relaxed);
        }
        let top = self.session.cells_top();
        let mut reserved = 0;
        for index in 1..top {
            let cell = self.session.cell(index);
            match cell.kind() {
                Kind::Free => self.link_free(index),
                Kind::IdleBlock => block::link_idle(self, index),
                _ => {}
            }
        }
        // Twice: what an object of the second half had of the first is found by the second pass.
        for index in (1..top).chain(1..top) {
            self.free_if_unused(index);
        }
        for index in 1..top {
            if block::is_block(index) {
                reserved += block::reserved_by(index);
            }
        }
        header.reserved.store(reserved, Ordering::Relaxed);
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        lockword::release(&self.session.header().directory.0);
    }
}

/// Makes an object, held by this process. `prepare` sets its first state before anybody can find it.
pub(crate) fn create<S: CellState>(prepare: impl FnOnce(&S)) -> Result<Hold> {
    session()?;
    let handle = Directory::open().new_cell(S::KIND, HELD, |cell| prepare(cell.state::<S>()))?;
    local::adopt_hold(handle.cell);
    Ok(Hold { handle, kind: S::KIND })
}

/// From now on the last one to drop the object looks whether a message names it.
pub(super) fn mark_named(handle: Handle) {
    cell(handle.cell).named.store(1, Ordering::Release);
}

/// This process's hold on a shared object. While it lives the object lives. A fork passes it on to the child.
#[derive(Debug)]
pub struct Hold {
    handle: Handle,
    kind: Kind,
}

impl Hold {
    /// Takes hold of an object by its handle.
    ///
    /// # Errors
    /// [`Error::Stale`] if it is gone, or is not of this kind.
    pub(crate) fn take(handle: Handle, kind: Kind) -> Result<Hold> {
        let session = session()?;
        let known = local::adopt_hold(handle.cell);
        let mine = session.holding(local::me().index(), handle.cell);
        if !known {
            // Not a bare store: another thread may be counting permits in the same word.
            mine.fetch_or(HELD, Ordering::AcqRel);
        }
        let hold = Hold { handle, kind };
        let cell = session.cell(handle.cell);
        if handle.cell == 0 || cell.kind() != kind || cell.generation.load(Ordering::Acquire) != handle.generation {
            return Err(Error::Stale { what: kind.name() });
        }
        Ok(hold)
    }

    /// The object's name.
    #[inline]
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// The object's cell.
    #[inline]
    pub(crate) fn state<S: CellState>(&self) -> &'static S {
        cell(self.handle.cell).state::<S>()
    }

    /// Keeps the hold to this process: a child that is forked from now on does not have it, unless it takes hold itself.
    pub(crate) fn keep_to_ourselves(&self) {
        local::keep_hold(self.handle.cell);
    }

    /// Also lets a child hold the object that was not forked but will be exec'd, and for which a slot was reserved.
    pub fn share_with(&self, child: Participant) {
        let child = known().holding(child.index(), self.handle.cell);
        child.fetch_or(HELD, Ordering::AcqRel);
        block::mark_shared(self.handle.cell);
    }
}

impl Clone for Hold {
    fn clone(&self) -> Hold {
        local::adopt_hold(self.handle.cell);
        Hold { handle: self.handle, kind: self.kind }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        local::drop_hold(self.handle.cell, || {
            let directory = Directory::open();
            let me = local::me();
            let row = known().holding(me.index(), self.handle.cell);
            // What this process still has of the object (it ends with a lock that it never released) its death must find,
            // although this alone does not keep the object alive.
            let taken = row.load(Ordering::Relaxed) & !(HELD | PASSING);
            row.store(kinds::still_taken(self.kind, self.handle.cell, taken, me), Ordering::Release);
            directory.free_if_unused(self.handle.cell);
        });
    }
}

//! Blocks: page-aligned pieces of the session memory for what is too large to lie in a ring.
//!
//! A block is 64 KiB times a power of two of address space, of which only what was asked for has pages. A block that is
//! given back keeps its pages warm for the next user: copying into them costs 19 µs per MiB where fresh ones cost 200 and
//! more. Blocks that nobody has used for some seconds lose their pages ([`trim`]).
//!
//! ```text
//!            allocate                     send                      receive                  last drop
//!   idle ───────────────▶ held (passing) ──────▶ in transit (ring) ─────────▶ held (lease) ───────────▶ idle
//! ```
//!
//! A block is alive while a slot holds it, or while the item that it is tagged with lies between head and tail of the
//! ring that it is tagged with. The sender tags it before it commits the item, the receiver holds it before it takes the
//! item, so there is no moment at which a death could lose or double it.
//!
//! DEATH between reserving the budget and reserving the pages: the block counts as having pages that come into being when
//! they are touched. Nothing is lost.

use super::directory::{CellState, Directory, HELD, Handle, Kind, PASSING};
use super::layout::{CLASSES, GRAIN, round_up};
use super::local::{self, LocalLease};
use super::participant::Participant;
use super::session::{Session, known, session};
use crate::sys::{clock, memfd, memory};
use crate::{Error, Result, fault};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How long an idle block keeps its pages, in nanoseconds.
const WARM: u64 = 5_000_000_000;

/// Up to so many bytes, faults cost less than the call that spares them.
const FEW: usize = 16 * 1024;

/// The largest block, in bytes.
pub const MAX_BLOCK: u64 = GRAIN << (CLASSES - 1);

/// | field | written by | under |
/// | --- | --- | --- |
/// | offset, class | the process that made the block | directory lock, once |
/// | length, reserved, idle_since | whoever allocates, gives back or trims | directory lock |
/// | emptied | whoever trims, while it holds the block | a hint: it tells others that their page tables have lost it |
/// | transit | the sender before it commits; the receiver after | the ring's locks |
/// | shared | a process that forks while it holds the block | a single store |
/// | names | the sender, before it tags the block | a single store |
/// | segment_of | the producer that adds it; who gives it back | the ring's locks |
#[repr(C)]
pub(crate) struct BlockState {
    pub(super) offset: AtomicU64,
    pub(super) length: AtomicU64,
    reserved: AtomicU64,
    pub(crate) transit: AtomicU64,
    idle_since: AtomicU64,
    pub(super) class: AtomicU32,
    /// How often its pages were given back to the system.
    emptied: AtomicU32,
    /// More than one process may hold it.
    pub(super) shared: AtomicU32,
    /// How many handles of objects stand in it, which live as long as the block is in use.
    names: AtomicU32,
    /// The ring that it is a segment of, and which it lives as long as.
    segment_of: AtomicU32,
    padding: AtomicU32,
}

// SAFETY: plain atomics, 64 bytes.
unsafe impl CellState for BlockState {
    const KIND: Kind = Kind::Block;
}

/// In which ring a block is, and as part of which item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transit {
    pub ring: u32,
    pub item: u32,
}

impl Transit {
    pub(crate) fn bits(self) -> u64 {
        (u64::from(self.ring) << 32) | u64::from(self.item)
    }

    /// `None` for a block that is in no ring.
    pub(crate) fn of(bits: u64) -> Option<Transit> {
        (bits >> 32 != 0).then_some(Transit { ring: (bits >> 32) as u32, item: bits as u32 })
    }
}

fn whole_pages(length: u64) -> u64 {
    round_up(length, memory::page_size())
}

fn state(index: u32) -> &'static BlockState {
    known().cell(index).state::<BlockState>()
}

/// True if the cell is that of a block, idle or not.
pub(crate) fn is_block(index: u32) -> bool {
    matches!(known().cell(index).kind(), Kind::Block | Kind::IdleBlock)
}

pub(super) fn reserved_by(index: u32) -> u64 {
    state(index).reserved.load(Ordering::Relaxed)
}

/// From now on the last holder looks for others before it gives the block back.
pub(super) fn mark_shared(index: u32) {
    if is_block(index) {
        state(index).shared.store(1, Ordering::Release);
    }
}

/// Maps a leased block privately, in its place: for the fork that is about to happen.
pub(super) fn make_private(session: &Session, lease: &mut LocalLease) {
    if let Ok(memfd) = session.memfd() {
        let length = whole_pages(lease.length);
        // SAFETY: the address is where the session maps `offset`. Other threads that write meanwhile write either to the
        // shared page, which the private mapping then shows, or already to their own.
        let done = unsafe { memfd::remap(memfd, lease.address as *mut u8, length, lease.offset, true) };
        lease.private = done.is_ok();
    }
}

/// Puts a block that nobody uses any more on its list. Under the directory's lock.
pub(super) fn retire(directory: &Directory, index: u32) {
    let cell = directory.session.cell(index);
    let block = cell.state::<BlockState>();
    let named: Vec<Handle> = named_in(index).collect();
    block.names.store(0, Ordering::Relaxed);
    block.segment_of.store(0, Ordering::Relaxed);
    block.transit.store(0, Ordering::Relaxed);
    block.shared.store(0, Ordering::Relaxed);
    block.idle_since.store(clock::now(), Ordering::Relaxed);
    cell.generation.fetch_add(1, Ordering::Relaxed);
    cell.kind.store(Kind::IdleBlock as u32, Ordering::Release);
    link_idle(directory, index);
    fault!("block.pushed");
    for handle in named {
        if super::directory::generation(handle.cell) == handle.generation {
            directory.free_if_unused(handle.cell);
        }
    }
}

/// The handles that stand in a block.
fn named_in(index: u32) -> impl Iterator<Item = Handle> {
    let count = u64::from(state(index).names.load(Ordering::Acquire));
    let (start, reserved) = place(index).unwrap_or((std::ptr::null_mut(), 0));
    (0..count.min(reserved / 8)).map(move |number| {
        // SAFETY: the place has `reserved` bytes from its start on, which is that of a page; peers change them atomically, if
        // at all.
        let word = unsafe { &*start.add(number as usize * 8).cast::<AtomicU64>() }.load(Ordering::Relaxed);
        Handle { cell: word as u32, generation: (word >> 32) as u32 }
    })
}

/// True if a message names the object. Under the directory's lock, so that none comes or goes.
pub(super) fn is_named(session: &Session, object: Handle) -> bool {
    (1..session.cells_top()).any(|index| {
        session.cell(index).kind() == Kind::Block
            && state(index).names.load(Ordering::Acquire) != 0
            && named_in(index).any(|handle| handle == object)
    })
}

/// The ring that the block is a segment of.
pub(crate) fn segment_of(index: u32) -> Option<u32> {
    let ring = state(index).segment_of.load(Ordering::Acquire);
    (ring != 0).then_some(ring)
}

/// Gives a segment back that its ring has left, or never had. Under the directory's lock.
pub(crate) fn free_segment(directory: &Directory, handle: Handle) {
    if is_block(handle.cell) && super::directory::generation(handle.cell) == handle.generation {
        state(handle.cell).segment_of.store(0, Ordering::Release);
        directory.free_if_unused(handle.cell);
    }
}

pub(super) fn link_idle(directory: &Directory, index: u32) {
    let session = directory.session;
    let class = state(index).class.load(Ordering::Relaxed) as usize % CLASSES;
    let list = &session.header().free_blocks[class];
    session.cell(index).next_free.store(list.load(Ordering::Relaxed), Ordering::Relaxed);
    list.store(index, Ordering::Relaxed);
}

/// Ends a block that lies in a ring which is being destroyed. Under the directory's lock.
pub(crate) fn free_block(directory: &Directory, index: u32) {
    if known().cell(index).kind() == Kind::Block {
        state(index).transit.store(0, Ordering::Release);
        directory.free_if_unused(index);
    }
}

fn class_of(length: u64) -> Result<usize> {
    let grains = length.div_ceil(GRAIN).max(1);
    let class = grains.next_power_of_two().trailing_zeros() as usize;
    if class < CLASSES { Ok(class) } else { Err(Error::TooLarge { size: length, limit: MAX_BLOCK }) }
}

/// Allocates a block; this process then holds it with the bits of `holding`. Gives its handle, its place, and from where
/// on its pages must still be reserved.
pub(super) fn allocate(length: u64, holding: u32) -> Result<(Handle, u64)> {
    let session = session()?;
    let class = class_of(length)?;
    let header = session.header();
    let wanted = whole_pages(length.max(1));
    let mut trimmed = false;
    let (handle, offset, reserved) = loop {
        let directory = Directory::open();
        let list = &header.free_blocks[class];
        let idle = list.load(Ordering::Relaxed);
        let has = if idle == 0 { 0 } else { reserved_by(idle) };
        let more = wanted.saturating_sub(has);
        let (used, budget) = (header.reserved.load(Ordering::Relaxed), header.budget.load(Ordering::Relaxed));
        if more > 0 && used.saturating_add(more) > budget {
            drop(directory);
            if !trimmed && trim_idle(0) > 0 {
                trimmed = true;
                continue;
            }
            return Err(Error::BudgetExhausted { requested: length, used, budget });
        }
        let handle = if idle != 0 {
            list.store(session.cell(idle).next_free.load(Ordering::Relaxed), Ordering::Relaxed);
            fault!("block.popped");
            let cell = session.cell(idle);
            let block = cell.state::<BlockState>();
            block.transit.store(0, Ordering::Relaxed);
            block.shared.store(0, Ordering::Relaxed);
            block.names.store(0, Ordering::Relaxed);
            block.segment_of.store(0, Ordering::Relaxed);
            cell.kind.store(Kind::Block as u32, Ordering::Release);
            session.holding(local::me().index(), idle).store(holding, Ordering::Release);
            Handle { cell: idle, generation: cell.generation.load(Ordering::Relaxed) }
        } else {
            let offset = header.blocks_top.load(Ordering::Relaxed);
            let end = offset.saturating_add(GRAIN << class);
            if end > session.layout().size {
                return Err(Error::BudgetExhausted { requested: length, used, budget: session.layout().size });
            }
            header.blocks_top.store(end, Ordering::Relaxed);
            directory.new_cell(Kind::Block, holding, |cell| {
                let block = cell.state::<BlockState>();
                block.offset.store(offset, Ordering::Relaxed);
                block.class.store(class as u32, Ordering::Relaxed);
            })?
        };
        let block = state(handle.cell);
        block.length.store(length, Ordering::Relaxed);
        let has = block.reserved.load(Ordering::Relaxed);
        if has < wanted {
            header.reserved.fetch_add(wanted - has, Ordering::Relaxed);
            block.reserved.store(wanted, Ordering::Relaxed);
        }
        fault!("block.reserved");
        break (handle, block.offset.load(Ordering::Relaxed), has);
    };
    if reserved < wanted
        && let Ok(memfd) = session.memfd()
        && let Err(error) = memfd::reserve(memfd, offset + reserved, wanted - reserved)
    {
        let directory = Directory::open();
        header.reserved.fetch_sub(wanted - reserved, Ordering::Relaxed);
        state(handle.cell).reserved.store(reserved, Ordering::Relaxed);
        session.holding(local::me().index(), handle.cell).store(0, Ordering::Release);
        directory.free_if_unused(handle.cell);
        return Err(error);
    }
    fault!("block.held");
    Ok((handle, offset))
}

/// Gives a block of this process back, if nobody else has it.
fn give_back(index: u32) {
    let directory = Directory::open();
    known().holding(local::me().index(), index).store(0, Ordering::Release);
    fault!("block.unheld");
    let block = state(index);
    if block.shared.load(Ordering::Acquire) == 0 && Transit::of(block.transit.load(Ordering::Acquire)).is_none() {
        directory.free(index);
    } else {
        directory.free_if_unused(index);
    }
}

/// Gives the pages of blocks that have been idle for some seconds back to the system. Tells how many bytes those were.
pub fn trim() -> u64 {
    if super::session::exists() { trim_idle(WARM) } else { 0 }
}

fn trim_idle(idle_for: u64) -> u64 {
    let session = known();
    let header = session.header();
    let me = local::me();
    let mut given = 0;
    for class in 0..CLASSES {
        loop {
            // Taken off its list and held, a block can be emptied without the lock.
            let directory = Directory::open();
            let oldest = clock::now().saturating_sub(idle_for);
            let mut before: Option<u32> = None;
            let mut index = header.free_blocks[class].load(Ordering::Relaxed);
            let mut steps = session.cells_top();
            while index != 0 && steps > 0 {
                let block = state(index);
                if block.reserved.load(Ordering::Relaxed) > 0 && block.idle_since.load(Ordering::Relaxed) <= oldest {
                    break;
                }
                before = Some(index);
                index = session.cell(index).next_free.load(Ordering::Relaxed);
                steps -= 1;
            }
            if index == 0 || steps == 0 {
                break;
            }
            let next = session.cell(index).next_free.load(Ordering::Relaxed);
            match before {
                None => header.free_blocks[class].store(next, Ordering::Relaxed),
                Some(before) => session.cell(before).next_free.store(next, Ordering::Relaxed),
            }
            session.cell(index).kind.store(Kind::Block as u32, Ordering::Release);
            session.holding(me.index(), index).store(PASSING, Ordering::Release);
            let block = state(index);
            let (offset, reserved) = (block.offset.load(Ordering::Relaxed), block.reserved.load(Ordering::Relaxed));
            drop(directory);
            block.emptied.fetch_add(1, Ordering::Relaxed);
            let punched = session.memfd().and_then(|fd| memfd::punch(fd, offset, reserved)).is_ok();
            let directory = Directory::open();
            if punched {
                block.reserved.store(0, Ordering::Relaxed);
                header.reserved.fetch_sub(reserved, Ordering::Relaxed);
                given += reserved;
            }
            session.holding(me.index(), index).store(0, Ordering::Release);
            directory.free(index);
            if !punched {
                break;
            }
        }
    }
    given
}

/// See [`Lease::populate`].
pub(super) fn populate(index: u32, address: *mut u8, length: usize) {
    if length <= FEW {
        return;
    }
    let length = whole_pages(length as u64);
    let emptied = state(index).emptied.load(Ordering::Relaxed);
    if local::is_populated(index, emptied, length) {
        return;
    }
    // SAFETY: the range lies in the session's mapping.
    unsafe { memfd::populate(address, length) };
    local::note_populated(index, emptied, length);
}

/// A block that this process holds, and may read and write as its own. The last drop gives it back.
#[derive(Debug)]
pub struct Lease {
    handle: Handle,
    address: *mut u8,
    length: usize,
    /// Not yet entered in the local table: a fork does not pass it on.
    passing: bool,
}

// SAFETY: the block belongs to this process alone; who shares a Lease between threads answers for their writes, as the
// pointers that it gives out are raw.
unsafe impl Send for Lease {}
// SAFETY: as above.
unsafe impl Sync for Lease {}

impl Lease {
    /// A new block of `length` bytes, whose contents are not defined.
    ///
    /// # Errors
    /// [`Error::BudgetExhausted`] beyond the session's budget; [`Error::TooLarge`] beyond [`MAX_BLOCK`].
    pub fn allocate(length: usize) -> Result<Lease> {
        let (handle, offset) = allocate(length as u64, PASSING)?;
        let damaged = Error::Damaged { what: "block", detail: "its place lies outside" };
        let address = known().block(offset, length as u64).ok_or(damaged)?;
        let lease = Lease { handle, address, length, passing: true };
        lease.populate();
        Ok(lease)
    }

    /// Makes the lease one that a fork passes on to the child, each then with a private copy.
    #[must_use]
    pub fn keep(mut self) -> Lease {
        if self.passing {
            let offset = state(self.handle.cell).offset.load(Ordering::Relaxed);
            local::adopt_lease(
                self.handle.cell,
                LocalLease { address: self.address as usize, offset, length: self.length as u64, private: false },
            );
            known().holding(local::me().index(), self.handle.cell).store(HELD, Ordering::Release);
            self.passing = false;
        }
        self
    }

    /// The first byte. Other threads of this process may hold the same pointer.
    pub fn as_ptr(&self) -> *mut u8 {
        self.address
    }

    /// The size in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// The bytes, copied, so that no other process can change them any more.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.length);
        // SAFETY: the block is mapped and the vector has room. Whoever writes to a block that it does not have changes what
        // is copied, and nothing else.
        unsafe {
            std::ptr::copy_nonoverlapping(self.address, bytes.as_mut_ptr(), self.length);
            bytes.set_len(self.length);
        }
        bytes
    }

    /// True for a block of no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle
    }

    /// Takes over a block that came in a message: `length` and `generation` are the message's word, and are checked. The
    /// caller has not yet taken the item from the ring.
    pub(crate) fn receive(handle: Handle, length: u64) -> Result<Lease> {
        let damaged = |detail| Error::Damaged { what: "block", detail };
        let session = known();
        let cell = session.cell(handle.cell);
        if cell.kind() != Kind::Block || cell.generation.load(Ordering::Acquire) != handle.generation {
            return Err(damaged("a message names a block that is not in use"));
        }
        let block = cell.state::<BlockState>();
        let offset = block.offset.load(Ordering::Relaxed);
        if length > block.reserved.load(Ordering::Relaxed) {
            return Err(damaged("a message names more bytes than the block has"));
        }
        let address = session.block(offset, length).ok_or(damaged("its place lies outside"))?;
        session.holding(local::me().index(), handle.cell).store(PASSING, Ordering::Release);
        Ok(Lease { handle, address, length: length as usize, passing: true })
    }

    /// Maps the pages into this process at once, for someone who will touch all of them. Costs nothing for a block that this
    /// process has had before, whose pages are still there: to walk them again would take as long as to copy them.
    pub fn populate(&self) {
        populate(self.handle.cell, self.address, self.length);
    }

    /// Marks the block as part of an item that is about to be committed.
    pub(crate) fn tag(&self, transit: Transit) {
        state(self.handle.cell).transit.store(transit.bits(), Ordering::Release);
    }

    /// A block that names objects, so that they live as long as it does. The caller holds them.
    pub(crate) fn naming(objects: &[Handle]) -> Result<Lease> {
        let lease = Lease::allocate(objects.len() * 8)?;
        for (number, handle) in objects.iter().enumerate() {
            let word = u64::from(handle.cell) | (u64::from(handle.generation) << 32);
            // SAFETY: the block has a word for each, aligned to a page.
            unsafe { &*lease.address.add(number * 8).cast::<AtomicU64>() }.store(word, Ordering::Relaxed);
            super::directory::mark_named(*handle);
        }
        // ORDER: Release: who sees the number sees the handles. Whoever looks because the last hold was dropped has the
        // directory's lock, which that drop had before.
        state(lease.handle.cell).names.store(objects.len() as u32, Ordering::Release);
        Ok(lease)
    }

    /// True if the block names objects.
    pub(crate) fn names_objects(&self) -> bool {
        state(self.handle.cell).names.load(Ordering::Acquire) != 0
    }

    /// Makes the block a segment of a ring: it then lives as long as the ring, or until it is given back.
    pub(crate) fn become_segment(self, ring: u32) {
        state(self.handle.cell).segment_of.store(ring, Ordering::Release);
        self.hand_over();
    }

    /// Marks the block as received.
    pub(crate) fn untag(&self) {
        state(self.handle.cell).transit.store(0, Ordering::Release);
    }

    /// Leaves the block to the ring that it is tagged with.
    pub(crate) fn hand_over(self) {
        let lease = std::mem::ManuallyDrop::new(self);
        known().holding(local::me().index(), lease.handle.cell).store(0, Ordering::Release);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.passing {
            give_back(self.handle.cell);
            return;
        }
        local::drop_lease(self.handle.cell, |local| {
            if local.private {
                let session = known();
                let length = whole_pages(local.length);
                let done = session.memfd().and_then(|fd| {
                    // SAFETY: the place shows `offset`, and the last user of the lease is gone.
                    unsafe { memfd::remap(fd, local.address as *mut u8, length, local.offset, false) }
                });
                if done.is_err() {
                    // The place stays private here; this process must not use the block again.
                    return;
                }
            }
            give_back(self.handle.cell);
        });
    }
}

/// Where a block lies in this process, and how many bytes of it have pages; `None` if it lies nowhere.
pub(crate) fn place(index: u32) -> Option<(*mut u8, u64)> {
    let block = state(index);
    let (offset, reserved) = (block.offset.load(Ordering::Relaxed), block.reserved.load(Ordering::Relaxed));
    known().block(offset, reserved).map(|address| (address, reserved))
}

/// The participant that a block is held by, for tests and reports.
#[allow(dead_code, reason = "used by the tests of the sweep")]
pub(super) fn held_by(index: u32, participant: Participant) -> bool {
    known().holding(participant.index(), index).load(Ordering::Acquire) != 0
}

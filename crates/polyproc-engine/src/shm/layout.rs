//! Where everything lies in the session memory.

use super::directory::Cell;
use super::lockword::LockWord;
use super::participant::{SLOTS_MAX, Slot};
use std::sync::atomic::{AtomicU32, AtomicU64};

pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"polyproc");
/// Grows with every change of the layout: a process with another one must not touch the memory.
pub(super) const VERSION: u32 = 1;
/// The smallest header and table granule; what is mapped, reserved and given back goes by the system's page instead.
const PAGE: u64 = 4096;
/// Blocks begin at multiples of this, so that no two share a page whatever the system's page size is (4 to 64 KiB).
pub(super) const GRAIN: u64 = 64 * 1024;
/// The address space of a block is `GRAIN << class`; only what was asked for has pages.
pub(super) const CLASSES: usize = 24;

/// The first page.
///
/// | field | written by | under |
/// | --- | --- | --- |
/// | magic, version, id, size, slots, cells | the creator, before anybody else has the memory | |
/// | slots_top, cells_top, free_cell, free_blocks, blocks_top, reserved | anybody | `directory` |
/// | budget | anybody | a single store |
///
/// DEATH under `directory`: the next holder finds the lock abandoned and rebuilds the lists and `reserved` from the cells.
#[repr(C)]
pub(super) struct Header {
    pub magic: u64,
    pub version: u32,
    pub slots: u32,
    pub cells: u32,
    pub padding: u32,
    pub id: u64,
    pub size: u64,
    pub blocks: u64,
    /// Slots with an index at or above this were never used.
    pub slots_top: AtomicU32,
    /// Cells with an index at or above this were never used.
    pub cells_top: AtomicU32,
    pub budget: AtomicU64,
    /// Bytes that all blocks together have reserved.
    pub reserved: AtomicU64,
    pub blocks_top: AtomicU64,
    pub free_cell: AtomicU32,
    pub free_blocks: [AtomicU32; CLASSES],
    /// Guards the directory's lists.
    pub directory: Line<LockWord>,
    /// One sweep at a time.
    pub sweep: Line<LockWord>,
}

/// A value on a cache line of its own.
#[repr(C, align(64))]
pub(super) struct Line<T>(pub T);

const _: () = assert!(std::mem::size_of::<Header>() <= PAGE as usize);

/// The places of the parts, in bytes from the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub size: u64,
    pub slots: u32,
    pub cells: u32,
    pub slots_at: u64,
    pub cells_at: u64,
    pub holdings_at: u64,
    pub blocks_at: u64,
}

impl Layout {
    /// The layout of a memory of `size` bytes: large tables where there is room, small ones in a small address space.
    pub fn of(size: u64) -> Layout {
        let (slots, cells) = match size {
            s if s >= 1 << 36 => (SLOTS_MAX, 1 << 20),
            s if s >= 1 << 32 => (1024, 1 << 18),
            _ => (256, 1 << 14),
        };
        let slots_at = PAGE;
        let cells_at = round_up(slots_at + u64::from(slots) * std::mem::size_of::<Slot>() as u64, PAGE);
        let holdings_at = round_up(cells_at + u64::from(cells) * std::mem::size_of::<Cell>() as u64, PAGE);
        let blocks_at = round_up(holdings_at + u64::from(slots) * u64::from(cells) * 4, 1 << 21);
        Layout { size, slots, cells, slots_at, cells_at, holdings_at, blocks_at }
    }
}

pub(super) fn round_up(value: u64, step: u64) -> u64 {
    value.div_ceil(step) * step
}

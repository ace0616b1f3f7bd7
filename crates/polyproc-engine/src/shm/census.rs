//! A count of all that there is in the session's directory, for the tests that look for what was left behind.

use super::directory::{Directory, Kind};
use super::layout::CLASSES;
use super::participant::{FREE, STATE};
use std::collections::HashSet;
use std::sync::atomic::Ordering;

/// What there is in the directory at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// Objects that are alive, blocks among them.
    pub objects: u32,
    /// Of these, blocks.
    pub blocks: u32,
    /// Blocks that wait for their next user.
    pub idle: u32,
    /// Cells that neither are an object nor wait on a list for their next use: lost.
    pub lost: u32,
    /// Slots that are not free.
    pub participants: u32,
    /// Bytes that all blocks together have reserved, by the cells.
    pub reserved: u64,
}

/// Counts, under the directory's lock.
pub fn census() -> Census {
    let directory = Directory::open();
    let session = directory.session;
    let header = session.header();
    let top = session.cells_top();
    let mut listed = HashSet::new();
    for list in header.free_blocks.iter().take(CLASSES).chain([&header.free_cell]) {
        let mut index = list.load(Ordering::Relaxed);
        while index != 0 && listed.insert(index) {
            index = session.cell(index).next_free.load(Ordering::Relaxed);
        }
    }
    let mut census = Census { objects: 0, blocks: 0, idle: 0, lost: 0, participants: 0, reserved: 0 };
    for index in 1..top {
        let kind = session.cell(index).kind();
        match kind {
            Kind::Free | Kind::IdleBlock if !listed.contains(&index) => census.lost += 1,
            Kind::Free => {}
            Kind::IdleBlock => census.idle += 1,
            _ => census.objects += 1,
        }
        census.blocks += u32::from(kind == Kind::Block);
        if matches!(kind, Kind::Block | Kind::IdleBlock) {
            census.reserved += super::block::reserved_by(index);
        }
    }
    for index in 1..session.slots_top() {
        census.participants += u32::from(session.slot(index).identity.load(Ordering::Acquire) & STATE != FREE);
    }
    census
}

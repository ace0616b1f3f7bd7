//! What remains of a ring when somebody ends: a process that held it, or the ring itself.

use super::segment::{LINK, Segment, WRAP, blocks};
use super::state::{Cursor, RingState, len};
use crate::shm::{self, BlockState, Cell, Death, Directory, Handle, Kind, Transit, free_block, is_block};
use crate::sync::signal;
use std::sync::atomic::Ordering;

/// True if the block is part of an item that is in its ring, or a segment of one.
pub(crate) fn carries(block: u32) -> bool {
    if shm::segment_of(block).is_some_and(|ring| shm::cell(ring).kind() == Kind::Ring) {
        return true;
    }
    let bits = shm::cell(block).state::<BlockState>().transit.load(Ordering::Acquire);
    let Some(transit) = Transit::of(bits) else { return false };
    let ring: &Cell = shm::cell(transit.ring);
    if ring.kind() != Kind::Ring {
        return false;
    }
    let state = ring.state::<RingState>();
    let head = Cursor::of(state.head.load(Ordering::Acquire)).items;
    let tail = Cursor::of(state.tail.load(Ordering::Acquire)).items;
    transit.item.wrapping_sub(head) < tail.wrapping_sub(head)
}

pub(crate) fn on_death(cell: u32, death: &Death) {
    let state = shm::cell(cell).state::<RingState>();
    if shm::is_owned_by(&state.put_lock, death.participant) {
        // The dead may have tagged blocks for the item that it did not commit. Nobody else can commit that item before the
        // lock is released below.
        let next = Transit { ring: cell, item: Cursor::of(state.tail.load(Ordering::Acquire)).items }.bits();
        for index in 1..shm::cells_top() {
            if is_block(index) && shm::cell(index).state::<BlockState>().transit.load(Ordering::Acquire) == next {
                free_block(&Directory::open(), index);
            }
        }
    }
    for lock in [&state.put_lock, &state.get_lock] {
        shm::take_from_dead(lock, death.participant);
    }
    for word in [&state.items, &state.space, &state.finished] {
        signal::wake_all(word);
    }
}

/// Gives back the items that nobody will take out any more, and the segments. Under the directory's lock.
///
/// DEATH: nothing of the ring itself changes, so the next holder of the directory's lock does the same again, and finds what
/// is left. What it cannot find any more is in no ring from then on, and found by that.
pub(crate) fn destroy(directory: &Directory, cell: u32) {
    let state = shm::cell(cell).state::<RingState>();
    // The walk is that of a consumer. Nobody holds the ring, so no lock is needed; and this process may hold none of the
    // blocks, whatever the records say, so they are freed by their numbers.
    let first = state.get_segment.load(Ordering::Acquire);
    let position = Cursor::of(state.head.load(Ordering::Acquire)).position;
    let mut walk = Walk { segment: first, position, passed: Vec::new() };
    for _ in 0..len(state) {
        let Some(blocks) = walk.next() else { break };
        for block in blocks {
            free_block_of(directory, cell, block);
        }
    }
    let others = [&state.put_segment, &state.pending, &state.retired].map(|word| word.load(Ordering::Acquire));
    for segment in walk.passed.into_iter().chain([walk.segment]).chain(others) {
        if segment != 0 && is_block(segment) && shm::segment_of(segment) == Some(cell) {
            shm::free_segment(directory, Handle { cell: segment, generation: shm::generation(segment) });
        }
    }
}

/// Frees a block that lies in the ring, whatever a record says.
fn free_block_of(directory: &Directory, ring: u32, block: u32) {
    let bits = shm::cell(block).state::<BlockState>().transit.load(Ordering::Acquire);
    if is_block(block) && Transit::of(bits).is_some_and(|transit| transit.ring == ring) {
        free_block(directory, block);
    }
}

/// A walk over the records of a ring that nobody uses any more.
struct Walk {
    segment: u32,
    position: u32,
    /// The segments behind it.
    passed: Vec<u32>,
}

impl Walk {
    /// The blocks of the next item.
    fn next(&mut self) -> Option<Vec<u32>> {
        loop {
            let segment = Segment::of(self.segment).ok()?;
            let position = segment.normal(self.position);
            let record = segment.read_head(position);
            match record.kind {
                WRAP => self.position = position.wrapping_add(segment.to_end(position)),
                LINK => {
                    let next = Segment::of(record.length).ok()?;
                    self.passed.push(self.segment);
                    self.segment = record.length;
                    self.position = next.base;
                }
                _ if record.units() > segment.to_end(position) => return None,
                _ => {
                    self.position = position.wrapping_add(record.units());
                    // SAFETY: the record's units lie within the segment, as checked.
                    return Some(unsafe { blocks(segment.at(position), record) });
                }
            }
        }
    }
}

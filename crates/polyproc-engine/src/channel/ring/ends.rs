//! What remains of a ring when somebody ends: a process that held it, or the ring itself.

use super::segment::{LINK, Segment, WRAP, names};
use super::state::{Cursor, RingState, len};
use crate::shm::{self, BlockState, Cell, Death, Directory, Handle, Kind, Transit, free_block, is_block};
use crate::sync::signal;
use std::sync::atomic::Ordering;

/// True if the block is part of an item that is in its ring.
pub(crate) fn carries(block: u32) -> bool {
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
pub(crate) fn destroy(directory: &Directory, cell: u32) {
    let state = shm::cell(cell).state::<RingState>();
    // The walk is that of a consumer. Nobody holds the ring, so no lock is needed; and this process may hold none of the
    // blocks, whatever the records say, so they are freed by their numbers.
    let segment = state.get_segment.load(Ordering::Acquire);
    let mut walk = Walk { segment, position: Cursor::of(state.head.load(Ordering::Acquire)).position };
    for _ in 0..len(state) {
        let Some((blocks, references)) = walk.next(directory) else { break };
        let mut head = Cursor::of(state.head.load(Ordering::Relaxed));
        head.items = head.items.wrapping_add(1);
        // First the item is gone, then what it named: a death here leaks, and never frees what is in use.
        state.head.store(head.bits(), Ordering::Release);
        for block in blocks {
            free_block(directory, block);
        }
        for handle in references {
            shm::unpin(directory, handle);
        }
    }
    walk.drop_rest(directory, state.put_segment.load(Ordering::Acquire));
    // DEATH of a producer that was adding a segment, with nobody after it to settle that.
    let pending = state.pending.load(Ordering::Acquire);
    if pending != 0 && shm::generation(pending) == state.pending_generation.load(Ordering::Relaxed) {
        free_segment(directory, pending);
    }
    for word in [&state.get_segment, &state.put_segment, &state.pending, &state.retired] {
        word.store(0, Ordering::Release);
    }
}

/// A walk over the records of a ring that nobody uses any more, freeing the segments behind it.
struct Walk {
    segment: u32,
    position: u32,
}

impl Walk {
    fn next(&mut self, directory: &Directory) -> Option<(Vec<u32>, Vec<Handle>)> {
        loop {
            let segment = Segment::of(self.segment).ok()?;
            let position = segment.normal(self.position);
            let record = segment.read_head(position);
            match record.kind {
                WRAP => self.position = position.wrapping_add(segment.to_end(position)),
                LINK => {
                    let old = self.segment;
                    self.segment = record.length;
                    self.position = Segment::of(record.length).ok()?.base;
                    free_segment(directory, old);
                }
                _ if record.units() > segment.to_end(position) => return None,
                _ => {
                    self.position = position.wrapping_add(record.units());
                    // SAFETY: the record's units lie within the segment, as checked.
                    return Some(unsafe { names(segment.at(position), record) });
                }
            }
        }
    }

    fn drop_rest(&mut self, directory: &Directory, last: u32) {
        if self.segment != 0 {
            free_segment(directory, self.segment);
        }
        if last != 0 && last != self.segment {
            free_segment(directory, last);
        }
    }
}

fn free_segment(directory: &Directory, index: u32) {
    if is_block(index) {
        shm::unpin(directory, Handle { cell: index, generation: shm::generation(index) });
    }
}

//! Segments and records: the bytes of a ring, as they lie in a block.
//!
//! Nothing here trusts what it reads: a place is brought into its segment, a size is checked before it is used, and what is
//! looked at was copied out first.

use crate::channel::parcel::{Body, Envelope, INLINE_MAX};
use crate::shm::{self, Handle, Kind, Lease};
use crate::{Error, Result};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub(super) const UNIT: usize = 8;
pub(super) const SEGMENT_HEAD: usize = 64;

/// A record that fills the end of a segment.
pub(super) const WRAP: u8 = 254;
/// A record that names the next segment.
pub(super) const LINK: u8 = 255;
/// The first block of a record is its body.
pub(super) const BODY_IN_BLOCK: u8 = 1;
/// The last of the blocks names the objects whose handles stand in the message.
pub(super) const NAMES_IN_BLOCK: u8 = 2;

/// A segment as this process sees it.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    pub(super) data: *mut u8,
    pub(super) base: u32,
    pub(super) units: u32,
}

impl Segment {
    /// The segment in a block; an error if the block is none.
    pub(super) fn of(index: u32) -> Result<Segment> {
        let damaged = |detail| Error::Damaged { what: "queue", detail };
        if shm::cell(index).kind() != Kind::Block {
            return Err(damaged("a segment is not a block"));
        }
        let (start, reserved) = shm::place(index).ok_or(damaged("a segment lies outside"))?;
        if reserved < (SEGMENT_HEAD + UNIT) as u64 {
            return Err(damaged("a segment is too small"));
        }
        // SAFETY: the block has at least a head's bytes, aligned to a page.
        let (base, units) = unsafe {
            let head = &*start.cast::<[AtomicU32; 2]>();
            (head[0].load(Ordering::Relaxed), head[1].load(Ordering::Relaxed))
        };
        if !units.is_power_of_two() || SEGMENT_HEAD as u64 + u64::from(units) * UNIT as u64 > reserved {
            return Err(damaged("a segment's size makes no sense"));
        }
        // SAFETY: within the block, as checked.
        Ok(Segment { data: unsafe { start.add(SEGMENT_HEAD) }, base, units })
    }

    /// Writes the head of a new segment.
    pub(super) fn found(start: *mut u8, base: u32, units: u32) {
        // SAFETY: the caller has a fresh block of at least that size.
        unsafe {
            let head = &*start.cast::<[AtomicU32; 2]>();
            head[0].store(base, Ordering::Relaxed);
            head[1].store(units, Ordering::Relaxed);
        }
    }

    /// A position that lies before the segment means its beginning.
    #[inline]
    pub(super) fn normal(&self, position: u32) -> u32 {
        if (position.wrapping_sub(self.base) as i32) < 0 { self.base } else { position }
    }

    /// The offset of a position, in units; always within the segment.
    #[inline]
    pub(super) fn offset(&self, position: u32) -> u32 {
        position.wrapping_sub(self.base) & (self.units - 1)
    }

    /// The units from here to the end.
    #[inline]
    pub(super) fn to_end(self, position: u32) -> u32 {
        self.units - self.offset(position)
    }

    #[inline]
    pub(super) fn at(&self, position: u32) -> *mut u8 {
        // SAFETY: an offset lies within the segment.
        unsafe { self.data.add(self.offset(position) as usize * UNIT) }
    }

    pub(super) fn read_head(&self, position: u32) -> RecordHead {
        // SAFETY: a unit lies at every position; any 8 bytes are a valid u64, and peers write them as one.
        RecordHead::of(unsafe { &*self.at(position).cast::<AtomicU64>() }.load(Ordering::Relaxed))
    }

    pub(super) fn write_head(&self, position: u32, head: RecordHead) {
        // SAFETY: as above.
        unsafe { &*self.at(position).cast::<AtomicU64>() }.store(head.bits(), Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct RecordHead {
    pub(super) length: u32,
    pub(super) kind: u8,
    pub(super) blocks: u8,
    pub(super) flags: u8,
}

impl RecordHead {
    pub(super) fn of(bits: u64) -> RecordHead {
        let [a, b, c, d, kind, blocks, flags, _] = bits.to_le_bytes();
        RecordHead { length: u32::from_le_bytes([a, b, c, d]), kind, blocks, flags }
    }

    pub(super) fn bits(self) -> u64 {
        let [a, b, c, d] = self.length.to_le_bytes();
        u64::from_le_bytes([a, b, c, d, self.kind, self.blocks, self.flags, 0])
    }

    pub(super) fn units(self) -> u32 {
        let bytes = UNIT + usize::from(self.blocks) * 16 + (self.length as usize).min(2 * INLINE_MAX);
        bytes.div_ceil(UNIT) as u32
    }
}

/// Reads a record into the envelope. The blocks are held afterwards. Under the get lock.
pub(super) fn read(segment: Segment, position: u32, record: RecordHead, envelope: &mut Envelope) -> Result<()> {
    let length = record.length as usize;
    if length > INLINE_MAX {
        return Err(Error::Damaged { what: "queue", detail: "a record is longer than any may be" });
    }
    envelope.kind = record.kind;
    // SAFETY: the caller has checked that the record's units lie within the segment. Peers may write there at any time, so
    // everything is copied out by value before it is looked at.
    unsafe {
        let mut at = segment.at(position).add(UNIT);
        for number in 0..record.blocks {
            let cell = at.cast::<u32>().read_volatile();
            let generation = at.add(4).cast::<u32>().read_volatile();
            let length = at.add(8).cast::<u64>().read_volatile();
            let lease = Lease::receive(Handle { cell, generation }, length)?;
            if number == 0 && record.flags & BODY_IN_BLOCK != 0 {
                envelope.body = Body::Block(lease);
            } else if number + 1 == record.blocks && record.flags & NAMES_IN_BLOCK != 0 {
                envelope.names = Some(lease);
            } else {
                envelope.buffers.push(lease);
            }
            at = at.add(16);
        }
        envelope.inline.reserve(length);
        std::ptr::copy_nonoverlapping(at, envelope.inline.as_mut_ptr(), length);
        envelope.inline.set_len(length);
    }
    Ok(())
}

/// The blocks that a record names.
///
/// # Safety
/// The record must lie wholly in its segment.
pub(super) unsafe fn blocks(start: *const u8, record: RecordHead) -> Vec<u32> {
    let mut blocks = Vec::with_capacity(record.blocks.into());
    // SAFETY: the caller vouches for the range.
    unsafe {
        let mut at = start.add(UNIT);
        for _ in 0..record.blocks {
            blocks.push(at.cast::<u32>().read_volatile());
            at = at.add(16);
        }
    }
    blocks
}

//! Memory that several processes see at the same time: a block that every holder reads and writes in its place.
//!
//! Unlike a [`Lease`](super::Lease) it is nobody's own, and a fork shares it. It lives as long as a process holds it, or a
//! message names it.
//!
//! DEATH of a holder: the sweep clears its holding, and the last one to go gives the block back. What was half written stays
//! so; the bytes are the users'.

use super::block::{BlockState, allocate, populate};
use super::directory::{HELD, Handle, Hold, Kind};
use super::layout::{CLASSES, GRAIN};
use super::session::known;
use crate::{Error, Result};
use std::sync::atomic::Ordering;

/// Memory that several processes read and write at the same time: the ground of shared values and arrays.
#[derive(Debug)]
pub struct Memory {
    hold: Hold,
    address: *mut u8,
    length: usize,
}

// SAFETY: all access goes through the raw pointer, whose users answer for it.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// New memory of `length` bytes, all zero.
    pub fn allocate(length: usize) -> Result<Memory> {
        let memory = Memory::uninitialised(length)?;
        // SAFETY: the range is ours and nobody else knows of it yet.
        unsafe { std::ptr::write_bytes(memory.address, 0, length) };
        Ok(memory)
    }

    /// New memory of `length` bytes, whose contents are not defined.
    pub fn uninitialised(length: usize) -> Result<Memory> {
        let (handle, _) = allocate(length as u64, HELD)?;
        let memory = Memory::from_handle(handle)?;
        populate(handle.cell, memory.address, length);
        Ok(memory)
    }

    /// The memory of a handle.
    ///
    /// # Errors
    /// [`Error::Stale`] if it is gone.
    pub fn from_handle(handle: Handle) -> Result<Memory> {
        let hold = Hold::take(handle, Kind::Block)?;
        let block = hold.state::<BlockState>();
        block.shared.store(1, Ordering::Release);
        let (offset, length) = (block.offset.load(Ordering::Relaxed), block.length.load(Ordering::Relaxed));
        let damaged = Error::Damaged { what: "block", detail: "its place lies outside" };
        if length > GRAIN << (block.class.load(Ordering::Relaxed) as usize % CLASSES) {
            return Err(damaged);
        }
        let address = known().block(offset, length).ok_or(damaged)?;
        Ok(Memory { hold, address, length: length as usize })
    }

    /// The name under which other processes find it.
    pub fn handle(&self) -> Handle {
        self.hold.handle()
    }

    /// This process's hold on it.
    pub fn hold(&self) -> &Hold {
        &self.hold
    }

    /// Keeps the hold to this process: a child that is forked from now on does not have it, unless it takes hold itself.
    pub fn keep_to_ourselves(&self) {
        self.hold.keep_to_ourselves();
    }

    /// The first byte; peers may change any byte at any time.
    pub fn as_ptr(&self) -> *mut u8 {
        self.address
    }

    /// The size in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// True for memory of no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

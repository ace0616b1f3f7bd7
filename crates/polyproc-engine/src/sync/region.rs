//! Memory with a lock of its own, which whoever enters it finds whole: the ground of vectors and tables.
//!
//! What lies there changes by single stores, or by an intent that is written down first. So a region whose last owner died has
//! nothing half done that could not be finished, or passed over; whoever enters next does that, and nobody need be told.

use super::{Acquired, Lock};
use crate::shm::{Handle, Hold, Memory};
use crate::sys::clock::Deadline;
use crate::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// The memory, and its lock.
#[derive(Clone, Debug)]
pub(super) struct Region {
    lock: Lock,
    memory: Arc<Memory>,
}

/// The lock is held.
pub(super) struct Inside<'a>(&'a Region);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        // The only failure is that nobody holds it: somebody has made the lock free behind our back.
        let _ = self.0.lock.release();
    }
}

impl Region {
    /// So many bytes, all zero.
    pub(super) fn new(bytes: usize) -> Result<Region> {
        Ok(Region { lock: Lock::new()?, memory: Memory::allocate(bytes)?.into() })
    }

    pub(super) fn from_handles(lock: Handle, memory: Handle) -> Result<Region> {
        Ok(Region { lock: Lock::from_handle(lock)?, memory: Memory::from_handle(memory)?.into() })
    }

    /// This process's holds on it.
    pub(super) fn holds(&self) -> [&Hold; 2] {
        [self.lock.hold(), self.memory.hold()]
    }

    pub(super) fn len(&self) -> usize {
        self.memory.len()
    }

    /// Takes the lock; `repair` runs under it if its last owner died.
    pub(super) fn enter(&self, repair: impl FnOnce()) -> Inside<'_> {
        let acquired = loop {
            match self.lock.acquire(Deadline::Never) {
                Ok(acquired) => break acquired,
                Err(_) => continue,
            }
        };
        let inside = Inside(self);
        if matches!(acquired, Acquired::HolderDied { .. }) {
            repair();
        }
        inside
    }

    /// A place of `length` bytes; it must lie within.
    #[inline]
    pub(super) fn at(&self, offset: usize, length: usize) -> *mut u8 {
        assert!(offset.checked_add(length).is_some_and(|end| end <= self.len()), "outside of a shared region");
        // SAFETY: checked: it lies within the memory.
        unsafe { self.memory.as_ptr().add(offset) }
    }

    /// A word, at a multiple of 8.
    #[inline]
    pub(super) fn word(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset.is_multiple_of(8));
        // SAFETY: it lies within the memory, which begins with a page, and is used as an atomic by all.
        unsafe { &*self.at(offset, 8).cast::<AtomicU64>() }
    }

    /// Half a word, at a multiple of 4.
    #[inline]
    pub(super) fn half(&self, offset: usize) -> &AtomicU32 {
        debug_assert!(offset.is_multiple_of(4));
        // SAFETY: as above.
        unsafe { &*self.at(offset, 4).cast::<AtomicU32>() }
    }

    /// Copies bytes out. Under the lock, or the copy may be a mixture.
    #[inline]
    pub(super) fn read(&self, offset: usize, bytes: &mut [u8]) {
        // SAFETY: the place has so many bytes; the slice is this process's own.
        unsafe { std::ptr::copy_nonoverlapping(self.at(offset, bytes.len()), bytes.as_mut_ptr(), bytes.len()) };
    }

    /// Copies bytes in, to a place that nobody reads yet, or that an intent covers.
    #[inline]
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(offset, bytes.len()), bytes.len()) };
    }

    /// Copies bytes from one place to another, which do not overlap.
    #[inline]
    pub(super) fn copy(&self, from: usize, to: usize, length: usize) {
        // SAFETY: both lie within; elements of a vector, and its scratch place, do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(self.at(from, length), self.at(to, length), length) };
    }
}

/// The size of all parts together, or the error of one that is too large.
pub(super) fn total(parts: &[(usize, usize)]) -> Result<usize> {
    let sum = parts.iter().try_fold(0usize, |sum, (count, size)| sum.checked_add(count.checked_mul(*size)?));
    sum.filter(|sum| *sum <= isize::MAX as usize)
        .ok_or(Error::TooLarge { size: u64::MAX, limit: crate::shm::MAX_BLOCK })
}

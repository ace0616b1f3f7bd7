//! A vector in shared memory, of elements of one size, that is whole whoever dies.
//!
//! ```text
//!  ┌──────────────┬──────┬─────────────────────────┬─────────┬────────────────────────────────────┐
//!  │ size, most   │ len  │ intent, index,          │ scratch │ element 0 │ element 1 │ …  │ most-1 │
//!  │              │      │ cursor, length to be    │         │           │           │    │        │
//!  └──────────────┴──────┴─────────────────────────┴─────────┴────────────────────────────────────┘
//! ```
//!
//! What is added lies beyond the end until one store moves the end; what is taken from the end goes by one store. All else is
//! written down first: where, with which value (in the scratch place), how long the vector will be; one store, `intent`, says
//! that it counts. An insertion or removal moves one element at a time, and `cursor` says how far it has come: to move the
//! element at the cursor twice changes nothing, as what it is moved from is left alone until the cursor has passed it.
//!
//! DEATH before the store: nothing happened. After it: whoever enters next finishes it.

use super::region::{Inside, Region, total};
use crate::shm::{Handle, Hold};
use crate::{Error, Result, fault};
use std::sync::atomic::Ordering;

const SIZE: usize = 0;
const MOST: usize = 8;
const LEN: usize = 16;
const INTENT: usize = 24;
const INDEX: usize = 32;
const CURSOR: usize = 40;
const NEW_LEN: usize = 48;
const SCRATCH: usize = 64;

const REPLACE: u64 = 1;
const INSERT: u64 = 2;
const REMOVE: u64 = 3;

/// A vector between processes. Its elements are bytes, each of the size that it was made for.
///
/// # Examples
/// ```
/// use polyproc_engine::sync::Vector;
/// let vector = Vector::new(2, 10)?;
/// let mut inside = vector.enter();
/// inside.push(&[1, 1])?;
/// inside.insert(0, &[2, 2])?;
/// let mut element = [0; 2];
/// assert!(inside.get(1, &mut element));
/// assert_eq!((inside.len(), element), (2, [1, 1]));
/// # Ok::<(), polyproc_engine::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Vector {
    region: Region,
    size: usize,
    most: usize,
}

/// A vector whose lock is held.
pub struct InVector<'a> {
    vector: &'a Vector,
    _inside: Inside<'a>,
}

impl Vector {
    /// A vector with no elements, and room for `most` of `size` bytes.
    ///
    /// # Errors
    /// [`Error::BudgetExhausted`], [`Error::TooLarge`].
    pub fn new(size: usize, most: usize) -> Result<Vector> {
        let scratch = size.next_multiple_of(8);
        let region = Region::new(total(&[(1, SCRATCH), (1, scratch), (most, size)])?)?;
        region.word(SIZE).store(size as u64, Ordering::Relaxed);
        region.word(MOST).store(most as u64, Ordering::Relaxed);
        Ok(Vector { region, size, most })
    }

    /// The vector of these handles; `size` must be that of its elements.
    pub fn from_handles(lock: Handle, memory: Handle, size: usize) -> Result<Vector> {
        let damaged = |detail| Error::Damaged { what: "vector", detail };
        let region = Region::from_handles(lock, memory)?;
        if region.len() < SCRATCH || region.word(SIZE).load(Ordering::Relaxed) != size as u64 {
            return Err(damaged("its elements are of another size than their type"));
        }
        let most = region.word(MOST).load(Ordering::Relaxed) as usize;
        if total(&[(1, SCRATCH), (1, size.next_multiple_of(8)), (most, size)])? != region.len() {
            return Err(damaged("its memory is of another size than it says"));
        }
        Ok(Vector { region, size, most })
    }

    /// This process's holds on it: on its lock, and on its memory.
    pub fn holds(&self) -> [&Hold; 2] {
        self.region.holds()
    }

    /// How many elements it has room for.
    pub fn most(&self) -> usize {
        self.most
    }

    /// How many elements it has at this moment.
    pub fn len(&self) -> usize {
        (self.region.word(LEN).load(Ordering::Acquire) as usize).min(self.most)
    }

    /// True if it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes its lock. What a process that died inside had begun is done, or not, when this returns.
    pub fn enter(&self) -> InVector<'_> {
        InVector { vector: self, _inside: self.region.enter(|| self.finish()) }
    }

    fn place(&self, index: usize) -> usize {
        debug_assert!(index < self.most);
        SCRATCH + self.size.next_multiple_of(8) + index * self.size
    }

    fn load(&self, offset: usize) -> usize {
        self.region.word(offset).load(Ordering::Relaxed) as usize
    }

    fn store(&self, offset: usize, value: usize) {
        self.region.word(offset).store(value as u64, Ordering::Relaxed);
    }

    /// Does what stands in the intent, from where it has come to, and takes it back.
    fn finish(&self) {
        let intent = self.region.word(INTENT);
        let (index, new_len) = (self.load(INDEX), self.load(NEW_LEN));
        let what = intent.load(Ordering::Acquire);
        if what != 0 && index < self.most && new_len <= self.most {
            match what {
                INSERT => {
                    for cursor in (index + 1..=self.load(CURSOR).min(self.most - 1)).rev() {
                        self.region.copy(self.place(cursor - 1), self.place(cursor), self.size);
                        // ORDER: Release: the element is there before the cursor says so. Only a later owner of the lock reads it.
                        self.region.word(CURSOR).store(cursor as u64 - 1, Ordering::Release);
                        fault!("vector.moved");
                    }
                    self.region.copy(SCRATCH, self.place(index), self.size);
                }
                REMOVE => {
                    for cursor in self.load(CURSOR).max(index)..new_len {
                        self.region.copy(self.place(cursor + 1), self.place(cursor), self.size);
                        self.region.word(CURSOR).store(cursor as u64 + 1, Ordering::Release);
                        fault!("vector.moved");
                    }
                }
                _ => self.region.copy(SCRATCH, self.place(index), self.size),
            }
            self.region.word(LEN).store(new_len as u64, Ordering::Release);
            fault!("vector.applied");
        }
        intent.store(0, Ordering::Release);
    }
}

impl InVector<'_> {
    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.vector.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the elements from `index` on into `elements`, which has room for a number of whole ones. False if there are not
    /// so many.
    pub fn get(&self, index: usize, elements: &mut [u8]) -> bool {
        let count = elements.len() / self.vector.size.max(1);
        let there = index.checked_add(count).is_some_and(|end| end <= self.len());
        if there && count > 0 {
            self.vector.region.read(self.vector.place(index), elements);
        }
        there
    }

    /// Adds elements at the end, all or none: a number of whole ones.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub fn push(&mut self, elements: &[u8]) -> Result<()> {
        let (vector, len) = (self.vector, self.len());
        let count = elements.len() / vector.size.max(1);
        if count > vector.most - len {
            return Err(self.full());
        }
        if count > 0 {
            vector.region.write(vector.place(len), elements);
            fault!("vector.written");
            // ORDER: Release: who sees the length sees the elements. The store that commits.
            vector.region.word(LEN).store((len + count) as u64, Ordering::Release);
            fault!("vector.grown");
        }
        Ok(())
    }

    /// Forgets all elements but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len() {
            self.vector.region.word(LEN).store(len as u64, Ordering::Release);
        }
    }

    /// Takes the last element out. False if there is none.
    pub fn pop(&mut self, element: &mut [u8]) -> bool {
        let Some(last) = self.len().checked_sub(1) else { return false };
        self.get(last, element);
        self.truncate(last);
        true
    }

    /// Replaces an element. False if there is none.
    pub fn set(&mut self, index: usize, element: &[u8]) -> bool {
        let len = self.len();
        if index < len {
            self.vector.region.write(SCRATCH, element);
            self.intend(REPLACE, index, 0, len);
        }
        index < len
    }

    /// Puts an element before that at `index`, or at the end.
    ///
    /// # Errors
    /// [`Error::Full`]; also if there are fewer elements than `index`: the caller looks at the length first.
    pub fn insert(&mut self, index: usize, element: &[u8]) -> Result<()> {
        let len = self.len();
        if len == self.vector.most || index > len {
            return Err(self.full());
        }
        self.vector.region.write(SCRATCH, element);
        self.intend(INSERT, index, len, len + 1);
        Ok(())
    }

    /// Takes an element out; those behind it move up. False if there is none.
    pub fn remove(&mut self, index: usize, element: &mut [u8]) -> bool {
        let there = self.get(index, element);
        if there {
            self.intend(REMOVE, index, index, self.len() - 1);
        }
        there
    }

    /// Takes an element out; the last one takes its place. False if there is none.
    pub fn swap_remove(&mut self, index: usize, element: &mut [u8]) -> bool {
        let there = self.get(index, element);
        if there {
            let last = self.len() - 1;
            self.vector.region.copy(self.vector.place(last), SCRATCH, self.vector.size);
            self.intend(REPLACE, index, 0, last);
        }
        there
    }

    fn intend(&mut self, what: u64, index: usize, cursor: usize, new_len: usize) {
        let vector = self.vector;
        vector.store(INDEX, index);
        vector.store(CURSOR, cursor);
        vector.store(NEW_LEN, new_len);
        fault!("vector.written");
        // ORDER: Release: who sees the intent sees what it says. The store that commits.
        vector.region.word(INTENT).store(what, Ordering::Release);
        fault!("vector.intended");
        vector.finish();
    }

    fn full(&self) -> Error {
        Error::Full { what: "vector", most: self.vector.most as u64 }
    }
}

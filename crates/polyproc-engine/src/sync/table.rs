//! A hash table in shared memory, of keys and values of one size each, that is whole whoever dies.
//!
//! ```text
//!  ┌─────────────────────┬───────────┬───────────────────┬──────────────────────────────────────────────┐
//!  │ sizes, most, buckets│ len, free │ heads of chains   │ entries 1 … most+1                           │
//!  │                     │           │ one a bucket      │ next │ hash │ key │ value                    │
//!  └─────────────────────┴───────────┴───────────────────┴──────────────────────────────────────────────┘
//! ```
//!
//! An entry is written while it is in no chain; one store of a link puts it in. A value is replaced by a new entry in the old
//! one's place, which the same store takes out (so there is one entry more than keys). A key goes by one store of the link
//! before it. The number of keys and the list of free entries follow after.
//!
//! DEATH before the store: nothing happened. After it: it is done; whoever enters next counts the keys, and finds the entries
//! that are in no chain.
//!
//! Keys are compared, and hashed, as bytes: S. Vigna's mixing of MurmurHash3's finaliser, eight bytes at a time.

use super::region::{Inside, Region, total};
use crate::shm::{Handle, Hold};
use crate::{Error, Result, fault};
use std::sync::atomic::Ordering;

const KEY: usize = 0;
const VALUE: usize = 8;
const MOST: usize = 16;
const BUCKETS: usize = 24;
const LEN: usize = 32;
const FREE: usize = 40;
const HEADS: usize = 64;
/// In an entry, before the key: the next entry, and the key's hash.
const ENTRY_HEAD: usize = 8;

/// A hash table between processes. Keys and values are bytes, each of the size that it was made for.
///
/// # Examples
/// ```
/// use polyproc_engine::sync::Table;
/// let table = Table::new(2, 1, 100)?;
/// let mut inside = table.enter();
/// let mut value = [0];
/// assert!(!inside.insert(b"ab", &[7], &mut value)?);
/// assert!(inside.get(b"ab", &mut value));
/// assert_eq!((inside.len(), value), (1, [7]));
/// # Ok::<(), polyproc_engine::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Table {
    region: Region,
    key: usize,
    value: usize,
    most: usize,
    buckets: usize,
}

/// A table whose lock is held.
pub struct InTable<'a> {
    table: &'a Table,
    _inside: Inside<'a>,
}

/// Where an entry is named, and which it is: 0 for none.
struct Found {
    link: usize,
    entry: usize,
    hash: u32,
}

fn stride(key: usize, value: usize) -> Option<usize> {
    key.checked_add(value)?.checked_add(ENTRY_HEAD)?.checked_next_multiple_of(8)
}

fn size_of_all(key: usize, value: usize, most: usize, buckets: usize) -> Result<usize> {
    let stride = stride(key, value).ok_or(Error::TooLarge { size: u64::MAX, limit: crate::shm::MAX_BLOCK })?;
    total(&[(1, HEADS), (buckets, 4), (1, 8), (most, stride), (1, stride)])
}

fn hash_of(key: &[u8]) -> u32 {
    let mut hash = key.len() as u64;
    for part in key.chunks(8) {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash ^= hash >> 27;
        hash = hash.wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
    }
    hash as u32
}

impl Table {
    /// The most keys that a table can have room for.
    pub const MAX: usize = 1 << 28;

    /// A table with no keys, and room for `most`, of these sizes in bytes.
    ///
    /// # Errors
    /// [`Error::BudgetExhausted`], [`Error::TooLarge`].
    pub fn new(key: usize, value: usize, most: usize) -> Result<Table> {
        if most > Table::MAX {
            return Err(Error::TooLarge { size: most as u64, limit: Table::MAX as u64 });
        }
        let buckets = (most + most / 3).next_power_of_two().max(8);
        let region = Region::new(size_of_all(key, value, most, buckets)?)?;
        for (offset, number) in [(KEY, key), (VALUE, value), (MOST, most), (BUCKETS, buckets)] {
            region.word(offset).store(number as u64, Ordering::Relaxed);
        }
        let table = Table { region, key, value, most, buckets };
        table.rebuild();
        Ok(table)
    }

    /// The table of these handles; the sizes must be its own.
    pub fn from_handles(lock: Handle, memory: Handle, key: usize, value: usize) -> Result<Table> {
        let damaged = |detail| Error::Damaged { what: "table", detail };
        let region = Region::from_handles(lock, memory)?;
        let number = |offset| region.word(offset).load(Ordering::Relaxed) as usize;
        if region.len() < HEADS || number(KEY) != key || number(VALUE) != value {
            return Err(damaged("its keys or values are of another size than their type"));
        }
        let (most, buckets) = (number(MOST), number(BUCKETS));
        if most > Table::MAX || !buckets.is_power_of_two() || size_of_all(key, value, most, buckets)? != region.len() {
            return Err(damaged("its memory is of another size than it says"));
        }
        Ok(Table { region, key, value, most, buckets })
    }

    /// This process's holds on it: on its lock, and on its memory.
    pub fn holds(&self) -> [&Hold; 2] {
        self.region.holds()
    }

    /// How many keys it has room for.
    pub fn most(&self) -> usize {
        self.most
    }

    /// How many keys it has at this moment.
    pub fn len(&self) -> usize {
        self.region.word(LEN).load(Ordering::Acquire) as usize
    }

    /// True if it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes its lock. What a process that died inside had begun is done, or not, when this returns.
    pub fn enter(&self) -> InTable<'_> {
        InTable { table: self, _inside: self.region.enter(|| self.rebuild()) }
    }

    fn head(&self, bucket: usize) -> usize {
        HEADS + bucket * 4
    }

    fn place(&self, entry: usize) -> usize {
        let entries = (HEADS + self.buckets * 4).next_multiple_of(8);
        entries + (entry - 1) * (self.key + self.value + ENTRY_HEAD).next_multiple_of(8)
    }

    /// The entry that a link names; 0 if it names none, or one that there is not.
    fn follow(&self, link: usize) -> usize {
        let entry = self.region.half(link).load(Ordering::Acquire) as usize;
        if entry <= self.most + 1 { entry } else { 0 }
    }

    fn find(&self, key: &[u8]) -> Found {
        let hash = hash_of(key);
        let mut found = Found { link: self.head(hash as usize & (self.buckets - 1)), entry: 0, hash };
        // A chain that goes round in a circle was written over by somebody.
        for _ in 0..=self.most {
            let entry = self.follow(found.link);
            if entry == 0 || self.is(entry, hash, key) {
                found.entry = entry;
                break;
            }
            found.link = self.place(entry);
        }
        found
    }

    fn is(&self, entry: usize, hash: u32, key: &[u8]) -> bool {
        let place = self.place(entry);
        if self.region.half(place + 4).load(Ordering::Relaxed) != hash {
            return false;
        }
        let mut piece = [0; 32];
        key.chunks(32).enumerate().all(|(number, part)| {
            let there = &mut piece[..part.len()];
            self.region.read(place + ENTRY_HEAD + number * 32, there);
            there == part
        })
    }

    /// Every entry that is in a chain.
    fn each(&self, mut visit: impl FnMut(usize)) {
        let mut left = self.most + 1;
        for bucket in 0..self.buckets {
            let mut entry = self.follow(self.head(bucket));
            while entry != 0 && left > 0 {
                left -= 1;
                visit(entry);
                entry = self.follow(self.place(entry));
            }
        }
    }

    /// Counts the keys, and makes the list of free entries anew.
    fn rebuild(&self) {
        let mut used = vec![false; self.most + 2];
        let mut count = 0;
        self.each(|entry| {
            used[entry] = true;
            count += 1;
        });
        let mut free = 0;
        for entry in (1..=self.most + 1).rev().filter(|entry| !used[*entry]) {
            self.region.half(self.place(entry)).store(free, Ordering::Relaxed);
            free = entry as u32;
        }
        self.region.half(FREE).store(free, Ordering::Relaxed);
        self.region.word(LEN).store(count, Ordering::Release);
    }

    fn give_free(&self, entry: usize) {
        let free = self.region.half(FREE).load(Ordering::Relaxed);
        self.region.half(self.place(entry)).store(free, Ordering::Relaxed);
        self.region.half(FREE).store(entry as u32, Ordering::Relaxed);
    }

    fn count(&self, change: i64) {
        let len = self.region.word(LEN);
        len.store(len.load(Ordering::Relaxed).saturating_add_signed(change), Ordering::Release);
    }
}

impl InTable<'_> {
    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the value of a key. False if there is none.
    pub fn get(&self, key: &[u8], value: &mut [u8]) -> bool {
        let entry = self.table.find(key).entry;
        if entry != 0 {
            self.read_value(entry, value);
        }
        entry != 0
    }

    fn read_value(&self, entry: usize, value: &mut [u8]) {
        self.table.region.read(self.table.place(entry) + ENTRY_HEAD + self.table.key, value);
    }

    /// Sets the value of a key. True if it had one, which is copied to `before`.
    ///
    /// # Errors
    /// [`Error::Full`] if the key is new and there is no room for it.
    pub fn insert(&mut self, key: &[u8], value: &[u8], before: &mut [u8]) -> Result<bool> {
        let table = self.table;
        let found = table.find(key);
        let fresh = table.follow(FREE);
        if fresh == 0 || (found.entry == 0 && table.len() >= table.most) {
            return Err(Error::Full { what: "map", most: table.most as u64 });
        }
        let place = table.place(fresh);
        let after_fresh = table.follow(place) as u32;
        let next = if found.entry == 0 { 0 } else { table.follow(table.place(found.entry)) };
        table.region.half(FREE).store(after_fresh, Ordering::Relaxed);
        table.region.half(place).store(next as u32, Ordering::Relaxed);
        table.region.half(place + 4).store(found.hash, Ordering::Relaxed);
        table.region.write(place + ENTRY_HEAD, key);
        table.region.write(place + ENTRY_HEAD + table.key, value);
        if found.entry != 0 {
            self.read_value(found.entry, before);
        }
        fault!("table.written");
        // ORDER: Release: who follows the link sees the entry. The store that commits.
        table.region.half(found.link).store(fresh as u32, Ordering::Release);
        fault!("table.linked");
        if found.entry == 0 {
            table.count(1);
        } else {
            table.give_free(found.entry);
        }
        Ok(found.entry != 0)
    }

    /// Takes a key out. True if there was one, whose value is copied to `value`.
    pub fn remove(&mut self, key: &[u8], value: &mut [u8]) -> bool {
        let table = self.table;
        let found = table.find(key);
        if found.entry == 0 {
            return false;
        }
        self.read_value(found.entry, value);
        let next = table.follow(table.place(found.entry)) as u32;
        // The store that commits.
        table.region.half(found.link).store(next, Ordering::Release);
        fault!("table.unlinked");
        table.give_free(found.entry);
        table.count(-1);
        true
    }

    /// Takes all keys out. DEATH leaves some of them.
    pub fn clear(&mut self) {
        for bucket in 0..self.table.buckets {
            self.table.region.half(self.table.head(bucket)).store(0, Ordering::Release);
        }
        self.table.rebuild();
    }

    /// Shows every key with its value, in no order.
    pub fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        let (mut key, mut value) = (vec![0; self.table.key], vec![0; self.table.value]);
        self.table.each(|entry| {
            self.table.region.read(self.table.place(entry) + ENTRY_HEAD, &mut key);
            self.read_value(entry, &mut value);
            visit(&key, &value);
        });
    }
}

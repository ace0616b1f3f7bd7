//! What processes have done, written down where their death does not erase it.

use polyproc_engine::shm::Memory;
use std::sync::atomic::{AtomicU64, Ordering};

/// A row of numbers that all forks of its maker share. It lives as long as the program.
#[derive(Clone, Copy, Debug)]
pub struct Ledger {
    words: &'static [AtomicU64],
}

impl Ledger {
    /// A ledger of `length` numbers, all zero.
    pub fn new(length: usize) -> Ledger {
        let memory = Box::leak(Box::new(Memory::allocate(length * 8).expect("memory for the ledger")));
        // SAFETY: the memory has `length` words, aligned to a page, and is leaked; all access is atomic.
        Ledger { words: unsafe { std::slice::from_raw_parts(memory.as_ptr().cast(), length) } }
    }

    /// A part of it.
    pub fn part(self, from: usize, length: usize) -> Ledger {
        Ledger { words: &self.words[from..from + length] }
    }

    /// One number.
    pub fn at(self, index: usize) -> &'static AtomicU64 {
        &self.words[index]
    }

    /// The value of a number.
    pub fn get(self, index: usize) -> u64 {
        self.words[index].load(Ordering::SeqCst)
    }

    /// Sets a number.
    pub fn set(self, index: usize, value: u64) {
        self.words[index].store(value, Ordering::SeqCst);
    }

    /// Adds to a number and gives what it was before.
    pub fn add(self, index: usize, value: u64) -> u64 {
        self.words[index].fetch_add(value, Ordering::SeqCst)
    }

    /// Makes all numbers zero.
    pub fn clear(self) {
        for word in self.words {
            word.store(0, Ordering::SeqCst);
        }
    }

    /// How many numbers it has.
    pub fn len(self) -> usize {
        self.words.len()
    }

    /// True if it has none.
    pub fn is_empty(self) -> bool {
        self.words.is_empty()
    }

    /// The numbers.
    pub fn words(self) -> &'static [AtomicU64] {
        self.words
    }
}

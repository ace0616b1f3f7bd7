//! A few words that change together or not at all, whoever dies.
//!
//! Some objects need several words to change as one: a semaphore's value and what its owner holds, a condition's waiters and
//! its permits. They lie in a monitor: a lock word, the words, and an **intent record**.
//!
//! ```text
//!  take the lock ─▶ write the new values into the intent ─▶ intent.by = me ─▶ copy them to the words ─▶ intent.by = 0 ─▶ release
//!                                                           ▲ the one store that commits
//! ```
//!
//! DEATH before that store: nothing happened. After it: whoever takes the lock next finds it abandoned and copies the intent
//! once more; the values are absolute, so copying twice changes nothing.
//!
//! One of the words is not here but in the changing process's row of the directory: its *count* (permits that it took,
//! waiters that it has). So the sweep knows what the dead had taken.

use crate::shm::{self, Participant, Taken};
use crate::sys::clock::Deadline;
use crate::{fault, shm::HELD};
use std::sync::atomic::{AtomicU32, Ordering};

const COUNT: u32 = (1 << 30) - 1;

/// | field | written by | under |
/// | --- | --- | --- |
/// | lock | see [`crate::shm`] | |
/// | words, intent, count | whoever changes them | lock |
/// | by | the same; zero when the words are as they should be | lock |
/// | signal | sleepers and changers, see [`super::signal`] | |
#[repr(C)]
pub(crate) struct Monitor<const N: usize> {
    lock: AtomicU32,
    by: AtomicU32,
    count: AtomicU32,
    pub(crate) signal: AtomicU32,
    words: [AtomicU32; N],
    intent: [AtomicU32; N],
}

impl<const N: usize> Monitor<N> {
    /// Sets the words of a monitor that nobody else has yet.
    pub(crate) fn prepare(&self, words: [u32; N]) {
        for (word, value) in self.words.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// One word, as it is at this moment.
    pub(crate) fn peek(&self, index: usize) -> u32 {
        self.words[index].load(Ordering::SeqCst)
    }

    /// Changes the words and this process's count as one. What `change` gives back is given back.
    pub(crate) fn change<R>(&self, cell: u32, change: impl FnOnce(&mut [u32; N], &mut u32) -> R) -> R {
        self.change_as(cell, shm::me(), change)
    }

    fn change_as<R>(&self, cell: u32, who: Participant, change: impl FnOnce(&mut [u32; N], &mut u32) -> R) -> R {
        let me = shm::me();
        loop {
            let look_after = |owner| shm::look_after_owner(&self.lock, owner);
            match shm::take(&self.lock, me, Deadline::Never, &look_after) {
                Ok(Taken::Clean) => break,
                Ok(Taken::Abandoned) => {
                    self.copy_intent(cell);
                    break;
                }
                Err(_) => continue,
            }
        }
        fault!("monitor.locked");
        let row = shm::holding(who, cell);
        let old: [u32; N] = std::array::from_fn(|i| self.words[i].load(Ordering::Relaxed));
        let held = row.load(Ordering::Relaxed);
        let (mut new, mut count) = (old, held & COUNT);
        let result = change(&mut new, &mut count);
        if new != old || count != held & COUNT {
            for (word, value) in self.intent.iter().zip(new) {
                word.store(value, Ordering::Relaxed);
            }
            self.count.store((held & !COUNT) | (count & COUNT), Ordering::Relaxed);
            fault!("monitor.intent_written");
            // ORDER: Release: whoever sees `by` sees the intent.
            self.by.store(who.bits(), Ordering::Release);
            fault!("monitor.committed");
            self.copy_intent(cell);
        }
        shm::release(&self.lock);
        result
    }

    fn copy_intent(&self, cell: u32) {
        let by = Participant::from_bits(self.by.load(Ordering::Acquire));
        if by.is_nobody() {
            return;
        }
        for (word, intent) in self.words.iter().zip(&self.intent) {
            // ORDER: Release; a sleeper's second look is ordered by the fences of `super::signal`, not by this store.
            word.store(intent.load(Ordering::Relaxed), Ordering::Release);
            fault!("monitor.word_written");
        }
        shm::holding(by, cell).store(self.count.load(Ordering::Relaxed), Ordering::Release);
        fault!("monitor.applied");
        self.by.store(0, Ordering::Release);
    }

    /// Changes the words and the count of a dead participant, after finishing what it had begun.
    pub(crate) fn change_for_dead(&self, cell: u32, dead: Participant, change: impl FnOnce(&mut [u32; N], &mut u32)) {
        shm::take_from_dead(&self.lock, dead);
        self.change_as(cell, dead, change);
        super::signal::wake_all(&self.signal);
    }
}

const _: () = assert!(HELD & COUNT == 0);

//! The lock word and the sleeping protocol in loom: the same generic code, over a word of the model's and a futex of its own.
//!
//! In the model no sleep ever times out. So a wake that is lost, which a look once a second would heal, is a deadlock here.
//!
//! Death is a thread that stops for ever between two operations on the word ([`Mortal`]), at each of them in turn; another
//! one, which knows of it, then does what the sweep does.
//!
//! `make test-loom`, or
//! `RUSTFLAGS="--cfg loom" cargo test -p polyproc-engine --release --lib loom --target-dir target/loom`
#![allow(clippy::unwrap_used, reason = "tests")]

use super::signal;
use crate::Participant;
use crate::shm::{self, Taken};
use crate::sys::clock::Deadline;
use crate::sys::futex::{Woken, Word};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, fence};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::{self, Acquire, Release, SeqCst};

/// A word, and the kernel's queue of those who sleep on it.
struct ModelWord {
    value: AtomicU32,
    queue: Mutex<Queue>,
    woken: Condvar,
}

#[derive(Default)]
struct Queue {
    asleep: Vec<u32>,
    next: u32,
}

impl ModelWord {
    fn new() -> ModelWord {
        ModelWord { value: AtomicU32::new(0), queue: Mutex::new(Queue::default()), woken: Condvar::new() }
    }
}

impl Word for ModelWord {
    fn load(&self, order: Ordering) -> u32 {
        self.value.load(order)
    }

    fn compare_exchange(&self, old: u32, new: u32, success: Ordering, failure: Ordering) -> Result<u32, u32> {
        self.value.compare_exchange(old, new, success, failure)
    }

    fn swap(&self, new: u32, order: Ordering) -> u32 {
        self.value.swap(new, order)
    }

    fn wait(&self, expected: u32, _deadline: Deadline) -> Woken {
        // As in the kernel: the look at the value and the place in the queue are one step against every wake.
        let mut queue = self.queue.lock().unwrap();
        if self.value.load(SeqCst) == expected {
            let place = queue.next;
            queue.next += 1;
            queue.asleep.push(place);
            while queue.asleep.contains(&place) {
                queue = self.woken.wait(queue).unwrap();
            }
        }
        Woken::Look
    }

    fn wake(&self, count: u32) -> u32 {
        let mut queue = self.queue.lock().unwrap();
        let count = queue.asleep.len().min(count as usize);
        queue.asleep.drain(..count);
        if count > 0 {
            self.woken.notify_all();
        }
        count as u32
    }

    fn fence() {
        fence(SeqCst);
    }
}

/// The same word without its fence.
struct Unfenced(ModelWord);

impl Word for Unfenced {
    fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }

    fn compare_exchange(&self, old: u32, new: u32, success: Ordering, failure: Ordering) -> Result<u32, u32> {
        self.0.compare_exchange(old, new, success, failure)
    }

    fn swap(&self, new: u32, order: Ordering) -> u32 {
        self.0.swap(new, order)
    }

    fn wait(&self, expected: u32, deadline: Deadline) -> Woken {
        self.0.wait(expected, deadline)
    }

    fn wake(&self, count: u32) -> u32 {
        self.0.wake(count)
    }

    fn fence() {}
}

struct Died;

/// A word as one sees it who dies before its operation of that number on it, or between waking and looking again.
struct Mortal<'a> {
    word: &'a ModelWord,
    left: std::cell::Cell<u32>,
}

impl Mortal<'_> {
    /// Runs `life`, and tells whether it came to its end.
    fn live<R>(word: &ModelWord, operations: u32, life: impl FnOnce(&Mortal<'_>) -> R) -> Option<R> {
        let mortal = Mortal { word, left: std::cell::Cell::new(operations) };
        match catch_unwind(AssertUnwindSafe(|| life(&mortal))) {
            Ok(value) => Some(value),
            Err(reason) if reason.is::<Died>() => None,
            Err(reason) => resume_unwind(reason),
        }
    }

    fn step(&self) {
        if self.left.get() == 0 {
            resume_unwind(Box::new(Died));
        }
        self.left.set(self.left.get() - 1);
    }
}

impl Word for Mortal<'_> {
    fn load(&self, order: Ordering) -> u32 {
        self.step();
        self.word.load(order)
    }

    fn compare_exchange(&self, old: u32, new: u32, success: Ordering, failure: Ordering) -> Result<u32, u32> {
        self.step();
        self.word.compare_exchange(old, new, success, failure)
    }

    fn swap(&self, new: u32, order: Ordering) -> u32 {
        self.step();
        self.word.swap(new, order)
    }

    fn wait(&self, expected: u32, deadline: Deadline) -> Woken {
        self.step();
        let woken = self.word.wait(expected, deadline);
        self.step();
        woken
    }

    fn wake(&self, count: u32) -> u32 {
        self.step();
        self.word.wake(count)
    }

    fn fence() {
        fence(SeqCst);
    }
}

/// Every interleaving with at most this many preemptions.
fn model(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(f);
}

fn participant(number: u32) -> Participant {
    Participant::from_bits(number)
}

fn nobody_dies(_: Participant) {}

/// A lock, and what it guards: loom fails the model if two are inside.
struct Guarded {
    word: ModelWord,
    value: UnsafeCell<u32>,
}

impl Guarded {
    fn new() -> Arc<Guarded> {
        Arc::new(Guarded { word: ModelWord::new(), value: UnsafeCell::new(0) })
    }

    fn take(&self, word: &impl Word, me: u32) -> Taken {
        shm::take(word, participant(me), Deadline::Never, &nobody_dies).unwrap()
    }

    /// A round; tells whether the owner before had died.
    fn round(&self, word: &impl Word, me: u32) -> Taken {
        let taken = self.take(word, me);
        // SAFETY: the model checks that nobody else is here.
        self.value.with_mut(|value| unsafe { *value += 1 });
        shm::release(word);
        taken
    }
}

mod loom_models {
    use super::*;

    #[test]
    fn loom_one_at_a_time_has_the_lock() {
        model(3, || {
            let lock = Guarded::new();
            let other = lock.clone();
            let second = thread::spawn(move || {
                other.round(&other.word, 2);
                other.round(&other.word, 2);
            });
            assert_eq!(lock.round(&lock.word, 1), Taken::Clean);
            lock.round(&lock.word, 1);
            second.join().unwrap();
            // SAFETY: all others have ended.
            assert_eq!(lock.value.with(|value| unsafe { *value }), 4);
        });
    }

    #[test]
    fn loom_three_want_the_lock_and_all_get_it() {
        model(2, || {
            let lock = Guarded::new();
            let others: Vec<_> = (2..4)
                .map(|me| {
                    let lock = lock.clone();
                    thread::spawn(move || lock.round(&lock.word, me))
                })
                .collect();
            assert_eq!(lock.round(&lock.word, 1), Taken::Clean);
            for other in others {
                assert_eq!(other.join().unwrap(), Taken::Clean);
            }
        });
    }

    /// Whoever wants the lock gets it, at whichever step the one before dies, once the death has been swept; and is told if
    /// the dead had it.
    #[test]
    fn loom_the_lock_outlives_its_owner() {
        for operations in 0..8 {
            model(2, move || {
                let lock = Guarded::new();
                let (dying, waiting) = (lock.clone(), lock.clone());
                let survivor = thread::spawn(move || waiting.round(&waiting.word, 2));
                let mortal = thread::spawn(move || {
                    Mortal::live(&dying.word, operations, |word| dying.round(word, 1));
                });
                mortal.join().unwrap();
                let had = shm::take_from_dead(&lock.word, participant(1));
                let told = survivor.join().unwrap() == Taken::Abandoned;
                // If not the survivor, then who comes next.
                let next = lock.round(&lock.word, 3) == Taken::Abandoned;
                assert_eq!(had, told || next);
                assert!(!(told && next));
            });
        }
    }

    /// Two wait; the one that was woken dies before it can act. The wake is not lost with it.
    #[test]
    fn loom_a_wake_that_died_with_its_sleeper_is_made_good() {
        for operations in 0..8 {
            model(1, move || {
                let lock = Guarded::new();
                lock.take(&lock.word, 1);
                let (dying, waiting) = (lock.clone(), lock.clone());
                let mortal = thread::spawn(move || {
                    Mortal::live(&dying.word, operations, |word| dying.round(word, 2));
                });
                let survivor = thread::spawn(move || {
                    waiting.round(&waiting.word, 3);
                });
                shm::release(&lock.word);
                mortal.join().unwrap();
                shm::take_from_dead(&lock.word, participant(2));
                survivor.join().unwrap();
            });
        }
    }

    /// A word to sleep on, and permits that are waited for.
    struct Permits {
        signal: ModelWord,
        count: AtomicU32,
    }

    impl Permits {
        fn new() -> Arc<Permits> {
            Arc::new(Permits { signal: ModelWord::new(), count: AtomicU32::new(0) })
        }

        fn give(&self, word: &impl Word) {
            self.count.fetch_add(1, Release);
            signal::notify(word, 1);
        }

        /// Waits for a permit and takes it: who comes too late waits again.
        fn take(&self, word: &impl Word) {
            loop {
                signal::wait(word, Deadline::Never, || self.count.load(Acquire) > 0).unwrap();
                let seen = self.count.load(Acquire);
                if seen > 0 && self.count.compare_exchange(seen, seen - 1, SeqCst, SeqCst).is_ok() {
                    return;
                }
            }
        }
    }

    #[test]
    fn loom_no_wake_is_lost() {
        model(3, || {
            let permits = Permits::new();
            let other = permits.clone();
            let sleeper = thread::spawn(move || other.take(&other.signal));
            permits.give(&permits.signal);
            sleeper.join().unwrap();
        });
    }

    #[test]
    fn loom_two_sleepers_and_two_notifiers() {
        model(2, || {
            let permits = Permits::new();
            let sleepers: Vec<_> = (0..2)
                .map(|_| {
                    let permits = permits.clone();
                    thread::spawn(move || permits.take(&permits.signal))
                })
                .collect();
            let other = permits.clone();
            let notifier = thread::spawn(move || other.give(&other.signal));
            permits.give(&permits.signal);
            notifier.join().unwrap();
            for sleeper in sleepers {
                sleeper.join().unwrap();
            }
        });
    }

    /// A sleeper dies anywhere; then the sweep wakes all. The other one gets the permit, if the dead has not taken it.
    #[test]
    fn loom_a_sleeper_may_die() {
        for operations in 0..7 {
            model(2, move || {
                let permits = Permits::new();
                let (dying, waiting) = (permits.clone(), permits.clone());
                let mortal =
                    thread::spawn(move || Mortal::live(&dying.signal, operations, |word| dying.take(word)).is_some());
                let survivor = thread::spawn(move || waiting.take(&waiting.signal));
                permits.give(&permits.signal);
                // In time the dying one needs a permit of its own, to come to its end if it does not die.
                permits.give(&permits.signal);
                mortal.join().unwrap();
                signal::wake_all(&permits.signal);
                survivor.join().unwrap();
            });
        }
    }

    /// A notifier dies anywhere after its change; then the sweep wakes all.
    #[test]
    fn loom_a_notifier_may_die() {
        for operations in 0..5 {
            model(2, move || {
                let permits = Permits::new();
                let (dying, waiting) = (permits.clone(), permits.clone());
                let survivor = thread::spawn(move || waiting.take(&waiting.signal));
                let mortal = thread::spawn(move || {
                    Mortal::live(&dying.signal, operations, |word| dying.give(word));
                });
                mortal.join().unwrap();
                signal::wake_all(&permits.signal);
                survivor.join().unwrap();
            });
        }
    }

    /// That the models can fail: without the second look a wake is lost.
    #[test]
    #[should_panic(expected = "deadlock")]
    fn loom_finds_a_missing_second_look() {
        model(3, || {
            let permits = Permits::new();
            let other = permits.clone();
            let sleeper = thread::spawn(move || {
                while other.count.load(Acquire) == 0 {
                    let registered = signal::register(&other.signal);
                    other.signal.wait(registered, Deadline::Never);
                }
            });
            permits.give(&permits.signal);
            sleeper.join().unwrap();
        });
    }

    /// The same, without the fences: the change and the look at the flag pass each other.
    #[test]
    #[should_panic(expected = "deadlock")]
    fn loom_finds_a_missing_fence() {
        model(3, || {
            let word = Arc::new((Unfenced(ModelWord::new()), AtomicU32::new(0)));
            let other = word.clone();
            let sleeper = thread::spawn(move || {
                signal::wait(&other.0, Deadline::Never, || other.1.load(Acquire) > 0).unwrap();
            });
            word.1.store(1, Release);
            signal::notify(&word.0, 1);
            sleeper.join().unwrap();
        });
    }

    /// And without the sweep's wake, the death of the woken takes the wake along.
    #[test]
    #[should_panic(expected = "deadlock")]
    fn loom_finds_a_missing_sweep() {
        for operations in 0..8 {
            model(2, move || {
                let lock = Guarded::new();
                let (dying, waiting) = (lock.clone(), lock.clone());
                let survivor = thread::spawn(move || {
                    waiting.round(&waiting.word, 2);
                });
                let mortal = thread::spawn(move || {
                    Mortal::live(&dying.word, operations, |word| dying.round(word, 1));
                });
                mortal.join().unwrap();
                survivor.join().unwrap();
            });
        }
    }
}

//! Random SIGKILLs over a queue, locks, a semaphore and a condition, while everybody works.
//!
//! `POLYPROC_STORM_SEED` repeats a storm (its choices, though not the moments), `POLYPROC_STORM_KILLS` sets its length.
//!
//! Producers put numbered, checksummed items, small and large, and write down what was accepted; consumers write down what
//! they have taken, item by item; all of them go through a lock that guards a number, through a semaphore of two permits, and
//! some sleep on a condition. The parent kills one of them, sweeps as the supervisor does (or, one time in four, leaves that
//! to the others), starts another in its place, and watches that everybody gets on.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use polyproc_engine::channel::{Body, Envelope, Parcel, Queue};
use polyproc_engine::sync::{Acquired, Condition, Lock, Semaphore};
use polyproc_engine::{Deadline, Error, shm};
use polyproc_testkit::child::{self, Child, End};
use polyproc_testkit::item::Item;
use polyproc_testkit::ledger::Ledger;
use polyproc_testkit::leftovers;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const PRODUCERS: usize = 3;
const CONSUMERS: usize = 3;
const PLACES: usize = PRODUCERS + CONSUMERS;

/// Numbers of the ledger: one row for each place, then what all share.
const ROW: usize = 8;
/// Rounds of the process in this place: it has to grow.
const PULSE: usize = 0;
/// The producer's number in this place.
const PRODUCER: usize = 1;
const SHARED: usize = PLACES * ROW;
const GUARDED: usize = SHARED;
const ROUNDS: usize = SHARED + 1;
const IN_ROUND: usize = SHARED + 2;
const INSIDE_LOCK: usize = SHARED + 3;
const PRODUCERS_BORN: usize = SHARED + 5;
const TAKEN: usize = SHARED + 6;
const TOLD: usize = SHARED + 7;
const WOKEN: usize = SHARED + 8;
const PARTS: usize = SHARED + 16;
/// Accepted items by producer, then taken items by producer and number.
const MOST_PRODUCERS: usize = 16_384;
const ACCEPTED: usize = PARTS;
/// Which of a producer's items were taken: a bit each, in 64 words.
const WORDS: usize = 64;
const MOST_ITEMS: u32 = WORDS as u32 * 64;
const BITS: usize = ACCEPTED + MOST_PRODUCERS;
const LENGTH: usize = BITS + MOST_PRODUCERS * WORDS;

/// What a wait may take, on a machine that is not slow.
fn patience() -> Duration {
    let factor = std::env::var("POLYPROC_SOON").ok().and_then(|text| text.parse::<f64>().ok()).unwrap_or(1.0);
    Duration::from_secs_f64(2.0 * factor.max(1.0))
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

#[derive(Clone)]
struct World {
    ledger: Ledger,
    queue: Queue,
    lock: Lock,
    gate: Semaphore,
    guard: Lock,
    condition: Condition,
}

impl World {
    fn new(ledger: Ledger) -> World {
        World {
            ledger,
            queue: Queue::new(64).unwrap(),
            lock: Lock::new().unwrap(),
            gate: Semaphore::new(2, None).unwrap(),
            guard: Lock::new().unwrap(),
            condition: Condition::new().unwrap(),
        }
    }

    fn pulse(&self, place: usize) {
        self.ledger.add(place * ROW + PULSE, 1);
    }

    /// A wait that has to end in time, whoever dies meanwhile.
    fn in_time<T>(&self, what: &str, wait: impl FnOnce(Deadline) -> Result<T, Error>) -> T {
        match wait(Deadline::after(Some(patience()))) {
            Ok(value) => value,
            Err(error) => panic!("{what}: {error}"),
        }
    }

    /// Under the lock the number grows by one, and nobody else is inside.
    fn round(&self) {
        let acquired = self.in_time("lock", |deadline| self.lock.acquire(deadline));
        let me = u64::from(std::process::id());
        let inside = self.ledger.at(INSIDE_LOCK).swap(me, Ordering::SeqCst);
        let mut value = self.ledger.get(GUARDED);
        match acquired {
            Acquired::Clean => assert_eq!(inside, 0, "two hold the lock"),
            Acquired::HolderDied { pid } => {
                assert!(inside == 0 || inside == pid as u64, "{inside} is inside, {pid} died");
                // The dead left its round half done: it is made whole.
                value = value.max(self.ledger.get(IN_ROUND));
            }
        }
        self.ledger.set(IN_ROUND, value + 1);
        self.ledger.set(GUARDED, value + 1);
        self.ledger.set(INSIDE_LOCK, 0);
        self.lock.release().unwrap();
        self.ledger.add(ROUNDS, 1);
    }

    /// Through a gate for two.
    fn pass_gate(&self) {
        self.in_time("semaphore", |deadline| self.gate.acquire(deadline));
        self.gate.release(1).unwrap();
    }

    /// Waits a moment for a notification.
    fn listen(&self) {
        self.in_time("guard", |deadline| self.guard.acquire(deadline));
        let ticket = self.condition.enqueue();
        self.guard.release().unwrap();
        if self.condition.wait(&ticket, Deadline::after(Some(Duration::from_millis(2)))).unwrap() {
            self.ledger.add(WOKEN, 1);
        }
    }

    fn notify(&self) {
        self.in_time("guard", |deadline| self.guard.acquire(deadline));
        self.ledger.add(TOLD, u64::from(self.condition.notify(1)));
        self.guard.release().unwrap();
    }

    fn produce(&self, place: usize, seed: u64) {
        let mut random = Random(seed | 1);
        let producer = self.ledger.get(place * ROW + PRODUCER);
        for number in 1..MOST_ITEMS {
            let size = if random.below(8) == 0 { 70_000 } else { random.below(300) as usize };
            let bytes = Item::new(producer as u32, number).bytes(size);
            let mut parcel = Parcel::new(0, &bytes).unwrap();
            self.in_time("put", |deadline| self.queue.put(&mut parcel, deadline));
            self.ledger.set(ACCEPTED + producer as usize, u64::from(number));
            match random.below(8) {
                0 => self.round(),
                1 => self.pass_gate(),
                2 => self.notify(),
                _ => {}
            }
            self.pulse(place);
        }
    }

    fn consume(&self, place: usize, seed: u64) {
        let mut random = Random(seed | 1);
        let mut envelope = Envelope::new();
        loop {
            self.in_time("get", |deadline| self.queue.get(&mut envelope, deadline));
            self.take_down(&envelope);
            match random.below(8) {
                0 => self.round(),
                1 => self.pass_gate(),
                2 => self.listen(),
                _ => {}
            }
            self.pulse(place);
        }
    }

    /// Writes down that an item has come.
    fn take_down(&self, envelope: &Envelope) {
        // SAFETY: a body is valid for its length, and this process alone has it.
        let item = Item::of(unsafe { std::slice::from_raw_parts(envelope.as_ptr(), envelope.len()) });
        assert_eq!(matches!(envelope.body, Body::Block(_)), envelope.len() > 65_536);
        let bit = 1u64 << (item.number % 64);
        let word = BITS + item.producer as usize * WORDS + item.number as usize / 64;
        let before = self.ledger.at(word).fetch_or(bit, Ordering::SeqCst);
        assert_eq!(before & bit, 0, "{item:?} came twice");
        self.ledger.add(TAKEN, 1);
    }

    fn start(&self, place: usize, seed: u64) -> Child {
        let producer = self.ledger.add(PRODUCERS_BORN, u64::from(place < PRODUCERS));
        self.ledger.set(place * ROW + PRODUCER, producer);
        assert!((producer as usize) < MOST_PRODUCERS);
        let world = self.clone();
        child::fork(move || if place < PRODUCERS { world.produce(place, seed) } else { world.consume(place, seed) })
    }
}

fn main() -> ExitCode {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let kills = number("POLYPROC_STORM_KILLS").unwrap_or(2000).min(MOST_PRODUCERS as u64 - 64);
    let seed = number("POLYPROC_STORM_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_nanos() as u64 % 1_000_000_007
    });
    println!("a storm of {kills} kills: POLYPROC_STORM_SEED={seed}");
    shm::current().unwrap();
    let ledger = Ledger::new(LENGTH);
    let before = leftovers::look();
    let outcome = std::panic::catch_unwind(|| storm(ledger, kills, seed));
    if outcome.is_err() {
        println!("FAILED; again with POLYPROC_STORM_SEED={seed} POLYPROC_STORM_KILLS={kills}");
        return ExitCode::FAILURE;
    }
    let after = leftovers::look();
    if after != before {
        println!("FAILED: left behind:\n{before:?} before,\n{after:?} after (POLYPROC_STORM_SEED={seed})");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn storm(ledger: Ledger, kills: u64, seed: u64) {
    let begun = Instant::now();
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let world = World::new(ledger);
    let mut children: Vec<Child> = (0..PLACES).map(|place| world.start(place, random.next())).collect();
    let mut pulses = [(0, Instant::now()); PLACES];
    let mut longest = Duration::ZERO;
    let mut left_to_others = 0;
    let mut most_reserved = [0; 2];
    for kill in 0..kills {
        // Some let the others work for a while, most follow at once.
        let pause = if random.below(4) == 0 { random.below(5_000_000) } else { random.below(300_000) };
        pause_for(pause);
        let place = random.below(PLACES as u64) as usize;
        if let Some(end) = children[place].ended() {
            assert_eq!(end, End::Exited(0), "the process in place {place}");
        }
        let end = children[place].kill();
        assert!(end == End::Killed(libc::SIGKILL) || end == End::Exited(0), "the process in place {place}: {end:?}");
        if random.below(4) == 0 {
            left_to_others += 1;
        } else {
            shm::sweep_dead();
        }
        children[place] = world.start(place, random.next());
        pulses[place] = (ledger.get(place * ROW + PULSE), Instant::now());
        for (place, (count, since)) in pulses.iter_mut().enumerate() {
            let now = ledger.get(place * ROW + PULSE);
            if now != *count {
                (*count, *since) = (now, Instant::now());
            } else if let Some(end) = children[place].ended() {
                assert_eq!(end, End::Exited(0), "the process in place {place}");
                children[place] = world.start(place, random.next());
                *since = Instant::now();
            }
            longest = longest.max(since.elapsed());
            assert!(since.elapsed() < patience(), "the process in place {place} hangs");
        }
        let half = usize::from(kill >= kills / 2);
        most_reserved[half] = most_reserved[half].max(shm::reserved().unwrap());
    }
    for child in &mut children {
        child.kill();
    }
    drop(children);
    shm::sweep_dead();
    // Whatever was left half done is whole again.
    let mut envelope = Envelope::new();
    while world.queue.get(&mut envelope, Deadline::Now).is_ok() {
        world.take_down(&envelope);
    }
    envelope.clear();
    assert!(world.queue.is_empty());
    world.round();
    assert_eq!(world.gate.value(), 2, "permits are lost");
    world.pass_gate();
    world.condition.notify(0);
    assert_eq!(world.condition.waiters(), 0, "waiters are left");
    let (rounds, guarded) = (ledger.get(ROUNDS), ledger.get(GUARDED));
    assert!(guarded >= rounds && guarded <= rounds + kills + PLACES as u64, "{rounds} rounds, {guarded} counted");

    // Accepted items came, but for those which a killed consumer had taken out and not written down.
    let (mut accepted, mut missing) = (0, 0);
    for producer in 0..ledger.get(PRODUCERS_BORN) as usize {
        let count = ledger.get(ACCEPTED + producer);
        accepted += count;
        for number in 1..MOST_ITEMS {
            let word = ledger.get(BITS + producer * WORDS + number as usize / 64);
            let came = word & (1 << (number % 64)) != 0;
            assert!(!came || u64::from(number) <= count + 1, "item {number} of producer {producer} was never put");
            missing += u64::from(!came && u64::from(number) <= count);
        }
    }
    assert!(missing <= kills + PLACES as u64, "{missing} of {accepted} items are lost");
    let taken = ledger.get(TAKEN);
    println!(
        "{kills} kills ({left_to_others} left to the others) in {:.1} s: {accepted} items accepted, {taken} taken, \
         {missing} gone with their consumers; {rounds} rounds under the lock; {} notified, {} woken; longest wait {:.0} ms; \
         at most {} KiB reserved in the first half, {} KiB in the second",
        begun.elapsed().as_secs_f64(),
        ledger.get(TOLD),
        ledger.get(WOKEN),
        longest.as_secs_f64() * 1e3,
        most_reserved[0] >> 10,
        most_reserved[1] >> 10,
    );
    assert!(most_reserved[1] <= most_reserved[0] * 2 + (4 << 20), "memory grows");
}

/// Lets time pass: not to wait for anything, but for the moment of the next kill to be random.
fn pause_for(nanoseconds: u64) {
    std::thread::sleep(Duration::from_nanos(nanoseconds));
}

//! Dying again during recovery: a process died at some point, and the one that sweeps after it dies at another.

use crate::queues::{get, put};
use polyproc_engine::channel::Queue;
use polyproc_engine::sync::{Acquired, Barrier, Condition, Lock, Semaphore};
use polyproc_engine::{Deadline, fault, shm};
use polyproc_testkit::child::{self, End};
use polyproc_testkit::item::Item;
use polyproc_testkit::ledger::Ledger;
use polyproc_testkit::trial::{Role, Scenario, Trial, soon};
use std::time::Duration;

/// How many items the first of the dead has seen accepted.
const ACKNOWLEDGED: usize = 0;

/// Where the first dies: all with a lock taken, a permit, a place in a barrier and in a condition's queue.
const FIRST: &[(&str, u32)] = &[
    ("lock.taken", 8),
    ("directory.popped", 1),
    ("block.popped", 1),
    ("ring.tagged", 1),
    ("ring.put_committed", 2),
    ("ring.segment_pending", 1),
    ("ring.segment_owned", 1),
    ("ring.segment_linked", 1),
    ("ring.segment_retired", 1),
    ("ring.segment_passed", 1),
    ("monitor.committed", 1),
    ("monitor.word_written", 2),
];

fn twice(ledger: Ledger, point: &'static str, pass: u32) -> Trial {
    let (lock, gate) = (Lock::new().unwrap(), Semaphore::new(3, None).unwrap());
    let (barrier, condition, queue) = (Barrier::new(2).unwrap(), Condition::new().unwrap(), Queue::new(0).unwrap());
    put(&queue, Item::new(0, 1), 60_000, soon());
    // Idle blocks, to be popped.
    drop(shm::Lease::allocate(150_000).unwrap());
    let mut first = child::fork(|| {
        lock.acquire(soon()).unwrap();
        gate.acquire(soon()).unwrap();
        barrier.enter(soon()).unwrap();
        let _ticket = condition.enqueue();
        fault::arm(point, pass);
        for number in 1..=4 {
            put(&queue, Item::new(1, number), if number % 2 == 0 { 150_000 } else { 60_000 }, soon());
            ledger.set(ACKNOWLEDGED, u64::from(number));
            let _other = Lock::new().unwrap();
        }
        gate.acquire(soon()).unwrap();
        gate.release(1).unwrap();
        for _ in 0..4 {
            get(&queue, soon());
        }
        std::process::abort();
    });
    assert_eq!(
        first.wait(Duration::from_secs(2)),
        Some(End::Killed(libc::SIGKILL)),
        "{point} is not passed {pass} times"
    );
    let sweeper = || {
        shm::sweep_dead();
    };
    Trial::new(sweeper, move |stage, _| {
        // Not swept, the lock itself is what tells of the death.
        assert_eq!(lock.acquire(soon()).unwrap(), Acquired::HolderDied { pid: first.pid() });
        lock.release().unwrap();
        put(&queue, Item::new(0, 2), 60_000, soon());
        let mut next = 1;
        let mut taken = 0;
        loop {
            match get(&queue, soon()) {
                Item { producer: 0, number: 2 } => break,
                Item { producer: 0, number } => assert_eq!(number, 1),
                item => {
                    // The first may have taken some out itself before it died.
                    taken = if next == 1 { u64::from(item.number) - 1 } else { taken };
                    next = item.number + 1;
                }
            }
        }
        let came = u64::from(next) - 1;
        let acknowledged = ledger.get(ACKNOWLEDGED);
        assert!(came == acknowledged || came == acknowledged + 1 || taken > 0, "{acknowledged}, {came}");
        stage.sweep();
        assert_eq!(gate.value(), 3, "the permits of the dead");
        assert!(barrier.is_broken());
        barrier.reset();
        assert_eq!(barrier.waiting(), 0);
        assert_eq!(condition.waiters(), 0);
        let (again, more) = (gate.acquire(Deadline::Now), gate.release(1));
        assert!(again.is_ok() && more.is_ok());
    })
}

/// Two died at once: one with permits, the other, after it, inside the semaphore's monitor. The sweep of the first meets the
/// lock of the second.
fn two_at_once(_ledger: Ledger, point: &'static str) -> Trial {
    let gate = Semaphore::new(3, None).unwrap();
    let mut dead = [false, true].map(|inside| {
        child::fork(|| {
            gate.acquire(soon()).unwrap();
            if inside {
                fault::arm(point, 1);
                gate.acquire(soon()).unwrap();
            }
            std::process::abort();
        })
    });
    for child in &mut dead {
        assert!(matches!(child.wait(Duration::from_secs(2)), Some(End::Killed(_))));
    }
    let sweeper = || {
        shm::sweep_dead();
    };
    Trial::new(sweeper, move |stage, _| {
        for _ in 0..3 {
            gate.acquire(soon()).unwrap();
        }
        gate.release(3).unwrap();
        stage.sweep();
        assert_eq!(gate.value(), 3);
    })
}

pub fn scenarios() -> Vec<Scenario> {
    let pair = |&(point, pass): &(&'static str, u32)| {
        Scenario::new(format!("sweep: after a death at {point}"), Role::Peer, move |ledger| twice(ledger, point, pass))
    };
    let two = |ledger| two_at_once(ledger, "monitor.committed");
    let two = Scenario::new("sweep: two died at once", Role::Peer, two);
    FIRST.iter().map(pair).chain([two]).collect()
}

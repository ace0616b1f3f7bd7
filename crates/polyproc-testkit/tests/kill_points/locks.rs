//! Locks, reentrant or not: the holder dies, or one of those who wait.

use polyproc_engine::Deadline;
use polyproc_engine::sync::{Acquired, Lock, ReentrantLock};
use polyproc_testkit::ledger::Ledger;
use polyproc_testkit::trial::{Fate, Role, Scenario, Stage, Trial, soon};
use std::rc::Rc;
use std::sync::atomic::Ordering;

/// Rounds that the victim has seen end.
const ACKNOWLEDGED: usize = 0;
/// A number that is changed in two steps, under the lock alone.
const GUARDED: usize = 1;
/// One process at a time is inside: its pid.
const INSIDE: usize = 2;
/// Rounds of the survivors.
const SURVIVED: usize = 3;

/// What the two kinds of lock have in common.
pub trait AnyLock: 'static {
    fn acquire(&self, deadline: Deadline) -> Acquired;
    fn release(&self);
    fn is_locked(&self) -> bool;
}

impl AnyLock for Lock {
    fn acquire(&self, deadline: Deadline) -> Acquired {
        Lock::acquire(self, deadline).unwrap()
    }
    fn release(&self) {
        Lock::release(self).unwrap();
    }
    fn is_locked(&self) -> bool {
        Lock::is_locked(self)
    }
}

/// Taken twice each time.
impl AnyLock for ReentrantLock {
    fn acquire(&self, deadline: Deadline) -> Acquired {
        let acquired = ReentrantLock::acquire(self, deadline).unwrap();
        assert_eq!(ReentrantLock::acquire(self, Deadline::Now).unwrap(), Acquired::Clean);
        assert_eq!(self.count(), 2);
        acquired
    }
    fn release(&self) {
        ReentrantLock::release(self).unwrap();
        ReentrantLock::release(self).unwrap();
        assert!(ReentrantLock::release(self).is_err());
    }
    fn is_locked(&self) -> bool {
        ReentrantLock::is_locked(self)
    }
}

/// One round under the lock: nobody else is inside, and the number grows by one.
fn round(ledger: Ledger, lock: &impl AnyLock) {
    let acquired = lock.acquire(soon());
    let me = u64::from(std::process::id());
    let inside = ledger.at(INSIDE).swap(me, Ordering::SeqCst);
    match acquired {
        Acquired::Clean => assert_eq!(inside, 0, "two are inside"),
        // The dead may have been inside, or have come to its end but for the release.
        Acquired::HolderDied { pid } => assert!(inside == 0 || inside == pid as u64, "{inside} is inside, {pid} died"),
    }
    let value = ledger.get(GUARDED);
    std::hint::spin_loop();
    ledger.set(GUARDED, value + 1);
    ledger.set(INSIDE, 0);
    lock.release();
}

fn check_count(ledger: Ledger, fate: Fate) {
    let counted = ledger.get(GUARDED) - ledger.get(SURVIVED);
    let acknowledged = ledger.get(ACKNOWLEDGED);
    assert!(counted == acknowledged || (fate == Fate::Died && counted == acknowledged + 1));
}

/// The victim goes through the lock three times; two others all the time.
fn contended<L: AnyLock>(ledger: Ledger, lock: L) -> Trial {
    let lock = Rc::new(lock);
    let others = || {
        let lock = lock.clone();
        move || {
            for _ in 0..50 {
                round(ledger, &*lock);
                ledger.add(SURVIVED, 1);
            }
        }
    };
    let (first, second) = (others(), others());
    let for_victim = lock.clone();
    let victim = move || {
        for _ in 0..3 {
            round(ledger, &*for_victim);
            ledger.add(ACKNOWLEDGED, 1);
        }
    };
    Trial::new(victim, move |stage, fate| {
        stage.join_beside();
        round(ledger, &*lock);
        ledger.add(SURVIVED, 1);
        check_count(ledger, fate);
        stage.sweep();
        assert!(!lock.is_locked());
    })
    .beside(first)
    .beside(second)
}

/// Nobody else uses the lock; the next one to come gets it, and is told.
fn alone<L: AnyLock>(ledger: Ledger, lock: L) -> Trial {
    let lock = Rc::new(lock);
    let for_victim = lock.clone();
    let victim = move || {
        for_victim.acquire(soon());
        ledger.set(INSIDE, 1);
        for_victim.release();
        ledger.set(ACKNOWLEDGED, 1);
    };
    Trial::new(victim, move |_, fate| {
        let acquired = lock.acquire(soon());
        let died = matches!(acquired, Acquired::HolderDied { .. });
        assert!(!(died && fate == Fate::Finished));
        assert!(!(died && ledger.get(ACKNOWLEDGED) == 1));
        lock.release();
        assert_eq!(lock.acquire(soon()), Acquired::Clean);
        lock.release();
    })
}

/// The parent has the lock; the victim sleeps on it, and another behind it.
fn waiting<L: AnyLock>(ledger: Ledger, lock: L) -> Trial {
    let lock = Rc::new(lock);
    lock.acquire(soon());
    let waiter = |place| {
        let lock = lock.clone();
        move || {
            lock.acquire(Deadline::Never);
            ledger.add(GUARDED, 1);
            lock.release();
            ledger.add(place, 1);
        }
    };
    let (victim, survivor) = (waiter(ACKNOWLEDGED), waiter(SURVIVED));
    let for_parent = lock.clone();
    let meanwhile = move |stage: &mut Stage| {
        stage.until_asleep();
        stage.add_asleep(survivor);
        for_parent.release();
    };
    Trial::new(victim, move |stage, fate| {
        stage.join_beside();
        assert_eq!(ledger.get(SURVIVED), 1);
        check_count(ledger, fate);
        lock.acquire(soon());
        lock.release();
    })
    .meanwhile(meanwhile)
}

/// The victim is killed from outside while it holds the lock, or sleeps on it, with two others asleep.
fn killed<L: AnyLock>(ledger: Ledger, lock: L) -> Trial {
    let lock = Rc::new(lock);
    let holder = lock.clone();
    let victim = move || {
        holder.acquire(soon());
        ledger.set(INSIDE, 1);
        let never = polyproc_engine::sync::Event::new().unwrap();
        never.wait(Deadline::Never).unwrap();
    };
    let waiter = || {
        let lock = lock.clone();
        move || {
            let acquired = lock.acquire(Deadline::Never);
            assert_eq!(matches!(acquired, Acquired::HolderDied { .. }), ledger.add(SURVIVED, 1) == 0);
            lock.release();
        }
    };
    let (first, second) = (waiter(), waiter());
    let after_lock = lock.clone();
    Trial::new(victim, move |stage, fate| {
        stage.join_beside();
        assert_eq!(fate, Fate::Died);
        after_lock.acquire(soon());
        after_lock.release();
    })
    .meanwhile(move |stage| {
        if stage.until_asleep() && ledger.get(INSIDE) == 1 {
            stage.add_asleep(first);
            stage.add_asleep(second);
            stage.kill_victim();
        }
    })
}

pub fn scenarios() -> Vec<Scenario> {
    use Role::{Holder, Waiter};
    let lock = || Lock::new().unwrap();
    let reentrant = || ReentrantLock::new().unwrap();
    vec![
        Scenario::new("lock: acquire and release, alone", Holder, move |l| alone(l, lock())),
        Scenario::new("lock: acquire and release, contended", Holder, move |l| contended(l, lock())),
        Scenario::new("lock: asleep", Waiter, move |l| waiting(l, lock())),
        Scenario::new("lock: killed while holding", Holder, move |l| killed(l, lock())),
        Scenario::new("rlock: acquire and release, alone", Holder, move |l| alone(l, reentrant())),
        Scenario::new("rlock: acquire and release, contended", Holder, move |l| contended(l, reentrant())),
        Scenario::new("rlock: asleep", Waiter, move |l| waiting(l, reentrant())),
        Scenario::new("rlock: killed while holding", Holder, move |l| killed(l, reentrant())),
    ]
}

//! Semaphores, events, conditions and barriers.

use polyproc_engine::sync::{Barrier, Condition, Event, Lock, Semaphore};
use polyproc_engine::{Deadline, Error};
use polyproc_testkit::ledger::Ledger;
use polyproc_testkit::trial::{Fate, Role, Scenario, Stage, Trial, soon};

/// Operations that the victim has seen return.
const ACKNOWLEDGED: usize = 0;
/// The same of the survivors.
const SURVIVED: usize = 1;
/// How many are between acquire and release.
const INSIDE: usize = 2;
/// How many have taken a place in a condition's queue.
const ENQUEUED: usize = 3;

/// A gate for two: the victim goes through it three times, two others all the time. All permits are there in the end.
fn gate(ledger: Ledger, most: Option<u32>) -> Trial {
    let gate = Semaphore::new(2, most).unwrap();
    let pass = {
        let gate = gate.clone();
        move || {
            gate.acquire(soon()).unwrap();
            ledger.add(INSIDE, 1);
            gate.release(1).unwrap();
        }
    };
    let (victim, first, second) = (pass.clone(), pass.clone(), pass);
    let many = |pass: Box<dyn Fn()>| move || (0..25).for_each(|_| pass());
    Trial::new(
        move || (0..3).for_each(|_| victim()),
        move |stage, _| {
            // Both permits, whatever the dead had.
            gate.acquire(soon()).unwrap();
            gate.acquire(soon()).unwrap();
            gate.release(2).unwrap();
            stage.join_beside();
            stage.sweep();
            assert_eq!(gate.value(), 2);
            if most.is_some() {
                assert!(matches!(gate.release(1), Err(Error::ReleasedTooOften { .. })));
            }
        },
    )
    .beside(many(Box::new(first)))
    .beside(many(Box::new(second)))
}

/// The victim gives permits, one at a time, to one that sleeps.
fn giving(ledger: Ledger) -> Trial {
    let counter = Semaphore::new(0, None).unwrap();
    let (for_victim, for_survivor) = (counter.clone(), counter.clone());
    let victim = move || {
        for _ in 0..3 {
            for_victim.release(1).unwrap();
            ledger.add(ACKNOWLEDGED, 1);
        }
    };
    let survivor = move || {
        for _ in 0..3 {
            for_survivor.acquire(Deadline::Never).unwrap();
            ledger.add(SURVIVED, 1);
        }
    };
    Trial::new(victim, move |stage, fate| {
        stage.sweep();
        // What is still missing. Whether the last one that was not acknowledged is there, one can only try.
        let missing = 3 - ledger.get(ACKNOWLEDGED) as u32;
        counter.release(missing).unwrap();
        stage.join_beside();
        let extra = counter.value();
        assert!(extra == 0 || (extra == 1 && fate == Fate::Died), "{extra} too many");
    })
    .asleep(survivor)
}

/// No permits; the victim sleeps, another behind it. The parent gives one, then another for whoever is left.
fn waiting_for_permit(ledger: Ledger) -> Trial {
    let counter = Semaphore::new(0, None).unwrap();
    let waiter = |place| {
        let counter = counter.clone();
        move || {
            counter.acquire(Deadline::Never).unwrap();
            ledger.add(place, 1);
        }
    };
    let (victim, survivor) = (waiter(ACKNOWLEDGED), waiter(SURVIVED));
    let for_parent = counter.clone();
    let meanwhile = move |stage: &mut Stage| {
        stage.until_asleep();
        stage.add_asleep(survivor);
        for_parent.release(1).unwrap();
    };
    Trial::new(victim, move |stage, fate| {
        stage.sweep();
        // The permit went to the survivor, or lies there, or was taken along by the victim.
        if ledger.get(SURVIVED) == 0 && counter.value() == 0 {
            counter.release(1).unwrap();
        }
        stage.join_beside();
        assert_eq!(ledger.get(SURVIVED), 1);
        assert!(fate == Fate::Died || ledger.get(ACKNOWLEDGED) == 1);
        assert!(counter.value() <= 1);
    })
    .meanwhile(meanwhile)
}

/// The victim has both permits and is killed; those who sleep get them.
fn permits_of_the_killed(ledger: Ledger) -> Trial {
    let gate = Semaphore::new(2, None).unwrap();
    let (for_victim, after_gate) = (gate.clone(), gate.clone());
    let victim = move || {
        for_victim.acquire(soon()).unwrap();
        for_victim.acquire(soon()).unwrap();
        ledger.set(INSIDE, 1);
        Event::new().unwrap().wait(Deadline::Never).unwrap();
    };
    let waiter = || {
        let gate = gate.clone();
        move || {
            gate.acquire(Deadline::Never).unwrap();
            ledger.add(SURVIVED, 1);
            gate.release(1).unwrap();
        }
    };
    let (first, second) = (waiter(), waiter());
    Trial::new(victim, move |stage, _| {
        stage.join_beside();
        stage.sweep();
        assert_eq!(after_gate.value(), 2);
    })
    .meanwhile(move |stage| {
        if stage.until_asleep() && ledger.get(INSIDE) == 1 {
            stage.add_asleep(first);
            stage.add_asleep(second);
            stage.kill_victim();
        }
    })
}

/// The victim sets an event on which two sleep.
fn setting(ledger: Ledger) -> Trial {
    let event = Event::new().unwrap();
    let (for_victim, first, second) = (event.clone(), event.clone(), event.clone());
    let victim = move || {
        for_victim.set();
        ledger.set(ACKNOWLEDGED, 1);
    };
    Trial::new(victim, move |stage, _| {
        // If it is set those who sleep must find out; if not, it was not set at all.
        if !event.is_set() {
            assert_eq!(ledger.get(ACKNOWLEDGED), 0);
            event.set();
        }
        stage.join_beside();
        event.clear();
        assert!(!event.is_set());
    })
    .asleep(move || first.wait(Deadline::Never).unwrap())
    .asleep(move || second.wait(Deadline::Never).unwrap())
}

/// The victim sleeps on an event, and another; the parent sets it, and clears it at once.
fn waiting_for_event(_ledger: Ledger) -> Trial {
    let event = Event::new().unwrap();
    let (for_victim, for_survivor, for_parent) = (event.clone(), event.clone(), event.clone());
    Trial::new(
        move || for_victim.wait(Deadline::Never).unwrap(),
        move |stage, _| {
            stage.join_beside();
            drop(event);
        },
    )
    .meanwhile(move |stage| {
        stage.until_asleep();
        stage.add_asleep(move || for_survivor.wait(Deadline::Never).unwrap());
        for_parent.set();
        for_parent.clear();
    })
}

fn enqueue_and_wait(ledger: Ledger, lock: &Lock, condition: &Condition, deadline: Deadline) -> bool {
    lock.acquire(soon()).unwrap();
    let ticket = condition.enqueue();
    ledger.add(ENQUEUED, 1);
    lock.release().unwrap();
    let notified = condition.wait(&ticket, deadline).unwrap();
    lock.acquire(soon()).unwrap();
    lock.release().unwrap();
    notified
}

/// What is left for those who still sleep.
fn notify_the_rest(lock: &Lock, condition: &Condition) {
    lock.acquire(soon()).unwrap();
    // Also finishes what a dead one had begun.
    condition.notify(0);
    if condition.waiters() > condition.notified() {
        condition.notify(u32::MAX);
    }
    lock.release().unwrap();
}

/// The victim notifies one of two that sleep, then the other.
fn notifying(ledger: Ledger) -> Trial {
    let (lock, condition) = (Lock::new().unwrap(), Condition::new().unwrap());
    let sleeper = || {
        let (lock, condition) = (lock.clone(), condition.clone());
        move || {
            assert!(enqueue_and_wait(ledger, &lock, &condition, Deadline::Never));
            ledger.add(SURVIVED, 1);
        }
    };
    let (first, second) = (sleeper(), sleeper());
    let (for_victim, its_lock) = (condition.clone(), lock.clone());
    let victim = move || {
        for _ in 0..2 {
            its_lock.acquire(soon()).unwrap();
            assert!(for_victim.notify(1) <= 1);
            its_lock.release().unwrap();
            ledger.add(ACKNOWLEDGED, 1);
        }
    };
    Trial::new(victim, move |stage, fate| {
        // Each acknowledged notification wakes one, without the parent's help.
        let begun = soon();
        while ledger.get(SURVIVED) < ledger.get(ACKNOWLEDGED) {
            assert!(!begun.passed(), "a notification is lost");
            std::thread::yield_now();
        }
        if fate == Fate::Died {
            notify_the_rest(&lock, &condition);
        }
        stage.join_beside();
        stage.sweep();
        assert_eq!((condition.waiters(), condition.notified()), (0, 0));
    })
    .asleep(first)
    .asleep(second)
}

/// The victim sleeps on a condition, and another; the parent notifies one, then whoever is left.
fn waiting_for_notification(ledger: Ledger) -> Trial {
    let (lock, condition) = (Lock::new().unwrap(), Condition::new().unwrap());
    let sleeper = |place| {
        let (lock, condition) = (lock.clone(), condition.clone());
        move || {
            assert!(enqueue_and_wait(ledger, &lock, &condition, Deadline::Never));
            ledger.add(place, 1);
        }
    };
    let (victim, survivor) = (sleeper(ACKNOWLEDGED), sleeper(SURVIVED));
    let (for_parent, its_lock) = (condition.clone(), lock.clone());
    let meanwhile = move |stage: &mut Stage| {
        stage.until_asleep();
        let before = ledger.get(ENQUEUED);
        stage.add_asleep(survivor);
        until(|| ledger.get(ENQUEUED) > before);
        its_lock.acquire(soon()).unwrap();
        for_parent.notify(1);
        its_lock.release().unwrap();
    };
    Trial::new(victim, move |stage, fate| {
        // The permit is there for the survivor if the victim had not taken it; else it needs another.
        if fate == Fate::Finished || condition.notified() == 0 {
            notify_the_rest(&lock, &condition);
        }
        stage.join_beside();
        assert_eq!(ledger.get(SURVIVED), 1);
        stage.sweep();
        assert_eq!((condition.waiters(), condition.notified()), (0, 0));
    })
    .meanwhile(meanwhile)
}

/// The victim's wait times out; it also gives a ticket up.
fn timing_out(ledger: Ledger) -> Trial {
    let (lock, condition) = (Lock::new().unwrap(), Condition::new().unwrap());
    let (its_lock, for_victim) = (lock.clone(), condition.clone());
    let victim = move || {
        assert!(!enqueue_and_wait(ledger, &its_lock, &for_victim, Deadline::Now));
        let ticket = for_victim.enqueue();
        for_victim.cancel(ticket);
    };
    Trial::new(victim, move |stage, _| {
        stage.sweep();
        assert_eq!(condition.waiters(), 0);
        lock.acquire(soon()).unwrap();
        assert_eq!(condition.notify(1), 0);
        lock.release().unwrap();
    })
}

/// Looks until it is so.
fn until(mut so: impl FnMut() -> bool) {
    let deadline = soon();
    while !so() {
        assert!(!deadline.passed(), "it does not come about");
        std::thread::yield_now();
    }
}

fn meet(barrier: &Barrier, deadline: Deadline) -> Result<bool, Error> {
    let arrival = barrier.enter(deadline)?;
    let outcome = if arrival.last {
        barrier.open();
        Ok(true)
    } else {
        barrier.wait(deadline).map(|()| false)
    };
    barrier.leave();
    outcome
}

/// Two parties sleep; the victim is the third, and opens. All get through, or are told.
fn last_party(_ledger: Ledger) -> Trial {
    let barrier = Barrier::new(3).unwrap();
    let party = || {
        let barrier = barrier.clone();
        move || assert!(matches!(meet(&barrier, Deadline::Never), Ok(false) | Err(Error::BrokenBarrier)))
    };
    let (first, second, victim) = (party(), party(), barrier.clone());
    Trial::new(
        move || assert!(meet(&victim, soon()).unwrap()),
        move |stage, fate| {
            if fate == Fate::Died && barrier.waiting() == 2 {
                // It died before it came in, and nobody knows of it: the parent comes in its place.
                assert!(matches!(meet(&barrier, soon()), Ok(_) | Err(Error::BrokenBarrier)));
            }
            stage.join_beside();
            check_barrier(stage, &barrier);
        },
    )
    .asleep(first)
    .asleep(second)
}

/// The victim waits inside with another; the third never comes. When it dies the other is told.
fn waiting_party(_ledger: Ledger) -> Trial {
    let barrier = Barrier::new(3).unwrap();
    let (for_victim, for_survivor, in_place) = (barrier.clone(), barrier.clone(), barrier.clone());
    let victim = move || {
        let _ = meet(&for_victim, Deadline::Never);
    };
    let survivor = move || assert!(matches!(meet(&for_survivor, Deadline::Never), Ok(_) | Err(Error::BrokenBarrier)));
    Trial::new(victim, move |stage, _| {
        abort_if_alone(stage, &barrier);
        stage.join_beside();
        check_barrier(stage, &barrier);
    })
    .meanwhile(move |stage| {
        stage.until_asleep();
        stage.add_asleep(survivor);
        if stage.until_asleep() {
            // The third comes: the victim passes the points on its way out.
            let _ = meet(&in_place, soon());
        }
    })
}

/// Two wait inside, one is killed: the other is told.
fn killed_party(_ledger: Ledger) -> Trial {
    let barrier = Barrier::new(3).unwrap();
    let (for_victim, for_survivor) = (barrier.clone(), barrier.clone());
    let victim = move || {
        let _ = meet(&for_victim, Deadline::Never);
    };
    let survivor = move || assert!(matches!(meet(&for_survivor, Deadline::Never), Err(Error::BrokenBarrier)));
    let inside = barrier.clone();
    Trial::new(victim, move |stage, _| {
        abort_if_alone(stage, &inside);
        stage.join_beside();
        check_barrier(stage, &barrier);
    })
    .meanwhile(move |stage| {
        stage.until_asleep();
        stage.add_asleep(survivor);
        stage.kill_victim();
    })
}

/// A victim that died before it came in is missed by nobody but the parent, who sees that only one is inside.
fn abort_if_alone(stage: &mut Stage, barrier: &Barrier) {
    until(|| {
        if barrier.waiting() == 1 {
            barrier.abort();
        }
        stage.beside_have_ended()
    });
}

fn check_barrier(stage: &mut Stage, barrier: &Barrier) {
    stage.sweep();
    barrier.reset();
    assert_eq!(barrier.waiting(), 0);
    assert_eq!(barrier.enter(soon()).unwrap().index, 0);
    barrier.leave();
    assert_eq!(barrier.waiting(), 0);
}

pub fn scenarios() -> Vec<Scenario> {
    use Role::{Holder, Waiter};
    vec![
        Scenario::new("semaphore: a gate", Holder, |l| gate(l, None)),
        Scenario::new("semaphore: a bounded gate", Holder, |l| gate(l, Some(2))),
        Scenario::new("semaphore: give permits", Holder, giving),
        Scenario::new("semaphore: asleep", Waiter, waiting_for_permit),
        Scenario::new("semaphore: killed with permits", Holder, permits_of_the_killed),
        Scenario::new("event: set", Holder, setting),
        Scenario::new("event: asleep", Waiter, waiting_for_event),
        Scenario::new("condition: notify", Holder, notifying),
        Scenario::new("condition: asleep", Waiter, waiting_for_notification),
        Scenario::new("condition: time out and cancel", Waiter, timing_out),
        Scenario::new("barrier: the last party", Holder, last_party),
        Scenario::new("barrier: a waiting party", Waiter, waiting_party),
        Scenario::new("barrier: killed inside", Waiter, killed_party),
    ]
}

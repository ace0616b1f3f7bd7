//! Read-write locks and what is done once: a reader, a writer, or one of those who wait, dies.

use polyproc_engine::sync::{Acquired, Begun, Event, Once, RwLock};
use polyproc_engine::{Deadline, Error};
use polyproc_testkit::ledger::Ledger;
use polyproc_testkit::trial::{Fate, Role, Scenario, Stage, Trial, soon};
use std::sync::atomic::Ordering;

/// Rounds that the victim has seen end.
const ACKNOWLEDGED: usize = 0;
/// A number that writers change in two steps.
const GUARDED: usize = 1;
/// The same number, changed first.
const TWIN: usize = 2;
/// Rounds of the survivors.
const SURVIVED: usize = 3;
/// The victim is where it is to be killed.
const THERE: usize = 4;

/// Writes one round. True if a death was told.
fn write_round(ledger: Ledger, lock: &RwLock) -> bool {
    let died = matches!(lock.write(soon()).unwrap(), Acquired::HolderDied { .. });
    let (value, twin) = (ledger.get(GUARDED), ledger.get(TWIN));
    assert!(value == twin || (died && twin == value + 1), "two write, or nobody was told: {value}, {twin}, {died}");
    ledger.set(TWIN, value + 1);
    std::hint::spin_loop();
    ledger.set(GUARDED, value + 1);
    lock.release_write().unwrap();
    died
}

fn read_round(ledger: Ledger, lock: &RwLock) {
    let died = matches!(lock.read(soon()).unwrap(), Acquired::HolderDied { .. });
    let (value, twin) = (ledger.get(GUARDED), ledger.get(TWIN));
    assert!(died || value == twin, "somebody writes beside a reader");
    lock.release_read().unwrap();
}

/// Nothing is left of the dead, and the lock can be had both ways.
fn is_free(lock: &RwLock) {
    lock.write(soon()).unwrap();
    lock.release_write().unwrap();
    assert_eq!(lock.write(soon()).unwrap(), Acquired::Clean);
    lock.release_write().unwrap();
    assert_eq!(lock.read(soon()).unwrap(), Acquired::Clean);
    assert_eq!(lock.readers(), 1);
    lock.release_read().unwrap();
}

/// The victim reads or writes; a reader and a writer all the time.
fn contended(ledger: Ledger, writes: bool) -> Trial {
    let lock = RwLock::new().unwrap();
    let (victim, reader, writer, after) = (lock.clone(), lock.clone(), lock.clone(), lock);
    Trial::new(
        move || {
            for _ in 0..3 {
                if writes {
                    write_round(ledger, &victim);
                } else {
                    read_round(ledger, &victim);
                }
                ledger.add(ACKNOWLEDGED, 1);
            }
        },
        move |stage, fate| {
            stage.join_beside();
            is_free(&after);
            let written = ledger.get(GUARDED) - ledger.get(SURVIVED);
            let acknowledged = if writes { ledger.get(ACKNOWLEDGED) } else { 0 };
            assert!(written == acknowledged || (writes && fate == Fate::Died && written == acknowledged + 1));
        },
    )
    .beside(move || (0..40).for_each(|_| read_round(ledger, &reader)))
    .beside(move || {
        for _ in 0..40 {
            write_round(ledger, &writer);
            ledger.add(SURVIVED, 1);
        }
    })
}

/// The parent has it one way; the victim waits for it to write, and a reader behind the victim.
fn waiting(ledger: Ledger, parent_writes: bool) -> Trial {
    let lock = RwLock::new().unwrap();
    if parent_writes { lock.write(soon()) } else { lock.read(soon()) }.unwrap();
    let (victim, reader, parent, after) = (lock.clone(), lock.clone(), lock.clone(), lock);
    let meanwhile = move |stage: &mut Stage| {
        stage.until_asleep();
        stage.add_asleep(move || {
            reader.read(Deadline::Never).unwrap();
            ledger.add(SURVIVED, 1);
            reader.release_read().unwrap();
        });
        if parent_writes { parent.release_write() } else { parent.release_read() }.unwrap();
    };
    Trial::new(
        move || {
            victim.write(Deadline::Never).unwrap();
            victim.release_write().unwrap();
            ledger.add(ACKNOWLEDGED, 1);
        },
        move |stage, fate| {
            stage.join_beside();
            assert_eq!(ledger.get(SURVIVED), 1);
            assert!(fate == Fate::Died || ledger.get(ACKNOWLEDGED) == 1);
            is_free(&after);
        },
    )
    .meanwhile(meanwhile)
}

/// The victim is killed while it has the lock, twice if it reads; a writer and a reader wait.
fn killed(ledger: Ledger, writes: bool) -> Trial {
    let lock = RwLock::new().unwrap();
    let (victim, writer, reader, after) = (lock.clone(), lock.clone(), lock.clone(), lock);
    Trial::new(
        move || {
            if writes {
                victim.write(soon()).unwrap();
            } else {
                victim.read(soon()).unwrap();
                victim.read(soon()).unwrap();
            }
            ledger.set(THERE, 1);
            Event::new().unwrap().wait(Deadline::Never).unwrap();
        },
        move |stage, fate| {
            assert_eq!(fate, Fate::Died);
            stage.join_beside();
            is_free(&after);
        },
    )
    .meanwhile(move |stage| {
        if stage.until_asleep() && ledger.get(THERE) == 1 {
            stage.add_asleep(move || {
                let acquired = writer.write(Deadline::Never).unwrap();
                assert_eq!(matches!(acquired, Acquired::HolderDied { .. }), writes);
                writer.release_write().unwrap();
            });
            // Readers come in beside a reader, but not before a writer that waits.
            assert!(matches!(reader.read(Deadline::Now), Err(Error::TimedOut)));
            stage.add_asleep(move || {
                reader.read(Deadline::Never).unwrap();
                reader.release_read().unwrap();
            });
            stage.kill_victim();
        }
    })
}

/// The victim does something once; two others want it done.
fn once(ledger: Ledger) -> Trial {
    let once = Once::new().unwrap();
    let begin = move |once: &Once| match once.begin(soon()).unwrap() {
        Begun::Done => assert_eq!(ledger.get(GUARDED), 2),
        Begun::Mine { died } => {
            let before = ledger.at(GUARDED).swap(1, Ordering::SeqCst);
            assert!(before == 0 || died.is_some(), "done twice");
            ledger.set(GUARDED, 2);
            once.finish();
        }
    };
    let (victim, first, second, after) = (once.clone(), once.clone(), once.clone(), once);
    Trial::new(
        move || {
            begin(&victim);
            ledger.set(ACKNOWLEDGED, 1);
        },
        move |stage, _| {
            stage.join_beside();
            begin(&after);
            assert!(after.is_done());
            assert_eq!(after.begin(soon()).unwrap(), Begun::Done);
        },
    )
    .beside(move || begin(&first))
    .beside(move || begin(&second))
}

/// The victim alone; when it is done it stays done, when it is not the next one does it.
fn once_alone(ledger: Ledger) -> Trial {
    let once = Once::new().unwrap();
    let victim = once.clone();
    Trial::new(
        move || {
            assert_eq!(victim.begin(soon()).unwrap(), Begun::Mine { died: None });
            ledger.set(GUARDED, 1);
            victim.finish();
            ledger.set(ACKNOWLEDGED, 1);
        },
        move |_, fate| match once.begin(soon()).unwrap() {
            Begun::Done => assert_eq!(ledger.get(GUARDED), 1),
            Begun::Mine { .. } => {
                assert_eq!(fate, Fate::Died);
                assert_eq!(ledger.get(ACKNOWLEDGED), 0);
                once.finish();
            }
        },
    )
}

pub fn scenarios() -> Vec<Scenario> {
    use Role::{Holder, Waiter};
    vec![
        Scenario::new("rwlock: write, contended", Holder, |l| contended(l, true)),
        Scenario::new("rwlock: read, contended", Holder, |l| contended(l, false)),
        Scenario::new("rwlock: wait behind a writer", Waiter, |l| waiting(l, true)),
        Scenario::new("rwlock: wait behind a reader", Waiter, |l| waiting(l, false)),
        Scenario::new("rwlock: killed while writing", Holder, |l| killed(l, true)),
        Scenario::new("rwlock: killed while reading", Holder, |l| killed(l, false)),
        Scenario::new("once: alone", Holder, once_alone),
        Scenario::new("once: others wait", Holder, once),
    ]
}

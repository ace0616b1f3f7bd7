//! Vectors and tables: whoever changes one dies, and what it had begun is done, or not.

use polyproc_engine::Deadline;
use polyproc_engine::sync::{Event, Table, Vector};
use polyproc_testkit::ledger::Ledger;
use polyproc_testkit::trial::{Fate, Role, Scenario, Trial};
use std::collections::BTreeMap;

/// Operations that the victim has seen return.
const ACKNOWLEDGED: usize = 0;
/// The same of the survivors.
const SURVIVED: usize = 1;
/// The victim is where it is to be killed.
const THERE: usize = 2;

/// An element: the same number four times, so that a torn one shows.
type Element = [u8; 32];

fn element(number: u64) -> Element {
    let mut bytes = [0; 32];
    bytes.chunks_mut(8).for_each(|part| part.copy_from_slice(&number.to_le_bytes()));
    bytes
}

fn number(bytes: &[u8]) -> u64 {
    let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(bytes == element(number), "torn: {bytes:?}");
    number
}

fn elements(vector: &Vector) -> Vec<u64> {
    let inside = vector.enter();
    let mut bytes = vec![0; inside.len() * 32];
    assert!(inside.get(0, &mut bytes));
    bytes.chunks(32).map(number).collect()
}

/// Does a step to a vector, and to what it should be.
fn step_vector(step: u64, vector: Option<&Vector>, model: &mut Vec<u64>) {
    let value = 100 + step;
    let mut out = [0; 32];
    let mut inside = vector.map(Vector::enter);
    match step % 8 {
        0 | 1 | 5 => {
            model.push(value);
            inside.iter_mut().for_each(|inside| inside.push(&element(value)).unwrap());
        }
        2 => {
            model.insert(1, value);
            inside.iter_mut().for_each(|inside| inside.insert(1, &element(value)).unwrap());
        }
        3 => {
            model[0] = value;
            inside.iter_mut().for_each(|inside| assert!(inside.set(0, &element(value))));
        }
        4 => {
            model.remove(0);
            inside.iter_mut().for_each(|inside| assert!(inside.remove(0, &mut out)));
        }
        6 => {
            model.swap_remove(0);
            inside.iter_mut().for_each(|inside| assert!(inside.swap_remove(0, &mut out)));
        }
        _ => {
            model.pop();
            inside.iter_mut().for_each(|inside| assert!(inside.pop(&mut out)));
        }
    }
}

const STEPS: u64 = 16;

/// What must be after so many steps.
fn after<M: Default>(steps: u64, step: impl Fn(u64, &mut M)) -> M {
    let mut model = M::default();
    (0..steps).for_each(|number| step(number, &mut model));
    model
}

fn vector_alone(ledger: Ledger) -> Trial {
    let vector = Vector::new(32, 12).unwrap();
    let victim = vector.clone();
    Trial::new(
        move || {
            let mut model = Vec::new();
            for step in 0..STEPS {
                step_vector(step, Some(&victim), &mut model);
                ledger.add(ACKNOWLEDGED, 1);
            }
        },
        move |_, fate| {
            let (found, done) = (elements(&vector), ledger.get(ACKNOWLEDGED));
            let before = after(done, |step, model| step_vector(step, None, model));
            let begun = after(done + 1, |step, model| step_vector(step, None, model));
            assert!(
                found == before || (fate == Fate::Died && found == begun),
                "{found:?}, not {before:?} nor {begun:?}"
            );
            vector.enter().push(&element(1)).unwrap();
            assert_eq!(elements(&vector).len(), found.len() + 1);
        },
    )
}

/// The victim and another add and take, each as many as it adds.
fn vector_contended(ledger: Ledger) -> Trial {
    let vector = Vector::new(32, 40).unwrap();
    let round = |vector: &Vector, value| {
        let mut out = [0; 32];
        vector.enter().insert(0, &element(value)).unwrap();
        vector.enter().push(&element(value)).unwrap();
        assert!(vector.enter().set(0, &element(value + 1)));
        assert!(vector.enter().remove(0, &mut out));
        number(&out);
        assert!(vector.enter().swap_remove(0, &mut out));
        number(&out);
    };
    let (victim, other) = (vector.clone(), vector.clone());
    Trial::new(
        move || (0..3).for_each(|value| round(&victim, value)),
        move |stage, _| {
            stage.join_beside();
            assert_eq!(ledger.get(SURVIVED), 30);
            // What the victim had added and not taken.
            assert!(elements(&vector).len() <= 2);
        },
    )
    .beside(move || {
        for value in 0..30 {
            round(&other, value);
            ledger.add(SURVIVED, 1);
        }
    })
}

/// The victim is killed while it is inside.
fn vector_killed(ledger: Ledger) -> Trial {
    let vector = Vector::new(32, 4).unwrap();
    let (victim, waiter) = (vector.clone(), vector.clone());
    Trial::new(
        move || {
            let mut inside = victim.enter();
            inside.push(&element(7)).unwrap();
            ledger.set(THERE, 1);
            Event::new().unwrap().wait(Deadline::Never).unwrap();
        },
        move |stage, _| {
            stage.join_beside();
            let found = elements(&vector);
            let (first, second) = (ledger.get(THERE) == 1, ledger.get(SURVIVED) == 1);
            assert!(first || found.is_empty() || found == [7]);
            assert!(!first || found == if second { &[7, 8][..] } else { &[7] });
        },
    )
    .meanwhile(move |stage| {
        if stage.until_asleep() && ledger.get(THERE) == 1 {
            stage.add_asleep(move || {
                waiter.enter().push(&element(8)).unwrap();
                ledger.set(SURVIVED, 1);
            });
            stage.kill_victim();
        }
    })
}

fn entries(table: &Table) -> BTreeMap<u64, u64> {
    let mut all = BTreeMap::new();
    let inside = table.enter();
    inside.each(|key, value| assert_eq!(all.insert(number(key), number(value)), None, "twice"));
    assert_eq!(all.len(), inside.len());
    all
}

fn step_table(step: u64, table: Option<&Table>, model: &mut BTreeMap<u64, u64>) {
    let (key, value) = (step * 7 % 5, 100 + step);
    let mut out = [0; 32];
    let mut inside = table.map(Table::enter);
    if step % 4 == 3 {
        let had = model.remove(&key);
        inside.iter_mut().for_each(|inside| assert_eq!(inside.remove(&element(key), &mut out), had.is_some()));
    } else {
        let had = model.insert(key, value);
        inside.iter_mut().for_each(|inside| {
            assert_eq!(inside.insert(&element(key), &element(value), &mut out).unwrap(), had.is_some());
            assert!(had.is_none_or(|had| had == number(&out)));
        });
    }
}

fn table_alone(ledger: Ledger) -> Trial {
    let table = Table::new(32, 32, 5).unwrap();
    let victim = table.clone();
    Trial::new(
        move || {
            let mut model = BTreeMap::new();
            for step in 0..STEPS {
                step_table(step, Some(&victim), &mut model);
                ledger.add(ACKNOWLEDGED, 1);
            }
        },
        move |_, fate| {
            let (found, done) = (entries(&table), ledger.get(ACKNOWLEDGED));
            let before = after(done, |step, model| step_table(step, None, model));
            let begun = after(done + 1, |step, model| step_table(step, None, model));
            assert!(
                found == before || (fate == Fate::Died && found == begun),
                "{found:?}, not {before:?} nor {begun:?}"
            );
            // No entry is lost: all five keys fit, and a sixth does not.
            for key in 0..5 {
                table.enter().insert(&element(key), &element(1), &mut [0; 32]).unwrap();
            }
            assert!(table.enter().insert(&element(5), &element(1), &mut [0; 32]).is_err());
            assert_eq!(entries(&table).len(), 5);
        },
    )
}

fn table_contended(ledger: Ledger) -> Trial {
    let table = Table::new(32, 32, 20).unwrap();
    // Each has keys of its own, in the same chains.
    let round = |table: &Table, base: u64| {
        let mut out = [0; 32];
        for key in base..base + 4 {
            table.enter().insert(&element(key), &element(base), &mut out).unwrap();
            assert!(table.enter().insert(&element(key), &element(base + 1), &mut out).unwrap());
            assert_eq!(number(&out), base);
        }
        for key in base..base + 4 {
            assert!(table.enter().remove(&element(key), &mut out));
            assert_eq!(number(&out), base + 1);
        }
    };
    let (victim, other) = (table.clone(), table.clone());
    Trial::new(
        move || (0..2).for_each(|_| round(&victim, 100)),
        move |stage, _| {
            stage.join_beside();
            assert_eq!(ledger.get(SURVIVED), 15);
            let left = entries(&table);
            assert!(left.len() <= 4 && left.keys().all(|key| *key >= 100), "{left:?}");
            (0..4).for_each(|base| round(&table, base * 8));
        },
    )
    .beside(move || {
        for _ in 0..15 {
            round(&other, 0);
            ledger.add(SURVIVED, 1);
        }
    })
}

pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("vector: changed, alone", Role::Holder, vector_alone),
        Scenario::new("vector: changed, contended", Role::Holder, vector_contended),
        Scenario::new("vector: killed inside", Role::Holder, vector_killed),
        Scenario::new("table: changed, alone", Role::Holder, table_alone),
        Scenario::new("table: changed, contended", Role::Holder, table_contended),
    ]
}

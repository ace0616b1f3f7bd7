//! The pool's ledger: a worker dies at each step of taking, doing and committing; each task is answered once.

use polyproc_engine::channel::{Envelope, Parcel};
use polyproc_engine::pool::{Ledger, Life, Outcome, Seat, Settled, Taken, Terms, Worker};
use polyproc_engine::process::Status;
use polyproc_engine::shm;
use polyproc_testkit::ledger::Ledger as Notes;
use polyproc_testkit::trial::{Fate, Role, Scenario, Stage, Trial, soon};
use std::sync::Arc;

/// Where a worker notes that it has begun a task: one word for each.
const BEGUN: usize = 16;

fn send(ledger: &Ledger, seat: Seat, id: u64, size: usize, large: bool) {
    let mut record = id.to_le_bytes().to_vec();
    record.resize(8 + size, id as u8);
    let mut parcel = Parcel::new(0, &record).unwrap();
    if large {
        // SAFETY: the bytes live to the end of the call.
        unsafe { parcel.add_buffer(record.as_ptr(), record.len()).unwrap() };
    }
    assert!(ledger.send(seat.number, id, &mut parcel, &mut None, Terms::default()).unwrap());
    ledger.wake(seat.number);
}

/// A worker's whole life: doubles what it is given, until it is told to stop or has done `most` tasks.
fn work(seat: Seat, notes: Notes, most: usize, large: bool) {
    let mut worker = Worker::attach(seat.handle).unwrap();
    worker.ready();
    let mut envelope = Envelope::new();
    for _ in 0..most {
        match worker.take(&mut envelope, soon()).unwrap() {
            Taken::Stop => return,
            Taken::Task(id) => {
                notes.set(BEGUN + id as usize, notes.get(BEGUN + id as usize) + 1);
                assert_eq!(envelope.buffers.len(), usize::from(large));
                envelope.clear();
                let mut result = id.to_le_bytes().to_vec();
                result.extend_from_slice(&(id * 2).to_le_bytes());
                let mut parcel = Parcel::new(0, &result).unwrap();
                if large {
                    // SAFETY: the bytes live to the end of the call.
                    unsafe { parcel.add_buffer(result.as_ptr(), result.len()).unwrap() };
                }
                worker.commit(&mut parcel).unwrap();
            }
        }
    }
}

/// Drains until `tasks` tasks are settled.
fn settle(ledger: &Ledger, tasks: usize) -> Vec<Settled> {
    let mut settled: Vec<Settled> = Vec::new();
    let deadline = soon();
    while settled.iter().filter(|one| one.id != 0).count() < tasks {
        ledger.drain(&mut settled);
        if settled.iter().filter(|one| one.id != 0).count() < tasks {
            ledger.wait(deadline, || false).expect("news in time");
        }
    }
    settled
}

fn life(notes: Notes, tasks: u64, large: bool) -> Trial {
    let ledger = Ledger::new().unwrap();
    let (first, second) = (ledger.open_seat(Life::default()).unwrap(), ledger.open_seat(Life::default()).unwrap());
    for id in 1..=tasks {
        send(&ledger, first, id, 100, large);
    }
    let victim = move || work(first, notes, tasks as usize, large);
    let after = move |stage: &mut Stage, fate: Fate| {
        if fate == Fate::Finished {
            // What it did is there, although it never said goodbye.
            shm::sweep_dead();
        }
        ledger.ended(first.number, 0, Status::Signaled { signal: 9, core: false });
        let settled = settle(&ledger, tasks as usize);
        let mut ids: Vec<u64> = settled.iter().map(|one| one.id).filter(|&id| id != 0).collect();
        ids.sort_unstable();
        assert_eq!(ids, (1..=tasks).collect::<Vec<_>>(), "each task is settled once");
        let mut died = 0;
        for one in &settled {
            match &one.outcome {
                Outcome::Done(bytes) => assert_eq!(bytes[..], (one.id * 2).to_le_bytes()),
                Outcome::Large(envelope) => assert_eq!(envelope.inline[8..], (one.id * 2).to_le_bytes()),
                Outcome::Died(_) => died += 1,
                _ => {}
            }
        }
        assert!(died <= u32::from(fate == Fate::Died), "{died} tasks died with one worker");
        for id in 1..=tasks as usize {
            assert!(notes.get(BEGUN + id) <= 1, "task {id} was begun twice");
        }
        assert_eq!(ledger.unsettled(), 0);
        ledger.stop();
        stage.join_beside();
    };
    Trial::new(victim, after).beside(move || work(second, notes, usize::MAX, large))
}

/// The victim is asleep in its lane when the task comes.
fn asleep(notes: Notes) -> Trial {
    let ledger = Ledger::new().unwrap();
    let seat = ledger.open_seat(Life::default()).unwrap();
    let meanwhile = {
        let ledger = Arc::clone(&ledger);
        move |stage: &mut Stage| {
            stage.until_asleep();
            send(&ledger, seat, 1, 8, false);
        }
    };
    let after = move |_: &mut Stage, fate: Fate| {
        ledger.ended(seat.number, 0, Status::Unknown);
        let mut settled = Vec::new();
        ledger.drain(&mut settled);
        let tasks = settled.iter().filter(|one| one.id != 0).count();
        assert_eq!(tasks + ledger.unsettled(), 1, "settled, or to be done again");
        assert!(fate == Fate::Died || tasks == 1);
    };
    Trial::new(move || work(seat, notes, 1, false), after).meanwhile(meanwhile)
}

/// A bundle of four tasks: two results are added and flushed, one is added, the last goes with the commit. Each entry is one
/// byte, the task's place.
fn bundle(_: Notes) -> Trial {
    const TASKS: u32 = 4;
    let ledger = Ledger::new().unwrap();
    let seat = ledger.open_seat(Life::default()).unwrap();
    assert!(
        ledger
            .send_bundle(
                seat.number,
                1,
                &[&1u64.to_le_bytes()[..], b"four"].concat(),
                Terms { weight: TASKS, ..Terms::default() }
            )
            .unwrap()
    );
    ledger.wake(seat.number);
    let victim = move || {
        let mut worker = Worker::attach(seat.handle).unwrap();
        let mut envelope = Envelope::new();
        assert_eq!(worker.take(&mut envelope, soon()).unwrap(), Taken::Task(1));
        let record = |entries: &[u8]| [&1u64.to_le_bytes()[..], entries].concat();
        assert!(worker.add(&[0]) && worker.add(&[1]));
        worker.flush(&mut Parcel::new(0, &record(&[0, 1])).unwrap(), 2).unwrap();
        assert!(worker.add(&[2]) && worker.add(&[3]));
        worker.commit(&mut Parcel::new(0, &record(&[2, 3])).unwrap()).unwrap();
    };
    let after = move |_: &mut Stage, fate: Fate| {
        ledger.ended(seat.number, 0, Status::Unknown);
        let mut settled = Vec::new();
        while ledger.drain(&mut settled) {}
        let (mut seen, mut died) = (Vec::new(), false);
        for one in &settled {
            match &one.outcome {
                Outcome::Done(bytes) | Outcome::Part(bytes) => seen.extend_from_slice(bytes),
                Outcome::Added(first, count, bytes) => {
                    assert_eq!(bytes.len() as u32, *count);
                    assert!(bytes.first().is_none_or(|&place| u32::from(place) == *first));
                    seen.extend_from_slice(bytes);
                }
                Outcome::Died(_) => died = true,
                _ => {}
            }
        }
        seen.dedup();
        // What was added is there, in order and without a gap; only the same results may come twice, side by side.
        let mut places = seen.clone();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places, (0..places.len() as u8).collect::<Vec<_>>(), "{seen:?}");
        if fate == Fate::Finished {
            assert_eq!((places.len() as u32, died), (TASKS, false));
        }
        assert!(died || places.len() as u32 == TASKS || ledger.unsettled() == 1);
    };
    Trial::new(victim, after)
}

pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("pool: a worker's life", Role::Holder, |notes| life(notes, 4, false)),
        Scenario::new("pool: a worker's life with large tasks", Role::Holder, |notes| life(notes, 3, true)),
        Scenario::new("pool: a bundle of tasks", Role::Holder, bundle),
        Scenario::new("pool: a worker that was asleep", Role::Waiter, asleep),
    ]
}

//! What a ledger makes of workers that work, die, get stuck and are told to stop.

use polyproc_engine::channel::{Envelope, Parcel};
use polyproc_engine::pool::{Because, Ledger, Life, Outcome, Seat, Settled, Taken, Terms, Withdrawn, Worker};
use polyproc_engine::process::{Child, birth, supervisor};
use polyproc_engine::sys::{clock, spawn};
use polyproc_engine::{Deadline, Participant};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Forks of one test must not happen in the middle of another's locks.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn soon() -> Deadline {
    Deadline::after(Some(Duration::from_secs(20)))
}

const SLEEP: u64 = 1 << 40;
const EXIT: u64 = 1 << 41;

/// A worker that answers each task with twice its number; tasks of some numbers do worse.
fn start(ledger: &Arc<Ledger>, seat: Seat) -> Arc<Child> {
    // SAFETY: the child runs only what is below, which takes no lock of the test runner's.
    match unsafe { birth::fork() }.expect("fork") {
        None => spawn::exit_now(work(seat)),
        Some(pid) => {
            let child = Child::adopt(pid, "worker", Participant::NOBODY).expect("adopt");
            ledger.seated(seat.number, &child);
            let ledger = Arc::clone(ledger);
            supervisor::tell(
                &child,
                Box::new(move |child| {
                    let report = child.report().expect("it has ended");
                    ledger.ended(seat.number, report.pid, report.status);
                }),
            );
            child
        }
    }
}

fn work(seat: Seat) -> i32 {
    let mut worker = Worker::attach(seat.handle).expect("the lane");
    worker.ready();
    let mut envelope = Envelope::new();
    loop {
        match worker.take(&mut envelope, Deadline::Never) {
            Ok(Taken::Stop) => return 0,
            Ok(Taken::Task(id)) => {
                if id & EXIT != 0 {
                    return 7;
                }
                if id & SLEEP != 0 {
                    std::thread::sleep(Duration::from_secs(60));
                }
                let mut result = id.to_le_bytes().to_vec();
                result.extend_from_slice(&(id * 2).to_le_bytes());
                worker.commit(&mut Parcel::new(0, &result).expect("small")).expect("room");
            }
            Err(_) => return 3,
        }
    }
}

fn send(ledger: &Ledger, seat: Seat, id: u64) {
    let record = id.to_le_bytes();
    let mut kept = Some(Box::from(record));
    let sent = ledger.send(seat.number, id, &mut Parcel::new(0, &record).expect("small"), &mut kept, Terms::default());
    assert!(sent.expect("room"));
    ledger.wake(seat.number);
}

/// Waits until `done` is true of what is settled.
fn settle(ledger: &Ledger, done: impl Fn(&[Settled]) -> bool) -> Vec<Settled> {
    let mut settled = Vec::new();
    let deadline = soon();
    loop {
        ledger.drain(&mut settled);
        if done(&settled) {
            return settled;
        }
        ledger.balance();
        ledger.wait(deadline, || false).expect("news in time");
    }
}

fn tasks(settled: &[Settled]) -> usize {
    settled.iter().filter(|one| one.id != 0).count()
}

fn of(settled: &[Settled], id: u64) -> &Outcome {
    &settled.iter().find(|one| one.id == id).expect("settled").outcome
}

#[test]
fn every_task_is_settled_once_with_its_result() {
    let _turn = turn();
    let ledger = Ledger::new().expect("a ledger");
    let seats = [(); 2].map(|()| ledger.open_seat(Life::default()).expect("a seat"));
    let children = seats.map(|seat| start(&ledger, seat));
    let mut next = 1;
    let mut settled = Vec::new();
    loop {
        ledger.drain(&mut settled);
        if tasks(&settled) == 1000 {
            break;
        }
        while next <= 1000
            && let Some(room) = ledger.room()
        {
            let seat = seats.into_iter().find(|seat| seat.number == room.seat).expect("one of ours");
            send(&ledger, seat, next);
            next += 1;
        }
        ledger.wait(soon(), || false).expect("news in time");
    }
    let mut ids: Vec<u64> = settled.iter().map(|one| one.id).filter(|&id| id != 0).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=1000).collect::<Vec<_>>());
    for one in &settled {
        if let Outcome::Done(bytes) = &one.outcome {
            assert_eq!(bytes[..], (one.id * 2).to_le_bytes());
        }
    }
    ledger.stop();
    for child in children {
        child.wait(soon()).expect("it stops");
    }
}

#[test]
fn a_death_costs_the_task_that_ran_and_no_other() {
    let _turn = turn();
    let ledger = Ledger::new().expect("a ledger");
    let [first, second] = [(); 2].map(|()| ledger.open_seat(Life::default()).expect("a seat"));
    for id in [1, EXIT | 2, 3, 4] {
        send(&ledger, first, id);
    }
    let child = start(&ledger, first);
    let other = start(&ledger, second);
    let settled = settle(&ledger, |settled| tasks(settled) == 4);
    assert!(matches!(of(&settled, 1), Outcome::Done(_)));
    let Outcome::Died(ended) = of(&settled, EXIT | 2) else { panic!("it has died") };
    assert_eq!((ended.pid, ended.status.code(), ended.was_ready), (child.pid(), Some(7), true));
    assert!(matches!(of(&settled, 3), Outcome::Done(_)));
    assert!(matches!(of(&settled, 4), Outcome::Done(_)));
    let kept = settled.iter().find(|one| one.id == EXIT | 2).and_then(|one| one.kept.as_deref());
    assert_eq!(kept, Some(&(EXIT | 2).to_le_bytes()[..]), "what was to be kept came back");
    ledger.stop();
    other.wait(soon()).expect("it stops");
}

#[test]
fn tasks_behind_a_long_one_go_to_an_idle_worker() {
    let _turn = turn();
    let ledger = Ledger::new().expect("a ledger");
    let [first, second] = [(); 2].map(|()| ledger.open_seat(Life::default()).expect("a seat"));
    for id in [SLEEP | 1, 2, 3, 4, 5] {
        send(&ledger, first, id);
    }
    let stuck = start(&ledger, first);
    let other = start(&ledger, second);
    let settled = settle(&ledger, |settled| tasks(settled) == 4);
    assert!(settled.iter().all(|one| one.id & SLEEP == 0));
    assert_eq!(ledger.withdraw(SLEEP | 1), Withdrawn::Running);
    let settled = settle(&ledger, |settled| tasks(settled) == 1);
    let Outcome::Died(ended) = of(&settled, SLEEP | 1) else { panic!("it was ended") };
    assert_eq!(ended.because, Some(Because::Cancelled));
    stuck.wait(soon()).expect("it has ended");
    ledger.stop();
    other.wait(soon()).expect("it stops");
}

#[test]
fn a_task_that_runs_too_long_is_ended_and_those_behind_it_are_done() {
    let _turn = turn();
    let ledger = Ledger::new().expect("a ledger");
    let seat = ledger.open_seat(Life::default()).expect("a seat");
    send(&ledger, seat, SLEEP | 1);
    send(&ledger, seat, 2);
    let child = start(&ledger, seat);
    let limit = |id: u64| (id & SLEEP != 0).then_some(50_000_000);
    let begun = clock::now();
    let mut settled = Vec::new();
    while tasks(&settled) < 1 {
        let next = ledger.expire(limit);
        let _ = ledger.wait(if next == Deadline::Never { soon() } else { next }, || false);
        ledger.drain(&mut settled);
        assert!(clock::now() - begun < 20_000_000_000, "in time");
    }
    let Outcome::Died(ended) = of(&settled, SLEEP | 1) else { panic!("it was ended") };
    assert_eq!(ended.because, Some(Because::TimedOut));
    child.wait(soon()).expect("it has ended");
    // A replacement does what was left.
    let seat = ledger.open_seat(Life::default()).expect("a seat");
    let child = start(&ledger, seat);
    let rest = settle(&ledger, |settled| tasks(settled) == 1);
    assert!(matches!(of(&rest, 2), Outcome::Done(_)));
    ledger.stop();
    child.wait(soon()).expect("it stops");
}

#[test]
fn a_task_that_has_not_begun_can_be_taken_back() {
    let _turn = turn();
    let ledger = Ledger::new().expect("a ledger");
    let seat = ledger.open_seat(Life::default()).expect("a seat");
    for id in 1..=3 {
        send(&ledger, seat, id);
    }
    assert_eq!(ledger.withdraw(2), Withdrawn::Unbegun);
    assert_eq!(ledger.withdraw(2), Withdrawn::Unknown);
    assert_eq!(ledger.unsettled(), 2);
}

#[test]
fn a_worker_gets_no_more_than_its_share() {
    let _turn = turn();
    let ledger = Ledger::new().expect("a ledger");
    let seat = ledger.open_seat(Life { tasks: Some(1), ..Life::default() }).expect("a seat");
    assert_eq!(ledger.room().expect("room").tasks, 1);
    send(&ledger, seat, 1);
    assert!(ledger.room().is_none());
    let child = start(&ledger, seat);
    settle(&ledger, |settled| settled.iter().any(|one| matches!(one.outcome, Outcome::Left(_))));
    assert!(child.has_ended());
}

#[test]
fn what_is_more_urgent_goes_before_what_has_not_begun() {
    let _turn = turn();
    let ledger = Ledger::new().expect("a ledger");
    let seat = ledger.open_seat(Life::default()).expect("a seat");
    // Nobody takes them yet.
    for id in [2, 3] {
        send(&ledger, seat, id);
    }
    assert!(ledger.room_for(5).is_some());
    let terms = Terms { priority: 5, ..Terms::default() };
    let record = 9u64.to_le_bytes();
    assert!(ledger.send(seat.number, 9, &mut Parcel::new(0, &record).expect("small"), &mut None, terms).expect("room"));
    ledger.wake(seat.number);
    start(&ledger, seat);
    let settled = settle(&ledger, |settled| tasks(settled) == 3);
    let order: Vec<_> = settled.iter().map(|one| one.id).filter(|&id| id != 0).collect();
    assert_eq!(order, [9, 2, 3]);
    ledger.stop();
    settle(&ledger, |settled| settled.iter().any(|one| matches!(one.outcome, Outcome::Left(_))));
}

#[test]
fn workers_that_are_not_wanted_leave_their_tasks_to_others() {
    let _turn = turn();
    let ledger = Ledger::new().expect("a ledger");
    let [first, second] = [(); 2].map(|()| ledger.open_seat(Life::default()).expect("a seat"));
    send(&ledger, first, 2);
    for id in [3, 4] {
        send(&ledger, second, id);
    }
    assert_eq!(ledger.retire(1), [first.number]);
    assert_eq!((ledger.open_seats(), ledger.retiring()), (1, vec![first.number]));
    start(&ledger, first);
    start(&ledger, second);
    let over = |settled: &[Settled]| {
        tasks(settled) == 3
            && settled.iter().any(|one| matches!(&one.outcome, Outcome::Left(ended) if ended.seat == first.number))
    };
    settle(&ledger, over);
    assert_eq!(ledger.retire_idle(0, 1), Deadline::Never);
    assert_eq!(ledger.retire_idle(0, 0), Deadline::Never);
    settle(&ledger, |settled| settled.iter().any(|one| matches!(one.outcome, Outcome::Left(_))));
    assert_eq!(ledger.open_seats(), 0);
}

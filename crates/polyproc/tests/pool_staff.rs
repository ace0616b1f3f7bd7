//! What is urgent goes first, and a pool has as many workers as it was told.
#![allow(clippy::unwrap_used, reason = "tests")]

use polyproc::prelude::*;
use polyproc::{Barrier, Event, Shared};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

fn hold(begun: Event, go: Event) {
    begun.set();
    go.wait();
}

fn report(order: Queue<i32>, what: i32) {
    order.put(&what).unwrap();
}

/// A pool of one worker, which is in a task until the event is set.
fn held() -> (Pool, Event) {
    let pool = Pool::builder().workers(1).retry(1).build().unwrap();
    let (begun, go) = (Event::new().unwrap(), Event::new().unwrap());
    drop(pool.submit(hold, (begun.clone(), go.clone())).unwrap());
    begun.wait();
    (pool, go)
}

#[test]
fn what_is_urgent_goes_first_and_the_older_before_the_younger() {
    let (pool, go) = held();
    let order = Queue::unbounded().unwrap();
    for (at, priority) in (0..).zip([0, -3, 7, 0, 7, -3, i32::MAX, i32::MIN]) {
        drop(pool.with().priority(priority).submit(report, (order.clone(), at)).unwrap());
    }
    go.set();
    pool.finish();
    let order: Vec<i32> = std::iter::from_fn(|| order.try_get().ok()).collect();
    assert_eq!(order, [6, 2, 4, 0, 3, 1, 5, 7]);
}

#[test]
fn what_is_urgent_overtakes_what_lies_in_a_lane_already() {
    let pool = Pool::builder().workers(1).build().unwrap();
    // So that the pool knows that tasks are short, and sends many ahead.
    pool.map(|x: u32| x, 0..1000).unwrap().for_each(drop);
    let (begun, go) = (Event::new().unwrap(), Event::new().unwrap());
    let order = Queue::unbounded().unwrap();
    drop(pool.submit(hold, (begun.clone(), go.clone())).unwrap());
    begun.wait();
    for at in 0..100 {
        drop(pool.submit(report, (order.clone(), at)).unwrap());
    }
    for at in 100..103 {
        drop(pool.with().priority(1).submit(report, (order.clone(), at)).unwrap());
    }
    go.set();
    pool.finish();
    let order: Vec<i32> = std::iter::from_fn(|| order.try_get().ok()).collect();
    let expected: Vec<i32> = (100..103).chain(0..100).collect();
    assert_eq!(order, expected);
}

fn dies_once(tries: Shared<AtomicU64>, order: Queue<i32>, what: i32) {
    if tries.fetch_add(1, Ordering::SeqCst) == 0 {
        std::process::abort();
    }
    order.put(&what).unwrap();
}

#[test]
fn what_is_tried_again_is_as_urgent_as_it_was() {
    let (pool, go) = held();
    let (tries, order) = (Shared::new(AtomicU64::new(0)).unwrap(), Queue::unbounded().unwrap());
    drop(pool.submit(report, (order.clone(), 3)).unwrap());
    drop(pool.with().priority(5).submit(report, (order.clone(), 2)).unwrap());
    drop(pool.with().priority(9).submit(dies_once, (tries, order.clone(), 1)).unwrap());
    go.set();
    pool.finish();
    assert_eq!([order.get(), order.get(), order.get()].map(Result::unwrap), [1, 2, 3]);
}

#[test]
fn a_task_of_any_priority_can_be_taken_back() {
    let (pool, go) = held();
    let order = Queue::unbounded().unwrap();
    let mut tickets: Vec<_> =
        (-2..=2).map(|at| pool.with().priority(at).submit(report, (order.clone(), at)).unwrap()).collect();
    tickets.remove(3).cancel();
    tickets.remove(0).cancel();
    go.set();
    tickets.into_iter().for_each(|ticket| ticket.join().unwrap());
    pool.finish();
    assert_eq!(std::iter::from_fn(|| order.try_get().ok()).collect::<Vec<_>>(), [2, 0, -1]);
}

fn dies() {
    std::process::abort();
}

fn meet(barrier: Barrier) -> u32 {
    barrier.wait().unwrap();
    std::process::id()
}

fn pid(_: u32) -> u32 {
    std::process::id()
}

/// The workers of a pool, all of which have to be there at the same time.
fn all(pool: &Pool, count: u32) -> HashSet<u32> {
    let barrier = Barrier::new(count).unwrap();
    let tickets: Vec<_> = (0..count).map(|_| pool.submit(meet, (barrier.clone(),)).unwrap()).collect();
    tickets.into_iter().map(|ticket| ticket.join().unwrap()).collect()
}

#[test]
fn a_pool_grows_and_what_waits_is_done_by_those_who_come() {
    let pool = Pool::builder().workers(1).build().unwrap();
    let barrier = Barrier::new(3).unwrap();
    let tickets: Vec<_> = (0..3).map(|_| pool.submit(meet, (barrier.clone(),)).unwrap()).collect();
    pool.resize(3).unwrap();
    assert_eq!(pool.workers(), 3);
    let pids: HashSet<u32> = tickets.into_iter().map(|ticket| ticket.join().unwrap()).collect();
    assert_eq!(pids.len(), 3, "each met the others");
}

#[test]
fn a_pool_shrinks_and_replaces_the_dead_by_no_more_than_it_should_have() {
    let pool = Pool::builder().workers(3).build().unwrap();
    let before = all(&pool, 3);
    pool.resize(0).unwrap();
    assert_eq!(pool.workers(), 1, "a pool has one worker at least");
    let after: HashSet<u32> = pool.map(pid, 0..50).unwrap().map(Result::unwrap).collect();
    assert_eq!(after.len(), 1);
    assert!(after.is_subset(&before), "it was there before");
    assert!(matches!(pool.submit(dies, ()).unwrap().join(), Err(TaskError::Crashed { .. })));
    let replaced: HashSet<u32> = pool.map(pid, 0..50).unwrap().map(Result::unwrap).collect();
    assert_eq!(replaced.len(), 1);
    assert!(replaced.is_disjoint(&before));
    pool.resize(2).unwrap();
    assert_eq!(all(&pool, 2).len(), 2);
}

#[test]
fn no_task_is_lost_or_done_twice_while_the_number_of_workers_changes() {
    let pool = Pool::builder().workers(2).recycle_after(40).build().unwrap();
    let done = Shared::new(AtomicU64::new(0)).unwrap();
    let count = |done: Shared<AtomicU64>, item: u64| {
        done.fetch_add(1, Ordering::SeqCst);
        item
    };
    let mut results = pool.starmap(count, (0..600).map(|item| (done.clone(), item))).unwrap();
    for (at, size) in (0..).zip([3, 1, 2, 4, 1, 3]) {
        pool.resize(size).unwrap();
        for expected in at * 100..(at + 1) * 100 {
            assert_eq!(results.next().unwrap().unwrap(), expected);
        }
    }
    assert!(results.next().is_none());
    assert_eq!(done.load(Ordering::SeqCst), 600);
}

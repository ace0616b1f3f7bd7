//! Tickets among other things to wait for.
#![allow(clippy::unwrap_used, reason = "tests")]

use polyproc::prelude::*;
use polyproc::{Event, Select, wait};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

fn hold(go: Event) -> u32 {
    go.wait();
    7
}

fn dies() {
    std::process::abort();
}

#[test]
fn a_ticket_is_ready_when_its_task_is_done_and_stays_so() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let go = Event::new().unwrap();
    let slow = pool.submit(hold, (go.clone(),)).unwrap();
    let mut quick = pool.submit(|| 1, ()).unwrap();
    let mut select = Select::new();
    assert_eq!((select.add(&slow), select.add(&quick)), (0, 1));
    assert_eq!(select.ready().unwrap(), 1);
    assert_eq!(select.try_ready().unwrap(), 1);
    drop(select);
    assert_eq!(quick.try_join().unwrap().unwrap(), 1);
    go.set();
    assert_eq!(wait([&slow as &dyn AsFd], None).unwrap(), [0]);
    assert!(slow.is_done());
    assert_eq!(slow.descriptor().unwrap().as_raw_fd(), slow.descriptor().unwrap().as_raw_fd(), "there is one");
    assert_eq!(slow.join().unwrap(), 7);
}

#[test]
fn a_ticket_that_is_asked_for_a_descriptor_afterwards_is_ready_at_once() {
    let pool = Pool::builder().workers(1).build().unwrap();
    let mut ticket = pool.submit(|| 1, ()).unwrap();
    while !ticket.is_done() {
        std::thread::yield_now();
    }
    assert_eq!(wait([&ticket as &dyn AsFd], Some(Duration::ZERO)).unwrap(), [0]);
    assert!(ticket.try_join().unwrap().is_ok());
    let mut other = pool.submit(|| 1, ()).unwrap();
    assert_eq!(other.join_timeout(Duration::MAX).unwrap(), 1);
    assert_eq!(wait([&other as &dyn AsFd], Some(Duration::ZERO)).unwrap(), [0], "its result was given");
}

#[test]
fn a_ticket_is_ready_when_its_worker_dies_and_when_its_pool_is_dropped() {
    let pool = Pool::builder().workers(1).build().unwrap();
    let dies = pool.submit(dies, ()).unwrap();
    assert_eq!(wait([&dies as &dyn AsFd], None).unwrap(), [0]);
    assert!(matches!(dies.join(), Err(TaskError::Crashed { .. })));
    let late = pool.with().timeout(Duration::from_millis(20)).submit(hold, (Event::new().unwrap(),)).unwrap();
    assert_eq!(wait([&late as &dyn AsFd], None).unwrap(), [0]);
    assert!(matches!(late.join(), Err(TaskError::TimedOut { .. })));
    let endless = pool.submit(hold, (Event::new().unwrap(),)).unwrap();
    endless.descriptor().unwrap();
    drop(pool);
    assert_eq!(wait([&endless as &dyn AsFd], Some(Duration::ZERO)).unwrap(), [0]);
    assert!(matches!(endless.join(), Err(TaskError::NotDone { .. })));
}

#[test]
fn each_of_many_tickets_is_told_of() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let mut tickets: Vec<_> = (0..100u32).map(|at| pool.submit(|at: u32| at, (at,)).unwrap()).collect();
    let mut sum = 0;
    while !tickets.is_empty() {
        let ready = wait(tickets.iter().map(|ticket| ticket as &dyn AsFd), None).unwrap();
        assert!(!ready.is_empty());
        for at in ready.into_iter().rev() {
            sum += tickets.swap_remove(at).join().unwrap();
        }
    }
    assert_eq!(sum, 4950);
}

//! The matrix of crashes in a pool: each way for a worker to end is told apart, costs one task, and leaves nothing behind.
#![allow(clippy::unwrap_used, dead_code, reason = "tests")]

mod common;

use polyproc::{Pool, Queue, TaskError};
use std::time::Duration;

const WAYS: u32 = 9;

fn ends(way: u32) -> u32 {
    match way {
        0 => panic!("zero"),
        1 => std::process::abort(),
        // SAFETY: none: it is meant to crash.
        2 => unsafe { std::ptr::read_volatile(std::ptr::without_provenance(8)) },
        3 => {
            polyproc_engine::sys::signal::raise_in_process(9);
            0
        }
        4 => std::process::exit(3),
        5 => overflows(0),
        6 => hoards(),
        7 => sleeps(),
        _ => way,
    }
}

#[expect(unconditional_recursion, reason = "it is meant to overflow the stack")]
fn overflows(depth: u32) -> u32 {
    std::hint::black_box([depth; 64]);
    overflows(depth + 1) + std::hint::black_box(depth)
}

fn hoards() -> u32 {
    let mut hoard = Vec::new();
    loop {
        hoard.push(vec![1u8; 1 << 20]);
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn sleeps() -> u32 {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn double(number: u32) -> u32 {
    number * 2
}

fn says_and_sleeps(begun: Queue<u32>) -> u32 {
    begun.put(&std::process::id()).unwrap();
    sleeps()
}

/// Every way to end, among tasks that do not.
fn every_end_costs_one_task(pool: &Pool) {
    let numbers: Vec<_> = (0..100).map(|number| pool.submit(double, (number,)).unwrap()).collect();
    let terms = |way| match way {
        6 => pool.with().memory_limit(64 << 20),
        7 => pool.with().timeout(Duration::from_millis(100)),
        _ => pool.with(),
    };
    let ways: Vec<_> = (0..WAYS).map(|way| terms(way).submit(ends, (way,)).unwrap()).collect();
    let more: Vec<_> = (100..200).map(|number| pool.submit(double, (number,)).unwrap()).collect();
    for (way, ticket) in ways.into_iter().enumerate() {
        match (way, ticket.join()) {
            (0, Err(TaskError::Panicked { message, .. })) => assert_eq!(message, "zero"),
            (1, Err(TaskError::Crashed { signal: 6, .. }))
            | (2, Err(TaskError::Crashed { signal: 11, .. }))
            | (3, Err(TaskError::Crashed { signal: 9, .. }))
            | (4, Err(TaskError::Exited { code: 3, .. }))
            | (5, Err(TaskError::Crashed { signal: 6 | 11, .. }))
            | (6, Err(TaskError::MemoryLimit { .. }))
            | (7, Err(TaskError::TimedOut { .. }))
            | (8, Ok(8)) => {}
            (_, other) => panic!("{way}: {other:?}"),
        }
    }
    for (number, ticket) in (0..).zip(numbers.into_iter().chain(more)) {
        assert_eq!(ticket.join().unwrap(), number * 2, "no other task is lost");
    }
    // A ticket that is dropped is forgotten; one that is cancelled ends its worker.
    let begun = Queue::unbounded().unwrap();
    let cancelled = pool.submit(says_and_sleeps, (begun.clone(),)).unwrap();
    let pid = begun.get_timeout(Duration::from_secs(10)).unwrap();
    drop(pool.submit(double, (1,)).unwrap());
    cancelled.cancel();
    common::soon("the end of a cancelled task's worker", || !common::runs(pid as i32));
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn every_end_of_a_worker_costs_one_task_and_leaves_nothing() {
    let pool = Pool::builder().workers(2).build().unwrap();
    every_end_costs_one_task(&pool);
    let before = descriptors();
    for _ in 0..9 {
        every_end_costs_one_task(&pool);
    }
    common::soon("the descriptors of the dead are closed", || descriptors() <= before);
    pool.finish();
    let &[zygote] = &common::children_of(std::process::id())[..] else { panic!("one zygote") };
    common::soon("the end of all workers", || common::children_of(zygote as u32).is_empty());
}

//! A pool goes on, whatever becomes of its workers.
#![allow(clippy::unwrap_used, reason = "tests")]

use polyproc::{Bytes, Lock, Pool, Queue, TaskError};
use std::time::{Duration, Instant};

fn square(number: u64) -> u64 {
    number * number
}

#[test]
fn results_come_in_the_order_of_the_items() {
    let pool = Pool::builder().workers(3).build().unwrap();
    let squares: Vec<u64> = pool.map(square, 0..20_000).unwrap().map(Result::unwrap).collect();
    assert!(squares.iter().enumerate().all(|(i, &square)| square == (i * i) as u64));
    pool.finish();
}

fn every_end(number: u32) -> u32 {
    match number % 10 {
        3 => panic!("three"),
        5 => std::process::abort(),
        7 => std::process::exit(7),
        9 => {
            polyproc_engine::sys::signal::raise_in_process(9);
            0
        }
        _ => number,
    }
}

#[test]
fn each_death_is_the_error_of_one_task_and_no_other_is_lost() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let results: Vec<_> = pool.map(every_end, 0..100).unwrap().collect();
    assert_eq!(results.len(), 100);
    for (number, result) in results.into_iter().enumerate() {
        match (number % 10, result) {
            (3, Err(TaskError::Panicked { message, process, .. })) => {
                assert_eq!(message, "three");
                assert!(process.pid > 1 && process.name.starts_with("pool-"), "{process}");
            }
            (5, Err(TaskError::Crashed { signal: 6, .. }))
            | (7, Err(TaskError::Exited { code: 7, .. }))
            | (9, Err(TaskError::Crashed { signal: 9, .. })) => {}
            (_, Ok(same)) => assert_eq!(same as usize, number),
            (_, other) => panic!("{number}: {other:?}"),
        }
    }
    pool.finish();
}

#[test]
fn a_task_whose_worker_died_is_tried_again() {
    let tries = Lock::new(0).unwrap();
    let pool = Pool::builder().workers(1).retry(1).build().unwrap();
    let failed = pool.submit(abort_once_in, (tries.clone(), 5)).unwrap().join();
    assert!(matches!(failed, Err(TaskError::Exited { code: 1, .. })), "{failed:?}");
    assert_eq!(*tries.lock().unwrap(), 2);
    *tries.lock().unwrap() = 0;
    assert_eq!(pool.submit(abort_once_in, (tries.clone(), 2)).unwrap().join().unwrap(), 2);
}

fn abort_once_in(tries: Lock<u32>, wanted: u32) -> u32 {
    let count = {
        let mut count = tries.lock().unwrap();
        *count += 1;
        *count
    };
    if count < wanted {
        std::process::exit(1);
    }
    count
}

fn sleep(milliseconds: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(milliseconds));
    milliseconds
}

#[test]
fn a_late_task_is_ended_and_the_others_are_done() {
    let pool = Pool::builder().workers(2).timeout(Duration::from_millis(300)).build().unwrap();
    let begin = Instant::now();
    let late = pool.submit(sleep, (3_600_000,)).unwrap();
    let others: Vec<_> = (0..20).map(|i| pool.submit(sleep, (i,)).unwrap()).collect();
    for (i, other) in others.into_iter().enumerate() {
        assert_eq!(other.join().unwrap(), i as u64);
    }
    assert!(matches!(late.join(), Err(TaskError::TimedOut { .. })));
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_late_task_is_ended_while_nobody_waits() {
    let pool = Pool::builder().workers(1).timeout(Duration::from_millis(50)).build().unwrap();
    let late = pool.submit(sleep, (3_600_000,)).unwrap();
    let queue = Queue::unbounded().unwrap();
    pool.submit(|queue: Queue<u8>| queue.put(&1).unwrap(), (queue.clone(),)).unwrap();
    assert_eq!(queue.get_timeout(Duration::from_secs(5)).unwrap(), 1);
    assert!(late.is_done());
}

fn pid() -> u32 {
    std::process::id()
}

#[test]
fn workers_are_replaced_after_so_many_tasks() {
    let pool = Pool::builder().workers(1).recycle_after(10).build().unwrap();
    let mut pids: Vec<u32> = (0..50).map(|_| pool.submit(pid, ()).unwrap().join().unwrap()).collect();
    pids.dedup();
    assert_eq!(pids.len(), 5, "{pids:?}");
}

fn reverse(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.reverse();
    bytes
}

#[test]
fn large_items_and_results_arrive() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let items = || (0..20).map(|i| (0..i * 50_000).map(|b| (b * 13 + i) as u8).collect::<Vec<u8>>());
    for (item, result) in items().zip(pool.map(reverse, items()).unwrap()) {
        let mut expected = item;
        expected.reverse();
        assert!(result.unwrap() == expected);
    }
}

#[test]
fn threads_share_a_pool() {
    let pool = Pool::builder().workers(2).build().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let pool = &pool;
            scope.spawn(move || {
                for i in 0..200 {
                    let number = thread * 1000 + i;
                    assert_eq!(pool.submit(square, (number,)).unwrap().join().unwrap(), number * number);
                }
            });
        }
    });
}

#[test]
fn dropping_a_pool_ends_its_workers() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let queue = Queue::unbounded().unwrap();
    let busy = |queue: Queue<u32>| {
        queue.put(&std::process::id()).unwrap();
        std::thread::sleep(Duration::from_secs(3600));
    };
    let ticket = pool.submit(busy, (queue.clone(),)).unwrap();
    let pid = queue.get().unwrap();
    drop(pool);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(ticket.join().is_err());
}

fn picture(size: usize) -> Bytes {
    Bytes::from(vec![3; size])
}

#[test]
fn bytes_come_back_from_a_pool() {
    let pool = Pool::builder().workers(2).build().unwrap();
    for size in [0, 10, 1_000_000] {
        assert!(pool.submit(picture, (size,)).unwrap().join().unwrap().to_vec() == vec![3; size]);
    }
}

#[test]
fn a_cancelled_task_ends_and_the_others_are_done() {
    let pool = Pool::builder().workers(1).build().unwrap();
    let started = Queue::unbounded().unwrap();
    let endless = |started: Queue<u32>| {
        started.put(&std::process::id()).unwrap();
        std::thread::sleep(Duration::from_secs(3600));
    };
    let running = pool.submit(endless, (started.clone(),)).unwrap();
    let waiting = pool.submit(endless, (started.clone(),)).unwrap();
    let next = pool.submit(square, (3,)).unwrap();
    started.get().unwrap();
    waiting.cancel();
    running.cancel();
    assert_eq!(next.join().unwrap(), 9);
    assert!(started.is_empty(), "what was cancelled in time never began");
}

#[test]
fn results_come_as_they_are_done() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let mut seen = [false; 100];
    let mut first = None;
    for (index, result) in pool.map(sleep, std::iter::once(500).chain(std::iter::repeat_n(0, 99))).unwrap().unordered()
    {
        assert_eq!(result.unwrap(), if index == 0 { 500 } else { 0 });
        first.get_or_insert(index);
        assert!(!std::mem::replace(&mut seen[index], true), "{index} came twice");
    }
    assert!(seen.iter().all(|&seen| seen));
    assert_ne!(first, Some(0), "the slow one does not hold up the others");
}

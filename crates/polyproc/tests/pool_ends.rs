//! The matrix of crashes for a pool, in a program of its own: it counts processes and descriptors.
#![allow(clippy::unwrap_used, dead_code, reason = "a test")]

mod common;

use polyproc::{Cause, Pool, Process, TaskError};
use std::time::Duration;

/// Each way for a worker to end, and, in between, tasks that are done.
fn every_end_of_a_worker(number: u32) -> u32 {
    match number % 20 {
        1 => panic!("one"),
        3 => std::process::abort(),
        // SAFETY: none: it is meant to crash.
        5 => unsafe { drop(std::ptr::read_volatile::<Vec<u8>>(std::ptr::without_provenance(8))) },
        7 => polyproc_engine::sys::signal::raise_in_process(9),
        9 => std::process::exit(3),
        11 => {
            common::overflows(0);
        }
        13 => {
            common::hoards();
        }
        15 => common::spins(),
        17 => std::thread::sleep(Duration::from_secs(3600)),
        _ => {}
    }
    number
}

/// The matrix of crashes, for a pool; ten times over.
#[test]
fn a_pool_tells_all_ends_of_its_workers_apart_and_leaves_nothing_behind() {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut before = None;
    for round in 0..10 {
        // A panic that prints where it was takes much of both.
        let process = Process::builder().env("RUST_BACKTRACE", "0").memory_limit(64 << 20);
        let pool = Pool::builder().workers(2).process(process.cpu_limit(Duration::from_millis(500))).build().unwrap();
        let late = pool.with().timeout(Duration::from_millis(50)).submit(every_end_of_a_worker, (17,)).unwrap();
        let numbers = (0..20).map(|number| if number == 17 { 18 } else { number });
        let results: Vec<_> = pool.map(every_end_of_a_worker, numbers).unwrap().collect();
        assert!(matches!(late.join(), Err(TaskError::TimedOut { .. })));
        assert_eq!(results.len(), 20);
        for (number, result) in results.into_iter().enumerate() {
            match (number, result) {
                (1, Err(TaskError::Panicked { .. }))
                | (3, Err(TaskError::Crashed { signal: 6, .. }))
                | (5, Err(TaskError::Crashed { signal: 11, .. }))
                | (7, Err(TaskError::Crashed { signal: 9, cause: Cause::Unknown, .. }))
                | (9, Err(TaskError::Exited { code: 3, .. }))
                | (11, Err(TaskError::Crashed { signal: 6 | 11, .. }))
                | (13, Err(TaskError::MemoryLimit { .. }))
                | (15, Err(TaskError::CpuLimit { .. })) => {}
                (17, Ok(18)) => {}
                (_, Ok(same)) if number % 2 == 0 || number == 19 => assert_eq!(same as usize, number),
                (_, other) => panic!("round {round}, task {number}: {other:?}"),
            }
        }
        // A pool that is dropped leaves as little as one that is finished.
        if round % 2 == 0 {
            pool.finish()
        } else {
            drop(pool)
        }
        let zygote = common::children_of(std::process::id())[0];
        common::soon("the end of all workers", || common::children_of(zygote as u32).is_empty());
        // The first round has opened what stays: the session, the zygote, the supervisor.
        let known = *before.get_or_insert_with(open);
        common::soon("the end of all descriptors", || open() <= known);
    }
}

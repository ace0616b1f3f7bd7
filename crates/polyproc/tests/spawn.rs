//! The crash matrix in a test binary as everybody writes them: the program is started once more, as the zygote.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use polyproc::{Cause, Process, Queue, TaskError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One test counts the processes that there are: they take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_end_is_told_apart() {
    let _turn = turn();
    common::every_end_is_told_apart();
}

#[test]
fn a_process_has_processes_of_its_own() {
    let _turn = turn();
    common::a_process_has_processes_of_its_own();
}

#[test]
fn the_children_of_a_killed_process_end_soon() {
    let _turn = turn();
    common::the_children_of_a_killed_process_end_soon();
}

#[test]
fn a_lock_outlives_its_holders() {
    let _turn = turn();
    common::a_lock_outlives_its_holders();
}

#[test]
fn nothing_is_left() {
    let _turn = turn();
    common::nothing_is_left();
}

fn length(bytes: Vec<u8>) -> (usize, Vec<u8>) {
    (bytes.len(), bytes)
}

#[test]
fn large_arguments_and_results_arrive() {
    let _turn = turn();
    for size in [0, 1000, 70_000, 5_000_000] {
        let bytes: Vec<u8> = (0..size).map(|i| (i * 7) as u8).collect();
        let (count, back) = Process::spawn(length, (bytes.clone(),)).unwrap().join().unwrap();
        assert_eq!(count, size);
        assert!(back == bytes, "{size} bytes came back changed");
    }
}

fn make_queue() -> Queue<String> {
    let queue = Queue::unbounded().unwrap();
    queue.put("made by a process that has ended").unwrap();
    queue
}

#[test]
fn a_queue_made_by_a_process_outlives_it() {
    let _turn = turn();
    let queue = Process::spawn(make_queue, ()).unwrap().join().unwrap();
    assert_eq!(queue.try_get().unwrap(), "made by a process that has ended");
}

#[test]
fn threads_spawn_at_the_same_time() {
    let _turn = turn();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            scope.spawn(move || {
                for i in 0..10 {
                    let child = Process::spawn(common::give, (thread * 100 + i,)).unwrap();
                    assert_eq!(child.join().unwrap(), thread * 100 + i);
                }
            });
        }
    });
}

fn where_am_i() -> std::path::PathBuf {
    std::env::current_dir().unwrap()
}

#[test]
fn a_process_begins_where_it_was_asked_for() {
    let _turn = turn();
    let before = std::env::current_dir().unwrap();
    Process::spawn(common::give, (1,)).unwrap().join().unwrap();
    std::env::set_current_dir("/").unwrap();
    let place = Process::spawn(where_am_i, ()).unwrap().join();
    std::env::set_current_dir(before).unwrap();
    assert_eq!(place.unwrap(), std::path::Path::new("/"));
}

#[test]
fn a_killed_zygote_is_replaced() {
    let _turn = turn();
    let mut child = Process::spawn(common::sleeps_for_ever, ()).unwrap();
    let zygote = zygote_of(child.pid());
    std::process::Command::new("kill").args(["-9", &zygote.to_string()]).status().unwrap();
    let error = child.join_timeout(Duration::from_secs(10)).unwrap_err();
    match error {
        TaskError::Crashed { signal: 9, cause: Cause::ZygoteGone, .. } => {}
        // Linux before 6.15 tells a process's end to its parent alone.
        TaskError::Lost { .. } => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(Process::spawn(common::give, (5,)).unwrap().join().unwrap(), 5);
}

fn zygote_of(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

#[test]
fn a_handle_is_refused_outside_of_messages() {
    let _turn = turn();
    let queue: Queue<u8> = Queue::unbounded().unwrap();
    assert!(postcard::to_allocvec(&queue).is_err());
}

fn surroundings() -> (Option<String>, Option<String>, std::path::PathBuf, bool) {
    let value = |name| std::env::var(name).ok();
    let status = std::fs::read_to_string("/proc/self/stat").unwrap();
    let group: u32 = status.rsplit(')').next().unwrap().split_whitespace().nth(2).unwrap().parse().unwrap();
    (value("POLYPROC_TEST_A"), value("PATH"), std::env::current_dir().unwrap(), group == std::process::id())
}

#[test]
fn a_process_has_the_surroundings_that_were_asked_for() {
    let _turn = turn();
    let builder = Process::builder().env("POLYPROC_TEST_A", "1").env_remove("PATH").current_dir("/").process_group();
    let found = builder.spawn(surroundings, ()).unwrap().join().unwrap();
    assert_eq!(found, (Some("1".to_owned()), None, "/".into(), true));
    let (a, path, _, leads) = Process::spawn(surroundings, ()).unwrap().join().unwrap();
    assert!(a.is_none() && path.is_some() && !leads);

    let error = Process::builder().current_dir("/no such folder").spawn(surroundings, ()).unwrap().join().unwrap_err();
    assert!(error.to_string().contains("could not be set up"), "{error}");
}

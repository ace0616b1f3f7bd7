//! The matrix of crashes: each way for a process to end, and what its parent is told. Run with both kinds of zygote.

use polyproc::{Cause, Lock, Process, Queue, TaskError};
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub fn give(value: u64) -> u64 {
    value
}

fn panics(number: u32) -> u32 {
    panic!("number {number} is not wanted")
}

fn aborts() {
    std::process::abort()
}

fn reads_nowhere() -> u8 {
    // SAFETY: none: it is meant to crash.
    unsafe { std::ptr::read_volatile(std::ptr::without_provenance(8)) }
}

fn kills_itself() {
    polyproc_engine::sys::signal::raise_in_process(9);
}

fn leaves() {
    std::process::exit(3)
}

#[expect(unconditional_recursion, reason = "it is meant to overflow the stack")]
pub fn overflows(depth: u64) -> u64 {
    std::hint::black_box([depth; 64]);
    overflows(depth + 1) + std::hint::black_box(depth)
}

/// Takes memory for ever, and does nothing but that.
pub fn hoards() -> usize {
    let mut hoard = Vec::new();
    loop {
        hoard.push(vec![1u8; 1 << 20]);
    }
}

pub fn spins() {
    loop {
        std::hint::spin_loop();
    }
}

pub fn sleeps_for_ever() {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn fails(code: i32) -> Result<u32, String> {
    Err(format!("no luck: {code}"))
}

/// Each way to end, with what it is called.
pub fn every_end_is_told_apart() {
    assert_eq!(Process::spawn(give, (7,)).unwrap().join().unwrap(), 7);
    // What the task itself returned is not an error of the process.
    assert_eq!(Process::spawn(fails, (5,)).unwrap().join().unwrap(), Err("no luck: 5".to_owned()));

    let child = Process::builder().name("panicker").spawn(panics, (13,)).unwrap();
    let pid = child.pid();
    match child.join() {
        Err(TaskError::Panicked { process, message, location, .. }) => {
            assert_eq!((process.pid, process.name.as_str()), (pid, "panicker"));
            assert_eq!(message, "number 13 is not wanted");
            assert!(location.unwrap().contains("tests/common/mod.rs:"));
        }
        other => panic!("{other:?}"),
    }

    let crashed = |outcome: Result<(), TaskError>| match outcome {
        Err(TaskError::Crashed { signal, cause, .. }) => (signal, cause),
        other => panic!("{other:?}"),
    };
    assert_eq!(crashed(Process::spawn(aborts, ()).unwrap().join()), (6, Cause::Unknown));
    assert_eq!(crashed(Process::spawn(reads_nowhere, ()).unwrap().join().map(drop)), (11, Cause::Unknown));
    // Rust's runtime turns an overflow into an abort, where it has put its handler in place.
    assert!(matches!(crashed(Process::spawn(overflows, (0,)).unwrap().join().map(drop)), (6 | 11, _)));
    let error = Process::spawn(kills_itself, ()).unwrap().join().unwrap_err();
    assert!(error.to_string().ends_with("was ended by SIGKILL, cause unknown"), "{error}");
    assert_eq!(crashed(Err(error)), (9, Cause::Unknown));

    let child = Process::spawn(sleeps_for_ever, ()).unwrap();
    child.terminate().unwrap();
    assert_eq!(crashed(child.join()), (15, Cause::Asked));

    every_limit_is_told_apart();

    let mut child = Process::spawn(sleeps_for_ever, ()).unwrap();
    assert!(child.is_alive());
    match child.join_timeout(Duration::from_millis(10)) {
        Err(TaskError::TimedOut { process, .. }) => assert_eq!(process.pid, child.pid()),
        other => panic!("{other:?}"),
    }
    child.kill().unwrap();
    assert_eq!(crashed(child.join()), (9, Cause::Asked));

    let error = Process::spawn(leaves, ()).unwrap().join().unwrap_err();
    assert!(matches!(error, TaskError::Exited { code: 3, .. }), "{error:?}");
    assert!(error.to_string().contains("'leaves'"), "{error}");
}

/// Each limit that was set and hit.
fn every_limit_is_told_apart() {
    let limit = 48 << 20;
    match Process::builder().name("hoarder").memory_limit(limit).spawn(hoards, ()).unwrap().join() {
        Err(TaskError::MemoryLimit { process, limit: known, used, .. }) => {
            assert_eq!((process.name.as_str(), known), ("hoarder", limit));
            assert!(used > limit && used < limit * 4, "{used}");
        }
        other => panic!("{other:?}"),
    }
    let limit = Duration::from_millis(10);
    match Process::builder().cpu_limit(limit).spawn(spins, ()).unwrap().join() {
        Err(TaskError::CpuLimit { limit: known, .. }) => assert_eq!(known, limit),
        other => panic!("{other:?}"),
    }
    match Process::builder().deadline(limit).spawn(sleeps_for_ever, ()).unwrap().join() {
        Err(TaskError::Deadline { after, .. }) => assert_eq!(after, limit),
        other => panic!("{other:?}"),
    }
    // Limits that are not hit change nothing, and travel with the one that they were set for.
    let generous = Process::builder().memory_limit(1 << 40).cpu_limit(Duration::from_secs(3600));
    let generous = generous.deadline(Duration::from_secs(3600)).clone();
    assert_eq!(generous.clone().spawn(give, (8,)).unwrap().join().unwrap(), 8);
    assert!(matches!(generous.spawn(aborts, ()).unwrap().join(), Err(TaskError::Crashed { signal: 6, .. })));
    let error = Process::spawn(kills_itself, ()).unwrap().join().unwrap_err();
    assert!(matches!(error, TaskError::Crashed { signal: 9, cause: Cause::Unknown, .. }), "{error:?}");
}

fn makes_a_child(value: u64) -> (u64, i32) {
    let child = Process::spawn(give, (value * 2,)).unwrap();
    let pid = child.pid();
    (child.join().unwrap(), pid)
}

pub fn a_process_has_processes_of_its_own() {
    let child = Process::spawn(makes_a_child, (21,)).unwrap();
    let pid = child.pid();
    let (doubled, inner) = child.join().unwrap();
    assert_eq!(doubled, 42);
    assert_ne!(inner, pid);
}

fn leaves_a_child_behind(report: Queue<i32>) {
    let child = Process::spawn(sleeps_for_ever, ()).unwrap();
    report.put(&child.pid()).unwrap();
    sleeps_for_ever();
}

/// True while a process of this pid exists that is not a zombie.
pub fn runs(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !matches!(
        status.rsplit(')').next().map(str::trim_start).and_then(|rest| rest.chars().next()),
        None | Some('Z' | 'X')
    )
}

pub fn soon(what: &str, come: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !come() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn the_children_of_a_killed_process_end_soon() {
    let report = Queue::unbounded().unwrap();
    let child = Process::spawn(leaves_a_child_behind, (report.clone(),)).unwrap();
    let grandchild = report.get().unwrap();
    assert!(runs(grandchild));
    let begin = Instant::now();
    child.kill().unwrap();
    assert!(child.join().is_err());
    soon("the end of the grandchild", || !runs(grandchild));
    assert!(begin.elapsed() < Duration::from_secs(3));
}

fn dies_inside(lock: Lock<u64>, in_it: Queue<()>) {
    let mut guard = lock.lock().unwrap();
    *guard = 1;
    in_it.put(&()).unwrap();
    sleeps_for_ever();
}

fn panics_inside(lock: Lock<u64>) {
    let _guard = lock.lock().unwrap();
    panic!("inside");
}

pub fn a_lock_outlives_its_holders() {
    let (lock, in_it) = (Lock::new(0).unwrap(), Queue::unbounded().unwrap());
    let child = Process::spawn(dies_inside, (lock.clone(), in_it.clone())).unwrap();
    let pid = child.pid();
    in_it.get().unwrap();
    assert_eq!(lock.holder(), Some(pid));
    child.kill().unwrap();
    let abandoned = lock.lock().unwrap_err();
    assert_eq!((abandoned.pid(), abandoned.panicked(), **abandoned.get_ref()), (pid, false, 1));
    drop(abandoned);
    assert!(child.join().is_err());

    let child = Process::spawn(panics_inside, (lock.clone(),)).unwrap();
    let pid = child.pid();
    assert!(child.join().is_err());
    let abandoned = lock.lock().unwrap_err();
    assert_eq!((abandoned.pid(), abandoned.panicked()), (pid, true));
    drop(abandoned);
    assert!(lock.lock().is_ok(), "the news comes once");
}

/// The children of all threads of a process.
pub fn children_of(pid: u32) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(|number| number.parse().unwrap()).collect::<Vec<_>>()).collect()
}

fn descriptors(pid: impl std::fmt::Display) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    folder.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
}

/// Ten times over, all ends: no process, no zombie and no descriptor is left, here or in the zygote.
pub fn nothing_is_left() {
    every_end_is_told_apart();
    let &[zygote] = &children_of(std::process::id())[..] else { panic!("one zygote") };
    let settled = || children_of(zygote as u32).is_empty();
    soon("the end of all processes", settled);
    let count = || (descriptors("self").len(), descriptors(zygote).len());
    // What belonged to the last one is closed a moment after it was collected: look until nothing changes any more.
    let mut before = count();
    loop {
        std::thread::sleep(Duration::from_millis(50));
        match count() {
            now if now == before => break,
            now => before = now,
        }
    }
    for _ in 0..10 {
        every_end_is_told_apart();
        drop(Process::spawn(give, (1,)).unwrap());
    }
    soon("the end of all processes", settled);
    assert_eq!(children_of(std::process::id()), [zygote]);
    let end = Instant::now() + Duration::from_secs(5);
    while count() != before {
        assert!(Instant::now() < end, "{before:?}: {:?}, {:?}", descriptors("self"), descriptors(zygote));
        std::thread::sleep(Duration::from_millis(5));
    }
}

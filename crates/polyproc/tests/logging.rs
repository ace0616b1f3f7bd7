//! What processes log arrives in the program's log.
#![cfg(feature = "log")]
#![allow(clippy::unwrap_used, reason = "tests")]

use log::{Level, LevelFilter, Log, Metadata, Record};
use polyproc::{Pool, Process, Queue, TaskError, logging};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// The program's logger: it keeps everything, and can be made to be stuck.
struct Kept {
    lines: Mutex<Vec<(Level, String, String)>>,
    stuck: AtomicBool,
}

impl Log for Kept {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        while self.stuck.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let line = (record.level(), record.target().to_owned(), record.args().to_string());
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn flush(&self) {}
}

static KEPT: Kept = Kept { lines: Mutex::new(Vec::new()), stuck: AtomicBool::new(false) };

fn set_up() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&KEPT).unwrap();
        log::set_max_level(LevelFilter::Info);
    });
}

/// The tests have one log.
fn turn() -> std::sync::MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    set_up();
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What came from a process of this name and pid, without that prefix.
fn of(name: &str, pid: i32) -> Vec<(Level, String, String)> {
    let prefix = format!("[{name} {pid}] ");
    let lines = KEPT.lines.lock().unwrap_or_else(PoisonError::into_inner);
    let ours = lines.iter().filter_map(|(level, target, text)| {
        text.strip_prefix(&prefix).map(|text| (*level, target.clone(), text.to_owned()))
    });
    ours.collect()
}

fn says(count: u32) -> u32 {
    for number in 0..count {
        log::info!(target: "counting", "number {number}");
        log::debug!("nobody wants to know");
    }
    log::warn!("done");
    count
}

fn says_and_dies(count: u32, how: i32) {
    says(count);
    match how {
        0 => panic!("as told"),
        3 => std::process::exit(3),
        signal => polyproc_engine::sys::signal::raise_in_process(signal),
    }
}

#[test]
fn records_arrive_before_the_result_with_level_target_name_and_pid() {
    let _turn = turn();
    let child = Process::builder().name("counter").spawn(says, (3,)).unwrap();
    let pid = child.pid();
    assert_eq!(child.join().unwrap(), 3);
    let mut wanted: Vec<_> = (0..3).map(|i| (Level::Info, "counting".to_owned(), format!("number {i}"))).collect();
    wanted.push((Level::Warn, "logging".to_owned(), "done".to_owned()));
    assert_eq!(of("counter", pid), wanted);
}

#[test]
fn the_last_records_of_the_dying_are_delivered_and_stand_in_the_error() {
    let _turn = turn();
    for how in [0, 3, 6, 9, 11] {
        let child = Process::builder().name("mayfly").spawn(says_and_dies, (40, how)).unwrap();
        let pid = child.pid();
        let error = child.join().unwrap_err();
        let arrived = of("mayfly", pid);
        assert_eq!(arrived.len(), 41, "{how}");
        assert_eq!(arrived[40].2, "done");
        let lines = error.last_lines();
        assert_eq!(lines.len(), 16);
        assert_eq!((lines[0].as_str(), lines[15].as_str()), ("INFO counting: number 25", "WARN logging: done"));
        assert!(how == 0 || error.to_string().ends_with("; the last that it logged: WARN logging: done"), "{error}");
    }
}

#[test]
fn each_process_has_the_level_that_was_asked_for() {
    let _turn = turn();
    let builder = Process::builder().name("chatty");
    let child = builder.clone().log_level(LevelFilter::Debug).spawn(says_and_dies, (1, 9)).unwrap();
    let pid = child.pid();
    let error = child.join().unwrap_err();
    let lines = ["INFO counting: number 0", "DEBUG logging: nobody wants to know", "WARN logging: done"];
    assert_eq!(error.last_lines(), lines);
    assert_eq!(of("chatty", pid).len(), 2, "the program's own filter is still there");
    let child = builder.log_level(LevelFilter::Off).spawn(says_and_dies, (1, 9)).unwrap();
    let pid = child.pid();
    assert_eq!(child.join().unwrap_err().last_lines().len(), 0);
    assert_eq!(of("chatty", pid).len(), 0);
}

fn has_a_talking_child() -> (i32, usize) {
    let child = Process::builder().name("inner").spawn(says_and_dies, (2, 9)).unwrap();
    let pid = child.pid();
    let error = child.join().unwrap_err();
    (pid, error.last_lines().len())
}

#[test]
fn a_process_of_a_process_is_heard_by_the_program_and_its_parent_has_its_last_lines() {
    let _turn = turn();
    let (pid, lines) = Process::spawn(has_a_talking_child, ()).unwrap().join().unwrap();
    assert_eq!((of("inner", pid).len(), lines), (3, 3));
}

fn says_its_pid(_: u32) -> i32 {
    log::info!("at work");
    std::process::id() as i32
}

fn dies(_: u32) -> i32 {
    log::error!("this goes wrong");
    std::process::abort()
}

#[test]
fn the_workers_of_a_pool_are_heard() {
    let _turn = turn();
    let pool = Pool::builder().workers(1).build().unwrap();
    let pid = pool.submit(says_its_pid, (1,)).unwrap().join().unwrap();
    match pool.submit(dies, (1,)).unwrap().join() {
        Err(error @ TaskError::Crashed { signal: 6, .. }) => {
            assert_eq!(error.process().pid, pid);
            assert_eq!(error.last_lines().last().unwrap(), "ERROR logging: this goes wrong");
            logging::flush();
            assert_eq!(of(&error.process().name, pid).len(), 2);
        }
        other => panic!("{other:?}"),
    }
}

fn says_much(count: u32, done: Queue<u32>) {
    for number in 0..count {
        log::info!("{number}");
    }
    done.put(&count).unwrap();
    log::info!("end");
}

#[test]
fn a_process_does_not_wait_for_a_program_that_takes_nothing() {
    let _turn = turn();
    let done = Queue::unbounded().unwrap();
    KEPT.stuck.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    let child = Process::builder().name("flood").spawn(says_much, (50_000, done.clone())).unwrap();
    let pid = child.pid();
    let count = done.get_timeout(Duration::from_secs(20));
    KEPT.stuck.store(false, Ordering::SeqCst);
    assert_eq!(count.unwrap(), 50_000, "after {:?}", begun.elapsed());
    child.join().unwrap();
    let arrived = of("flood", pid);
    assert!(arrived.len() > 8000 && arrived.len() < 50_000, "{}", arrived.len());
    let numbers: Vec<u32> = arrived.iter().filter_map(|(_, _, text)| text.parse().ok()).collect();
    assert!(numbers.is_sorted());
    let late = Process::builder().name("late").spawn(says, (1,)).unwrap();
    let pid = late.pid();
    late.join().unwrap();
    assert_eq!(of("late", pid).len(), 2, "what comes later is heard");
}

#[test]
fn many_processes_at_once_are_all_heard_in_their_order() {
    let _turn = turn();
    let children: Vec<_> = (0..4).map(|_| Process::builder().name("crowd").spawn(says, (2000,)).unwrap()).collect();
    let pids: Vec<i32> = children.iter().map(Process::pid).collect();
    for child in children {
        child.join().unwrap();
    }
    for pid in pids {
        let arrived = of("crowd", pid);
        let numbers: Vec<u32> =
            arrived.iter().filter_map(|(_, _, text)| text.strip_prefix("number ")?.parse().ok()).collect();
        assert_eq!(numbers, (0..2000).collect::<Vec<_>>());
    }
}

//! The crash matrix with a zygote that was forked by `#[polyproc::main]`, and the end of whole programs.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a test")]

mod common;

use polyproc::{Process, Queue, TaskError};
use polyproc_engine::process::zygote;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[polyproc::main]
fn main() {
    let mode = std::env::args().nth(1).unwrap_or_default();
    if mode == "interrupted" {
        return is_interrupted();
    }
    if mode == "leaves" {
        return leaves_two_behind();
    }
    if mode.starts_with("sleepers") {
        return sleepers(&mode);
    }
    assert!(zygote::start(|_| 1).unwrap(), "it was forked already");
    let tests: [(&str, fn()); 11] = [
        ("every_end_is_told_apart", common::every_end_is_told_apart),
        ("a_process_has_processes_of_its_own", common::a_process_has_processes_of_its_own),
        ("the_children_of_a_killed_process_end_soon", common::the_children_of_a_killed_process_end_soon),
        ("a_lock_outlives_its_holders", common::a_lock_outlives_its_holders),
        ("nothing_is_left", common::nothing_is_left),
        ("the_zygote_is_deaf_to_the_terminal", the_zygote_is_deaf_to_the_terminal),
        ("a_key_of_the_terminal_reaches_the_program_and_not_the_zygote", a_key_of_the_terminal),
        ("a_program_ends_after_those_that_are_no_daemons", a_program_ends_after_those_that_are_no_daemons),
        ("nothing_outlives_a_killed_program", nothing_outlives_a_killed_program),
        ("nothing_outlives_a_program_that_returns", nothing_outlives_a_program_that_returns),
        ("processes_outlive_a_program_that_wants_it", processes_outlive_a_program_that_wants_it),
    ];
    for (name, test) in tests {
        test();
        println!("test {name} ... ok");
    }
}

/// A program that has processes which would never end; it says their pids, and the zygote's.
fn sleepers(mode: &str) {
    let children: Vec<_> = (0..3).map(|_| Process::spawn(common::sleeps_for_ever, ()).unwrap()).collect();
    let pids: Vec<_> = children.iter().map(|child| child.pid().to_string()).collect();
    println!("{} {}", common::children_of(std::process::id())[0], pids.join(" "));
    if mode == "sleepers" {
        common::sleeps_for_ever();
    }
}

fn program(mode: &str, orphans: &str) -> (Child, Vec<i32>) {
    let mut program = Command::new(std::env::current_exe().unwrap())
        .arg(mode)
        .env("POLYPROC_ORPHANS", orphans)
        .process_group(0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(program.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pids: Vec<i32> = line.split_whitespace().map(|number| number.parse().unwrap()).collect();
    assert_eq!(pids.len(), 4);
    (program, pids)
}

fn finishes_late(and_another: bool) {
    if and_another {
        drop(Process::builder().daemon(false).spawn(finishes_late, (false,)).unwrap());
    }
    std::thread::sleep(Duration::from_millis(30));
    println!("finished");
}

/// A program that ends at once, with a process, and one of that one's, that are no daemons, and one that is.
fn leaves_two_behind() {
    drop(Process::spawn(common::sleeps_for_ever, ()).unwrap());
    drop(Process::builder().daemon(false).spawn(finishes_late, (true,)).unwrap());
    println!("left");
}

fn a_program_ends_after_those_that_are_no_daemons() {
    let program = Command::new(std::env::current_exe().unwrap()).arg("leaves").output().unwrap();
    assert!(program.status.success());
    assert_eq!(String::from_utf8(program.stdout).unwrap(), "left\nfinished\nfinished\n");
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: i32) {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

fn begins(begun: Queue<()>) {
    begun.put(&()).unwrap();
    common::sleeps_for_ever();
}

/// A program that goes on after SIGINT. One of its processes is in its process group, as all are who do not ask for another.
fn is_interrupted() {
    // SAFETY: the handler only stores a flag.
    unsafe { libc::signal(libc::SIGINT, note as extern "C" fn(i32) as libc::sighandler_t) };
    let inside = Process::spawn(common::sleeps_for_ever, ()).unwrap();
    let begun = Queue::unbounded().unwrap();
    let mut apart = Process::builder().process_group().spawn(begins, (begun.clone(),)).unwrap();
    begun.get().unwrap();
    println!("ready");
    common::soon("SIGINT", || INTERRUPTED.load(Ordering::SeqCst));
    assert!(matches!(inside.join(), Err(TaskError::Crashed { signal: 2, .. })));
    assert!(matches!(apart.join_timeout(Duration::from_millis(20)), Err(TaskError::TimedOut { .. })));
    apart.kill().unwrap();
    assert!(apart.join().is_err());
    // The zygote has not minded.
    assert_eq!(Process::spawn(common::give, (6,)).unwrap().join().unwrap(), 6);
    println!("went on");
}

/// What Ctrl-C does: SIGINT for the whole foreground group.
fn a_key_of_the_terminal() {
    let mut program = Command::new(std::env::current_exe().unwrap())
        .arg("interrupted")
        .process_group(0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    // SAFETY: the group is that of our child, which was not waited for.
    unsafe { libc::kill(-(program.id() as i32), libc::SIGINT) };
    assert_eq!(lines.next().unwrap().unwrap(), "went on");
    assert!(program.wait().unwrap().success());
}

fn nothing_outlives_a_killed_program() {
    let (mut program, pids) = program("sleepers", "");
    assert!(pids.iter().all(|&pid| common::runs(pid)));
    program.kill().unwrap();
    program.wait().unwrap();
    let begin = Instant::now();
    common::soon("the end of all", || !pids.iter().any(|&pid| common::runs(pid)));
    assert!(begin.elapsed() < Duration::from_secs(3));
}

fn nothing_outlives_a_program_that_returns() {
    let (mut program, pids) = program("sleepers-return", "");
    assert!(program.wait().unwrap().success());
    let begin = Instant::now();
    common::soon("the end of all", || !pids.iter().any(|&pid| common::runs(pid)));
    assert!(begin.elapsed() < Duration::from_millis(900), "they are asked at once: {:?}", begin.elapsed());
}

fn processes_outlive_a_program_that_wants_it() {
    let (mut program, pids) = program("sleepers", "keep");
    program.kill().unwrap();
    program.wait().unwrap();
    common::soon("the end of the zygote", || !common::runs(pids[0]));
    std::thread::sleep(Duration::from_millis(100));
    for pid in &pids[1..] {
        assert!(common::runs(*pid));
        Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    }
}

fn the_zygote_is_deaf_to_the_terminal() {
    let before = common::children_of(std::process::id());
    for signal in ["-INT", "-QUIT", "-HUP", "-TERM"] {
        Command::new("kill").args([signal, &before[0].to_string()]).status().unwrap();
    }
    assert_eq!(Process::spawn(common::give, (1,)).unwrap().join().unwrap(), 1);
    assert_eq!(common::children_of(std::process::id()), before);
    // What it ignores, its children do not.
    let child = Process::spawn(common::sleeps_for_ever, ()).unwrap();
    Command::new("kill").args(["-INT", &child.pid().to_string()]).status().unwrap();
    assert!(matches!(child.join(), Err(TaskError::Crashed { signal: 2, .. })));
}

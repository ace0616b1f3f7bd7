//! The crash matrix with a zygote that was forked by `#[polyproc::main]`, and the end of whole programs.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a test")]

mod common;

use polyproc::Process;
use polyproc_engine::process::zygote;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[polyproc::main]
fn main() {
    let mode = std::env::args().nth(1).unwrap_or_default();
    if mode.starts_with("sleepers") {
        return sleepers(&mode);
    }
    assert!(zygote::start(|_| 1).unwrap(), "it was forked already");
    let tests: [(&str, fn()); 9] = [
        ("every_end_is_told_apart", common::every_end_is_told_apart),
        ("a_process_has_processes_of_its_own", common::a_process_has_processes_of_its_own),
        ("the_children_of_a_killed_process_end_soon", common::the_children_of_a_killed_process_end_soon),
        ("a_lock_outlives_its_holders", common::a_lock_outlives_its_holders),
        ("nothing_is_left", common::nothing_is_left),
        ("the_zygote_is_deaf_to_the_terminal", the_zygote_is_deaf_to_the_terminal),
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
    assert!(matches!(child.join(), Err(polyproc::TaskError::Crashed { signal: 2, .. })));
}

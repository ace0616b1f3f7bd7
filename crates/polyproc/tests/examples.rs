//! The examples run, and say what they should.
#![allow(clippy::unwrap_used, dead_code, reason = "tests")]

mod common;

use std::path::Path;
use std::process::Command;

/// Runs an example that cargo has built beside this test.
fn run(name: &str) -> String {
    run_with(name, &[])
}

fn run_with(name: &str, arguments: &[&Path]) -> String {
    let here = std::env::current_exe().unwrap();
    let example = here.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(example.exists(), "{name} is not built: run cargo test without --test, or cargo build --examples first");
    let output = Command::new(example).args(arguments).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{name}: {:?}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

#[test]
fn couriers_are_faster_together() {
    let said = run("couriers");
    assert_eq!(said.matches("delivered by process").count(), 20);
    let seconds = |line: &str| -> f64 {
        let line = said.lines().find(|l| l.starts_with(line)).unwrap();
        line.rsplit(' ').nth(1).unwrap().parse().unwrap()
    };
    assert!(seconds("ten processes") < seconds("one after the other") / 3.0, "{said}");
}

#[test]
fn workers_share_the_jobs() {
    assert!(run("workers").contains("100100 has the most divisors, 72"));
}

#[test]
fn nothing_of_a_killed_producer_is_lost() {
    assert!(run("producer_consumer").contains("was ended by SIGKILL"));
}

#[test]
fn an_abandoned_account_is_repaired() {
    assert!(run("lock").ends_with("Accounts { savings: 795000, current: 205000, moving: 0 }\n"));
}

#[test]
fn each_crash_is_explained() {
    let said = run("crash");
    for part in ["it returned 2", "the index is 7", "crashed: signal 6", "exit code 3", "signal 9", "invalid digit"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_pool_survives_its_tasks() {
    let said = run("pool");
    assert_eq!(said.matches(" primes\n").count(), 13, "{said}");
    for part in [
        "  30000: process 'pool-",
        "crashed, signal 6",
        "  60000: process 'pool-",
        "too slow",
        "  90000: process 'pool-",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn four_processes_count_in_one_place() {
    let said = run("shared_counter");
    assert_eq!(said, "100000 numbers; Statistic { count: 100000, sum: 10753840, longest: 350 }\n");
}

#[test]
fn runners_start_and_stop_at_an_event() {
    let said = run("event");
    assert_eq!(said.matches("is ready").count(), 3);
    assert_eq!(said.matches("has run some laps").count(), 3, "{said}");
}

#[test]
fn questions_are_answered_over_a_pipe() {
    let said = run("pipe");
    for part in ["Length(\"grüß dich\"): Length(9)", "Sum(10)", "2 questions were answered", "gone: process 'answer'"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_struct_runs_as_a_process() {
    let said = run("process_struct");
    assert_eq!(said.matches("has come to").count(), 3);
    assert!(said.ends_with("there were 12 reports on the way\n"), "{said}");
}

#[test]
fn a_daemon_watches_and_ends_with_the_program() {
    let said = run("daemon");
    assert!(said.contains("100 steps are done; the watcher has seen ["), "{said}");
    let pid: i32 = said.lines().next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    common::soon("the end of the watcher", || !common::runs(pid));
}

#[test]
fn no_more_than_a_semaphore_allows_are_there_at_once() {
    let said = run("semaphore");
    assert_eq!(said.matches("is done").count(), 10);
    let most: u32 =
        said.lines().find_map(|line| line.strip_prefix("at most ")?.split(' ').next()?.parse().ok()).unwrap();
    assert!((1..=3).contains(&most), "{said}");
    assert!(said.ends_with("3 places are free again\n"), "{said}");
}

#[test]
fn files_are_fetched_but_for_one_without_an_end() {
    let said = run("fetch");
    for part in ["/file-8: 80000 bytes", "/missing: HTTP/1.0 404", "/endless: not within 1s", "\n360000 bytes in all"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn connections_are_answered_by_other_processes() {
    let said = run("server");
    for part in ["HELLO (process ", "crashed, signal 6; others go on", "STILL THERE? (process "] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_c_library_is_kept_at_arms_length() {
    let said = run("c_library");
    for part in
        ["[\"to\", \"be\", \"or\", \"not\"]", "crashed, signal 11", "  [\"to\", \"be\"]\n", "ended after 1s", "  2\n"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let count = said.split("leaked, by ").nth(1).and_then(|rest| rest.split(' ').next());
    let workers: usize = count.unwrap().parse().unwrap();
    assert!(workers >= 4, "a leaking worker is replaced: {said}");
}

#[test]
fn photographs_become_thumbnails_but_for_a_broken_one() {
    let folder = std::env::temp_dir().join(format!("polyproc-examples-{}", std::process::id()));
    let (photographs, thumbnails) = (folder.join("photographs"), folder.join("thumbnails"));
    std::fs::create_dir_all(&photographs).unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/photographs");
    for name in ["astronaut", "chelsea", "coffee", "rocket"] {
        std::fs::copy(shipped.join(name).with_extension("jpg"), photographs.join(name).with_extension("jpg")).unwrap();
    }
    let whole = std::fs::read(shipped.join("coffee.jpg")).unwrap();
    std::fs::write(photographs.join("broken.jpg"), &whole[..100]).unwrap();
    let said = run_with("thumbnails", &[&photographs, &thumbnails]);
    let made = |name: &str| std::fs::read(thumbnails.join(name).with_extension("png")).unwrap();
    assert!(made("astronaut").len() > 5000 && made("rocket").len() > 5000);
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(said.contains("astronaut.jpg: 400 × 400, now 96 × 96"), "{said}");
    assert_eq!(said.matches(", now 96 × 6").count(), 3, "{said}");
    assert!(said.contains("broken.jpg: ") && said.contains("5 pictures in"), "{said}");
}

#[test]
fn all_that_processes_log_is_written_by_the_program() {
    let said = run("logging");
    for part in [
        "INFO  logging: [letter.pdf ",
        "] poem.pdf: done\n",
        "] novel.pdf: page 13 looks strange\n",
        "ERROR logging: process 'novel.pdf' (pid ",
        "was ended by SIGABRT",
        "      | INFO logging: novel.pdf: 400 pages\n      | WARN logging: novel.pdf: page 13 looks strange\n",
        "logging: 2 pages more are converted\n",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("page 1\n"), "{said}");
}

#[test]
fn an_inventory_is_called_by_several() {
    let said = run("manager");
    let expected = "took 150 apples: 250 are left\ntook nothing: there are only 200 pears\ntook nothing: there is no plums\n303 calls\n";
    assert_eq!(said, expected);
}

//! The examples run, and say what they should.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

/// Runs an example that cargo has built beside this test.
fn run(name: &str) -> String {
    let here = std::env::current_exe().unwrap();
    let example = here.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(example.exists(), "{name} is not built: run cargo test without --test, or cargo build --examples first");
    let output = Command::new(example).output().unwrap();
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

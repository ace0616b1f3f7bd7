//! A process is killed at every kill point of the engine in turn, in every operation that passes it, and the others go on.
//!
//! `cargo test -p polyproc-testkit --test kill_points -- NAME` runs only the scenarios whose name contains NAME, and prints
//! how long each took.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod blocks;
mod containers;
mod locks;
mod monitors;
mod pipes;
mod pool;
mod queues;
mod rwlocks;
mod sweeps;

use polyproc_testkit::trial::{Course, Scenario};
use std::process::ExitCode;
use std::time::Instant;

fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    all.extend(queues::scenarios());
    all.extend(pipes::scenarios());
    all.extend(locks::scenarios());
    all.extend(rwlocks::scenarios());
    all.extend(containers::scenarios());
    all.extend(monitors::scenarios());
    all.extend(blocks::scenarios());
    all.extend(sweeps::scenarios());
    all.extend(pool::scenarios());
    all
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let begun = Instant::now();
    let mut course = Course::new();
    let scenarios = scenarios();
    for scenario in &scenarios {
        if wanted.is_empty() || wanted.iter().any(|word| scenario.name.contains(word.as_str())) {
            // The sweeps are many, and their points the same.
            course.run(scenario, if scenario.name.starts_with("sweep") { 1 } else { 3 });
        }
    }
    println!("{}", course.table());
    if !wanted.is_empty() {
        for (name, time) in &course.times {
            println!("{:>8.2} s  {name}", time.as_secs_f64());
        }
    }
    let mut never = course.never_reached();
    never.retain(|point| !polyproc_testkit::at_birth(point));
    println!(
        "{} scenarios, {} trials, {} deaths, {} failures, {:.1} s",
        scenarios.len(),
        course.trials,
        course.deaths,
        course.failures.len(),
        begun.elapsed().as_secs_f64()
    );
    for failure in &course.failures {
        println!("FAILED {failure}");
    }
    if wanted.is_empty() && !never.is_empty() {
        println!("FAILED points at which nobody died: {}", never.join(", "));
        return ExitCode::FAILURE;
    }
    if course.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

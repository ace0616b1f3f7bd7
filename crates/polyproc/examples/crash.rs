//! Every way for a task to fail, and what its parent is told: nothing of it can harm the program.
//!
//! ```sh
//! cargo run --release -p polyproc --example crash
//! ```

#![expect(clippy::print_stdout, reason = "an example")]

use polyproc::{Process, TaskError};
use std::time::Duration;

fn parse(text: String) -> Result<u32, String> {
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}

fn index(at: usize) -> u32 {
    [1, 2, 3][at]
}

fn abort() -> u32 {
    std::process::abort()
}

fn leave() -> u32 {
    std::process::exit(3)
}

fn work_for_ever() -> u32 {
    loop {
        std::thread::park();
    }
}

/// What a program may do with each.
fn explain(outcome: Result<u32, TaskError>) {
    match outcome {
        Ok(value) => println!("it returned {value}"),
        Err(TaskError::Panicked { message, location, .. }) => {
            println!("it panicked: {message:?} at {}", location.unwrap_or_default());
        }
        Err(TaskError::Crashed { process, signal, .. }) => println!("{process} crashed: signal {signal}"),
        Err(TaskError::Exited { code, .. }) => println!("it left early, with exit code {code}"),
        Err(other) => println!("{other}"),
    }
}

#[polyproc::main]
fn main() -> polyproc::Result<()> {
    explain(Process::spawn(index, (1,))?.join());
    explain(Process::spawn(index, (7,))?.join());
    explain(Process::spawn(abort, ())?.join());
    explain(Process::spawn(leave, ())?.join());

    let mut slow = Process::builder().name("slow").spawn(work_for_ever, ())?;
    explain(slow.join_timeout(Duration::from_millis(100)));
    slow.kill()?;
    explain(slow.join());

    // An error that the task itself returned is a result like any other.
    match Process::spawn(parse, ("forty".to_owned(),))?.join() {
        Ok(Err(said)) => println!("the task says: {said}"),
        other => println!("unexpected: {other:?}"),
    }
    Ok(())
}

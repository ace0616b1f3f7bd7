//! Ten boxes, each a second's work: one courier after the other, and ten at once.
//!
//! ```sh
//! cargo run --release -p polyproc --example couriers
//! ```

#![expect(clippy::print_stdout, reason = "an example")]

use polyproc::{Process, TaskError};
use std::time::{Duration, Instant};

const BOXES: u32 = 10;

/// Delivers a box, and says how far it was.
fn deliver(number: u32) -> String {
    std::thread::sleep(Duration::from_secs(1));
    format!("box {number} delivered by process {}", std::process::id())
}

#[polyproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let begin = Instant::now();
    for number in 1..=BOXES {
        println!("{}", deliver(number));
    }
    let one_by_one = begin.elapsed();

    let begin = Instant::now();
    let couriers = (1..=BOXES)
        .map(|number| Process::builder().name(format!("courier-{number}")).spawn(deliver, (number,)))
        .collect::<Result<Vec<_>, _>>()?;
    let delivered: Result<Vec<String>, TaskError> = couriers.into_iter().map(Process::join).collect();
    for line in delivered? {
        println!("{line}");
    }
    let together = begin.elapsed();

    println!("one after the other: {:.2} s", one_by_one.as_secs_f64());
    println!("ten processes:       {:.2} s", together.as_secs_f64());
    Ok(())
}

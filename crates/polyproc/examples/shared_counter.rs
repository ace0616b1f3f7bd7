//! Four processes count in one place: with an atomic in shared memory, and in a lock that holds a whole statistic.
//!
//! ```sh
//! cargo run --release -p polyproc --example shared_counter
//! ```

#![expect(clippy::print_stdout, reason = "an example")]

use polyproc::{Lock, Plain, Process, Shared};
use std::sync::atomic::{AtomicU64, Ordering};

/// What every process may see and change: nothing but numbers, so that it means the same in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Plain)]
#[repr(C)]
struct Statistic {
    count: u64,
    sum: u64,
    longest: u64,
}

/// How many steps the Collatz sequence of a number takes to come to 1.
fn steps(mut number: u64) -> u64 {
    let mut steps = 0;
    while number != 1 {
        number = if number.is_multiple_of(2) { number / 2 } else { 3 * number + 1 };
        steps += 1;
    }
    steps
}

fn work(numbers: std::ops::Range<u64>, done: Shared<AtomicU64>, statistic: Lock<Statistic>) -> Result<(), String> {
    for number in numbers {
        let steps = steps(number);
        done.fetch_add(1, Ordering::Relaxed);
        // An error says that another process died with the lock: see the example `lock`.
        let mut statistic = statistic.lock().map_err(|abandoned| abandoned.to_string())?;
        statistic.count += 1;
        statistic.sum += steps;
        statistic.longest = statistic.longest.max(steps);
    }
    Ok(())
}

#[polyproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let done = Shared::new(AtomicU64::new(0))?;
    let statistic = Lock::new(Statistic::default())?;
    let processes = (0..4u64)
        .map(|part| Process::spawn(work, (part * 25_000 + 1..(part + 1) * 25_000 + 1, done.clone(), statistic.clone())))
        .collect::<Result<Vec<_>, _>>()?;
    for process in processes {
        process.join()??;
    }
    let statistic = *statistic.lock().map_err(|abandoned| abandoned.to_string())?;
    println!("{} numbers; {statistic:?}", done.load(Ordering::Relaxed));
    assert_eq!(statistic.count, done.load(Ordering::Relaxed));
    Ok(())
}

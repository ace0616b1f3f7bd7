//! Eight workers and sixteen tasks, some of which misbehave: one crashes, one hangs, one panics; the others do not notice.
//!
//! ```sh
//! cargo run --release -p polyproc --example pool
//! ```

#![expect(clippy::print_stdout, reason = "an example")]

use polyproc::{Pool, TaskError};
use std::time::{Duration, Instant};

/// Counts the primes below a number, but for some numbers.
fn primes_below(limit: u64) -> usize {
    match limit {
        30_000 => std::process::abort(),
        60_000 => loop {
            std::thread::park();
        },
        90_000 => panic!("{limit} is not to my taste"),
        _ => (2..limit).filter(|n| (2..).take_while(|d| d * d <= *n).all(|d| n % d != 0)).count(),
    }
}

#[polyproc::main]
fn main() -> polyproc::Result<()> {
    let pool = Pool::builder().workers(8).timeout(Duration::from_secs(2)).build()?;
    let begin = Instant::now();
    let limits: Vec<u64> = (1..=16).map(|i| i * 10_000).collect();
    for (index, result) in pool.map(primes_below, limits.clone())?.unordered() {
        let limit = limits[index];
        match result {
            Ok(count) => println!("{limit:7}: {count} primes"),
            Err(TaskError::Crashed { process, signal, .. }) => {
                println!("{limit:7}: {process} crashed, signal {signal}")
            }
            Err(TaskError::TimedOut { process, .. }) => println!("{limit:7}: {process} was too slow"),
            Err(other) => println!("{limit:7}: {other}"),
        }
    }
    println!("in {:.1} s", begin.elapsed().as_secs_f64());
    pool.finish();
    Ok(())
}

//! A producer that is faster than its consumer: a bounded queue slows it down, and nothing is lost when it is killed.
//!
//! ```sh
//! cargo run --release -p polyproc --example producer_consumer
//! ```

#![expect(clippy::print_stdout, reason = "an example")]

use polyproc::{Error, Process, Queue};
use std::time::Duration;

/// Measures for ever.
fn produce(samples: Queue<(u64, f64)>) {
    let mut number = 0;
    while samples.put(&(number, (number as f64 / 10.0).sin())).is_ok() {
        number += 1;
    }
}

#[polyproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let samples = Queue::bounded(100)?;
    let producer = Process::spawn(produce, (samples.clone(),))?;
    let mut next = 0;
    let mut sum = 0.0;
    while next < 1000 {
        let (number, sample) = samples.get()?;
        assert_eq!(number, next, "samples come in order, each once");
        next += 1;
        sum += sample;
    }
    println!("took {next} samples, their mean is {:.3}; {} wait in the queue", sum / next as f64, samples.len());

    producer.kill()?;
    println!("{}", producer.join().err().map_or_else(String::new, |error| error.to_string()));
    let mut left = 0;
    loop {
        match samples.get_timeout(Duration::from_millis(10)) {
            Ok((number, _)) => {
                assert_eq!(number, next, "what was put is there, whatever became of the producer");
                next += 1;
                left += 1;
            }
            Err(Error::TimedOut) => break,
            Err(other) => return Err(other.into()),
        }
    }
    println!("it had put {left} more samples before it was killed: all of them are here");
    Ok(())
}

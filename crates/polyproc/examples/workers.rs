//! Workers that take jobs from one queue and give results to another.
//!
//! ```sh
//! cargo run --release -p polyproc --example workers
//! ```

#![expect(clippy::print_stdout, reason = "an example")]

use polyproc::{Process, Queue};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Job {
    number: u64,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    number: u64,
    divisors: u32,
    worker: u32,
}

/// Works until there is a `None`.
fn work(jobs: Queue<Option<Job>>, answers: Queue<Answer>) -> Result<u32, String> {
    let mut count = 0;
    while let Some(Job { number }) = jobs.get().map_err(|error| error.to_string())? {
        let divisors = (1..=number).filter(|divisor| number % *divisor == 0).count() as u32;
        let answer = Answer { number, divisors, worker: std::process::id() };
        answers.put(&answer).map_err(|error| error.to_string())?;
        count += 1;
    }
    Ok(count)
}

#[polyproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let workers = std::thread::available_parallelism()?.get().min(8);
    let (jobs, answers) = (Queue::bounded(64)?, Queue::unbounded()?);
    let processes = (0..workers)
        .map(|i| Process::builder().name(format!("worker-{i}")).spawn(work, (jobs.clone(), answers.clone())))
        .collect::<Result<Vec<_>, _>>()?;

    let numbers = 100_000..100_200;
    for number in numbers.clone() {
        jobs.put(&Some(Job { number }))?;
    }
    for _ in &processes {
        jobs.put(&None)?;
    }
    let mut best: Option<Answer> = None;
    for _ in numbers {
        let answer = answers.get()?;
        if best.as_ref().is_none_or(|best| best.divisors < answer.divisors) {
            best = Some(answer);
        }
    }
    for process in processes {
        let name = process.name().to_owned();
        println!("{name} has done {} jobs", process.join()??);
    }
    if let Some(Answer { number, divisors, worker }) = best {
        println!("{number} has the most divisors, {divisors}; process {worker} found it");
    }
    Ok(())
}

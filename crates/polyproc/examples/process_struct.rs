//! A process as a struct: what it needs are its fields, what it does is `run`.
//!
//! ```sh
//! cargo run --release -p polyproc --example process_struct
//! ```

#![expect(clippy::print_stdout, reason = "an example")]

use polyproc::{Process, Queue, TaskError};
use serde::{Deserialize, Serialize};

/// Simulates a random walk, and reports from time to time. A subclass of `Process` with `run`, in Python's words; here the
/// struct is an argument like any other, and travels to the process that runs it.
#[derive(Clone, Serialize, Deserialize)]
struct Walk {
    seed: u64,
    steps: u32,
    reports: Queue<(u64, u32, i64)>,
}

impl Walk {
    fn run(mut self) -> Result<i64, String> {
        let mut position = 0i64;
        for step in 1..=self.steps {
            position += if self.coin() { 1 } else { -1 };
            if step.is_multiple_of(50_000) {
                self.reports.put(&(self.seed, step, position)).map_err(|error| error.to_string())?;
            }
        }
        Ok(position)
    }

    /// A linear congruential generator: the high bit is the random one.
    fn coin(&mut self) -> bool {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.seed >> 63 == 1
    }

    /// So that it reads as starting a thread does.
    fn start(self) -> polyproc::Result<Process<Result<i64, String>>> {
        Process::builder().name(format!("walk-{}", self.seed)).spawn(Walk::run, (self,))
    }
}

#[polyproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let reports = Queue::unbounded()?;
    let walks: Vec<Walk> = (1..=3).map(|seed| Walk { seed, steps: 200_000, reports: reports.clone() }).collect();
    let processes = walks.into_iter().map(Walk::start).collect::<Result<Vec<_>, _>>()?;
    for process in processes {
        let name = process.name().to_owned();
        match process.join() {
            Ok(position) => println!("{name} has come to {}", position?),
            Err(TaskError::Panicked { message, .. }) => println!("{name} stumbled: {message}"),
            Err(other) => return Err(other.into()),
        }
    }
    println!("there were {} reports on the way", reports.len());
    Ok(())
}

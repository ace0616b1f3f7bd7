//! A starting shot: runners get ready, wait for an event, and run at once; another event calls them in.
//!
//! ```sh
//! cargo run --release -p polyproc --example event
//! ```

#![expect(clippy::print_stdout, reason = "an example")]

use polyproc::{Event, Process, Queue};
use std::time::Duration;

fn run(number: u32, ready: Queue<u32>, start: Event, stop: Event) -> u64 {
    ready.put(&number).expect("the queue is there");
    start.wait();
    let mut laps = 0;
    while !stop.is_set() {
        laps += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    laps
}

#[polyproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (start, stop) = (Event::new()?, Event::new()?);
    let ready = Queue::unbounded()?;
    let runners = (1..=3)
        .map(|number| {
            let builder = Process::builder().name(format!("runner-{number}"));
            builder.spawn(run, (number, ready.clone(), start.clone(), stop.clone()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    for _ in &runners {
        println!("runner {} is ready", ready.get()?);
    }
    println!("start!");
    start.set();
    std::thread::sleep(Duration::from_millis(100));
    stop.set();
    for runner in runners {
        let name = runner.name().to_owned();
        let laps = runner.join()?;
        println!("{name} has run {}", if laps > 0 { "some laps" } else { "nowhere" });
    }
    Ok(())
}

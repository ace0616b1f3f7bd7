//! Ten processes, and a machine that bears three at a time. One is killed while it has a place, which is free again then.
//!
//! ```sh
//! cargo run --release -p polyproc --example semaphore
//! ```

#![expect(clippy::print_stdout, reason = "an example")]

use polyproc::{Process, Queue, Semaphore, Shared};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn use_machine(number: u32, places: Semaphore, at_once: Shared<AtomicU64>, most: Shared<AtomicU64>) -> u32 {
    let _place = places.acquire().expect("the semaphore is there");
    most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(20));
    at_once.fetch_sub(1, Ordering::SeqCst);
    number
}

fn occupy(places: Semaphore, inside: Queue<u32>) {
    let _place = places.acquire().expect("the semaphore is there");
    inside.put(&std::process::id()).expect("the queue is there");
    loop {
        std::thread::park();
    }
}

#[polyproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let places = Semaphore::new(3)?;
    let (at_once, most) = (Shared::new(AtomicU64::new(0))?, Shared::new(AtomicU64::new(0))?);
    let users = (1..=10)
        .map(|number| Process::spawn(use_machine, (number, places.clone(), at_once.clone(), most.clone())))
        .collect::<Result<Vec<_>, _>>()?;
    for user in users {
        println!("process {} is done", user.join()?);
    }
    println!("at most {} were there at once", most.load(Ordering::SeqCst));

    let inside = Queue::unbounded()?;
    let occupant = Process::spawn(occupy, (places.clone(), inside.clone()))?;
    println!("process {} occupies a place: {} are free", inside.get()?, places.available());
    occupant.kill()?;
    if let Err(death) = occupant.join() {
        println!("{death}");
    }
    // All three can be had: what the dead had is given back.
    let all = [places.acquire()?, places.acquire()?, places.acquire()?];
    println!("{} places are free again", all.len());
    Ok(())
}

//! A process in the background: it looks after something for as long as the program runs, and nobody has to end it.
//!
//! ```sh
//! cargo run --release -p polyproc --example daemon
//! ```

#![expect(clippy::print_stdout, reason = "an example")]

use polyproc::{Process, Shared, SharedSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Says once in a while how far the work is.
fn watch(progress: Shared<AtomicU64>, seen: SharedSlice<u64>) {
    for round in 0.. {
        std::thread::sleep(Duration::from_millis(20));
        seen.set(round % seen.len(), progress.load(Ordering::Relaxed));
    }
}

fn work(progress: Shared<AtomicU64>) {
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(2));
        progress.fetch_add(1, Ordering::Relaxed);
    }
}

#[polyproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let progress = Shared::new(AtomicU64::new(0))?;
    let seen = SharedSlice::zeroed(8)?;
    let watcher = Process::builder().name("watcher").spawn(watch, (progress.clone(), seen.clone()))?;
    println!("watcher is process {}", watcher.pid());
    // Dropping the handle detaches the process: it goes on in the background.
    drop(watcher);

    Process::spawn(work, (progress.clone(),))?.join()?;
    println!("{} steps are done; the watcher has seen {:?}", progress.load(Ordering::Relaxed), seen.to_vec());
    // When main returns, or the program dies, the watcher is ended: at once, or at the latest two seconds later.
    Ok(())
}

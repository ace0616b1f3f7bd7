//! What the engine's operations cost, between two processes. Run it with `cargo bench -p polyproc-engine`.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

use polyproc_engine::channel::{Envelope, Parcel, Queue, pipe};
use polyproc_engine::sync::{Lock, Semaphore};
use polyproc_engine::{Deadline, shm};
use std::time::{Duration, Instant};

fn fork(body: impl FnOnce()) -> i32 {
    shm::current().unwrap();
    // SAFETY: this program has one thread.
    match unsafe { libc::fork() } {
        0 => {
            body();
            // SAFETY: ends this process only.
            unsafe { libc::_exit(0) }
        }
        pid => pid,
    }
}

fn wait(pid: i32) {
    // SAFETY: a child of ours, waited for once.
    assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }, pid);
}

fn median(mut run: impl FnMut() -> f64) -> f64 {
    let mut figures: Vec<f64> = (0..5).map(|_| run()).collect();
    figures.sort_by(f64::total_cmp);
    figures[2]
}

fn lock() -> f64 {
    let lock = Lock::new().unwrap();
    let n = 1_000_000;
    let start = Instant::now();
    for _ in 0..n {
        lock.acquire(Deadline::Never).unwrap();
        lock.release().unwrap();
    }
    start.elapsed().as_nanos() as f64 / f64::from(n)
}

fn semaphore() -> f64 {
    let semaphore = Semaphore::new(3, None).unwrap();
    let n = 1_000_000;
    let start = Instant::now();
    for _ in 0..n {
        semaphore.acquire(Deadline::Never).unwrap();
        semaphore.release(1).unwrap();
    }
    start.elapsed().as_nanos() as f64 / f64::from(n)
}

fn alone() -> f64 {
    let queue = Queue::new(0).unwrap();
    let mut envelope = Envelope::new();
    let n = 1_000_000u32;
    let start = Instant::now();
    for i in 0..n {
        queue.put(&mut Parcel::new(0, &i.to_le_bytes()).unwrap(), Deadline::Never).unwrap();
        queue.get(&mut envelope, Deadline::Never).unwrap();
    }
    start.elapsed().as_nanos() as f64 / f64::from(n)
}

fn stream(size: usize) -> f64 {
    let queue = Queue::new(0).unwrap();
    let n = if size > 10_000 { 2_000 } else { 1_000_000 };
    let child = fork(|| {
        let body = vec![7u8; size];
        for _ in 0..n {
            queue.put(&mut Parcel::new(0, &body).unwrap(), Deadline::Never).unwrap();
        }
    });
    let mut envelope = Envelope::new();
    queue.get(&mut envelope, Deadline::Never).unwrap();
    let start = Instant::now();
    for _ in 1..n {
        queue.get(&mut envelope, Deadline::Never).unwrap();
    }
    let time = start.elapsed();
    wait(child);
    time.as_nanos() as f64 / f64::from(n)
}

fn round_trip() -> f64 {
    let (ours, theirs) = pipe(true).unwrap();
    let n = 100_000;
    let child = fork(|| {
        let mut envelope = Envelope::new();
        for _ in 0..n {
            theirs.receive(&mut envelope, Deadline::Never).unwrap();
            theirs.send(&mut Parcel::new(0, &envelope.inline).unwrap(), Deadline::Never).unwrap();
        }
    });
    let mut envelope = Envelope::new();
    let start = Instant::now();
    for _ in 0..n {
        ours.send(&mut Parcel::new(0, b"hello").unwrap(), Deadline::Never).unwrap();
        ours.receive(&mut envelope, Deadline::Never).unwrap();
    }
    let time = start.elapsed();
    wait(child);
    time.as_nanos() as f64 / f64::from(n)
}

fn fork_and_wait() -> f64 {
    let n = 200;
    let start = Instant::now();
    for _ in 0..n {
        wait(fork(|| {}));
    }
    shm::sweep_dead();
    start.elapsed().as_nanos() as f64 / f64::from(n)
}

fn main() {
    std::thread::sleep(Duration::from_millis(10));
    println!("lock + unlock                      {:9.1} ns", median(lock));
    println!("semaphore acquire + release        {:9.1} ns", median(semaphore));
    println!("queue put + get, one process       {:9.1} ns", median(alone));
    println!("queue stream, 8 bytes              {:9.1} ns an item", median(|| stream(8)));
    println!("queue stream, 1 KiB                {:9.1} ns an item", median(|| stream(1 << 10)));
    println!("queue stream, 1 MiB                {:9.1} ns an item", median(|| stream(1 << 20)));
    println!("pipe round trip                    {:9.1} ns", median(round_trip));
    println!("fork + wait                        {:9.1} ns", median(fork_and_wait));
}

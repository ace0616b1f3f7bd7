//! What the Rust face costs: medians and rates, printed.
//!
//! ```sh
//! cargo bench -p polyproc --bench face
//! ```

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use polyproc::{Bytes, Lock, Pool, Process, Queue, pipe};
use std::time::{Duration, Instant};

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

fn nothing() {}

fn put_many(queue: Queue<u64>, count: u64) {
    for item in 0..count {
        queue.put(&item).unwrap();
    }
}

fn work(microseconds: u64) -> u64 {
    let end = Instant::now() + Duration::from_micros(microseconds);
    while Instant::now() < end {
        std::hint::spin_loop();
    }
    microseconds
}

fn put_blocks(queue: Queue<Bytes>, count: usize, size: usize) {
    let block = Bytes::from(vec![7u8; size]);
    for _ in 0..count {
        queue.put(&block).unwrap();
    }
}

fn echo(end: pipe::End<u64, u64>) {
    while let Ok(item) = end.receive() {
        if end.send(&item).is_err() {
            return;
        }
    }
}

#[polyproc::main]
fn main() {
    Process::spawn(nothing, ()).unwrap().join().unwrap();
    let times = (0..300)
        .map(|_| {
            let begin = Instant::now();
            Process::spawn(nothing, ()).unwrap().join().unwrap();
            begin.elapsed()
        })
        .collect();
    println!("spawn + join                 {:8.1} µs", median(times) * 1e6);

    let rates = (0..3)
        .map(|_| {
            let count = 1_000_000;
            let queue = Queue::unbounded().unwrap();
            let child = Process::spawn(put_many, (queue.clone(), count)).unwrap();
            queue.get().unwrap();
            let begin = Instant::now();
            for _ in 1..count {
                queue.get().unwrap();
            }
            let time = begin.elapsed();
            child.join().unwrap();
            time
        })
        .collect();
    println!("Queue<u64>, one to one       {:8.2} million items/s", 1.0 / median(rates));

    for size in [1 << 20, 32 << 20] {
        let count = (256 << 20) / size;
        let queue = Queue::bounded(4).unwrap();
        let child = Process::spawn(put_blocks, (queue.clone(), count, size)).unwrap();
        queue.get().unwrap();
        let begin = Instant::now();
        let (mut sum, mut part) = (0, vec![0; 1 << 16]);
        for _ in 1..count {
            let block = queue.get().unwrap();
            for at in (0..size).step_by(part.len()) {
                block.read(at, &mut part);
                sum += part.iter().map(|&byte| u64::from(byte)).sum::<u64>();
            }
        }
        assert_eq!(sum, ((count - 1) * size) as u64 * 7);
        let rate = ((count - 1) * size) as f64 / begin.elapsed().as_secs_f64();
        child.join().unwrap();
        println!("Queue<Bytes> of {:2} MiB, read  {:8.2} GB/s", size >> 20, rate / 1e9);
    }

    let (ours, theirs) = pipe::duplex().unwrap();
    let child = Process::spawn(echo, (theirs,)).unwrap();
    let times = (0..20_000)
        .map(|item| {
            let begin = Instant::now();
            ours.send(&item).unwrap();
            ours.receive().unwrap();
            begin.elapsed()
        })
        .collect();
    drop(ours);
    child.join().unwrap();
    println!("round trip over a pipe       {:8.2} µs", median(times) * 1e6);

    let lock = Lock::new(0u64).unwrap();
    let begin = Instant::now();
    let count = 5_000_000u32;
    for _ in 0..count {
        *lock.lock().unwrap() += 1;
    }
    println!("Lock, lock and unlock        {:8.1} ns", begin.elapsed().as_secs_f64() * 1e9 / f64::from(count));

    let pool = Pool::new().unwrap();
    pool.submit(work, (0,)).unwrap().join().unwrap();
    let times = (0..5000)
        .map(|_| {
            let begin = Instant::now();
            pool.submit(work, (0,)).unwrap().join().unwrap();
            begin.elapsed()
        })
        .collect();
    println!("Pool, submit + join          {:8.2} µs", median(times) * 1e6);

    for (micros, count) in [(0, 200_000u32), (50, 10_000)] {
        let begin = Instant::now();
        let done = pool.map(work, std::iter::repeat_n(micros, count as usize)).unwrap().filter(Result::is_ok).count();
        let pooled = begin.elapsed().as_secs_f64() / f64::from(count);
        assert_eq!(done, count as usize);
        let threads = pool.workers() as u32;
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..count / threads).map(|_| work(micros)).sum::<u64>());
            }
        });
        let threaded = begin.elapsed().as_secs_f64() / f64::from(count);
        println!(
            "Pool::map of {micros:2} µs            {:8.2} µs a task; as many threads, without a queue: {:.2} µs",
            pooled * 1e6,
            threaded * 1e6
        );
    }
    pool.finish();
}

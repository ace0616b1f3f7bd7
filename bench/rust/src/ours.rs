//! polyproc.

use crate::load::{self, BYTE, Scale, work};
use polyproc::{Bytes, Lock, Pool, Process, Queue};
use std::hint::black_box;
use std::time::Instant;

fn nothing() {}

pub fn spawn(scale: Scale) -> f64 {
    load::each(scale.of(200), || Process::spawn(nothing, ()).unwrap().join().unwrap())
}

fn increment(number: u64) -> u64 {
    number + 1
}

pub fn call(scale: Scale) -> f64 {
    let pool = Pool::builder().workers(1).build().unwrap();
    let mut number = 0;
    let time = load::each(scale.of(10_000), || number = pool.submit(increment, (number,)).unwrap().join().unwrap());
    assert_eq!(number as usize, scale.of(10_000) + 1);
    time
}

fn put_numbers(queue: Queue<u64>, count: u64) {
    for number in 0..count {
        queue.put(&number).unwrap();
    }
}

pub fn numbers(scale: Scale) -> f64 {
    let count = scale.of(2_000_000) as u64;
    let queue = Queue::unbounded().unwrap();
    let child = Process::spawn(put_numbers, (queue.clone(), count)).unwrap();
    let rate = load::receive_numbers(count, || queue.get().unwrap());
    child.join().unwrap();
    rate
}

fn put_messages(queue: Queue<Bytes>, count: usize, size: usize) {
    let message = Bytes::from(vec![BYTE; size]);
    for _ in 0..count {
        queue.put(&message).unwrap();
    }
}

pub fn messages(scale: Scale, size: usize) -> f64 {
    let count = scale.of((1 << 30) / size);
    let queue = Queue::bounded(4).unwrap();
    let child = Process::spawn(put_messages, (queue.clone(), count, size)).unwrap();
    let rate = load::receive_all(count, size, || {
        let message = queue.get().unwrap();
        // SAFETY: the message is all there, and its sender has no part in it any more.
        unsafe { load::read_all(message.as_ptr(), message.len()) }
    });
    child.join().unwrap();
    rate
}

pub fn lock(scale: Scale) -> f64 {
    let lock = Lock::new(0u64).unwrap();
    let count = scale.of(4_000_000);
    let begin = Instant::now();
    for _ in 0..count {
        *black_box(&lock).lock().unwrap() += 1;
    }
    begin.elapsed().as_secs_f64() * 1e9 / count as f64
}

pub fn map(scale: Scale) -> f64 {
    let pool = Pool::new().unwrap();
    let count = scale.of(16_000);
    // Rayon's threads are there before its first task, too.
    pool.map(work, std::iter::repeat_n(1, 64)).unwrap().for_each(drop);
    let begin = Instant::now();
    let tasks = std::iter::repeat_n(scale.fifty_microseconds, count);
    let results: Vec<u64> = pool.map(work, tasks).unwrap().map(Result::unwrap).collect();
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    assert_eq!(results.len(), count);
    pool.finish();
    rate
}

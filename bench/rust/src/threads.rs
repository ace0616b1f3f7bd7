//! Threads: what there is to gain without isolation.

use crate::load::{Scale, work};
use rayon::prelude::*;
use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;

pub fn map(scale: Scale) -> f64 {
    let count = scale.of(16_000);
    (0..64).into_par_iter().for_each(|_| _ = black_box(work(1)));
    let begin = Instant::now();
    let results: Vec<u64> = (0..count).into_par_iter().map(|_| work(scale.fifty_microseconds)).collect();
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    assert_eq!(results.len(), count);
    rate
}

pub fn lock(scale: Scale) -> f64 {
    let lock = Mutex::new(0u64);
    let count = scale.of(4_000_000);
    let begin = Instant::now();
    for _ in 0..count {
        *black_box(&lock).lock().unwrap() += 1;
    }
    begin.elapsed().as_secs_f64() * 1e9 / count as f64
}

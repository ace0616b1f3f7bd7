//! What every contender is given to do, so that all do the same.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// How much is done for one figure.
#[derive(Clone, Copy)]
pub struct Scale {
    /// Divides all counts.
    pub less: usize,
    /// Rounds of [`work`] that take 50 µs.
    pub fifty_microseconds: u64,
}

impl Scale {
    pub fn of(self, count: usize) -> usize {
        (count / self.less).max(4)
    }
}

/// The median of times, in seconds.
pub fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

/// Does something `count` times; gives the median time of one, in microseconds.
pub fn each(count: usize, mut act: impl FnMut()) -> f64 {
    act();
    let times = (0..count).map(|_| {
        let begin = Instant::now();
        act();
        begin.elapsed()
    });
    median(times.collect()) * 1e6
}

/// Arithmetic, not a look at the clock: whatever takes the processor away makes it longer.
pub fn work(rounds: u64) -> u64 {
    (0..rounds).fold(1, |state, round| black_box(state ^ round).wrapping_mul(6_364_136_223_846_793_005))
}

/// Rounds of [`work`] that take 50 µs here: by the fastest of some tries.
pub fn calibrate() -> u64 {
    let rounds = 20_000;
    let fastest = (0..50).map(|_| {
        let begin = Instant::now();
        black_box(work(rounds));
        begin.elapsed()
    });
    let fastest = fastest.min().unwrap_or_default().as_nanos().max(1) as u64;
    rounds * 50_000 / fastest
}

/// Reads every word of a message where it lies.
///
/// # Safety
/// There are `length` bytes at `bytes`, and nobody writes to them.
pub unsafe fn read_all(bytes: *const u8, length: usize) -> u64 {
    let mut sum = 0u64;
    for at in 0..length / 8 {
        // SAFETY: within the length, as the caller says; aligned or not.
        sum = sum.wrapping_add(unsafe { bytes.cast::<u64>().add(at).read_unaligned() });
    }
    sum
}

/// The same, of a slice.
pub fn read_slice(bytes: &[u8]) -> u64 {
    // SAFETY: a slice.
    unsafe { read_all(bytes.as_ptr(), bytes.len()) }
}

/// What a message is made of.
pub const BYTE: u8 = 7;

/// What [`read_all`] gives for a message of so many bytes.
pub fn sum_of(length: usize) -> u64 {
    u64::from_ne_bytes([BYTE; 8]).wrapping_mul(length as u64 / 8)
}

/// Takes the first message to know that the other side runs; then measures how many bytes come in a second.
pub fn receive_all(count: usize, size: usize, mut receive_and_read: impl FnMut() -> u64) -> f64 {
    assert_eq!(receive_and_read(), sum_of(size));
    let begin = Instant::now();
    for _ in 1..count {
        assert_eq!(black_box(receive_and_read()), sum_of(size));
    }
    ((count - 1) * size) as f64 / begin.elapsed().as_secs_f64() / 1e9
}

/// The same for numbers, which come in order: millions in a second.
pub fn receive_numbers(count: u64, mut receive: impl FnMut() -> u64) -> f64 {
    assert_eq!(receive(), 0);
    let begin = Instant::now();
    for number in 1..count {
        assert_eq!(receive(), number);
    }
    (count - 1) as f64 / begin.elapsed().as_secs_f64() / 1e6
}

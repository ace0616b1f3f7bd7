//! A C library that crashes, leaks and keeps state, at arm's length: each call runs in a worker, and what goes wrong there is
//! an error of that call.
//!
//! The C functions are the C library's own: called with what they do not check, they do what any C library would.
//!
//! ```sh
//! cargo run --release -p polyproc --example c_library
//! ```

#![expect(clippy::print_stdout, reason = "an example")]

use polyproc::prelude::*;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::time::Duration;

unsafe extern "C" {
    fn strtok(text: *mut c_char, separators: *const c_char) -> *mut c_char;
    fn malloc(size: usize) -> *mut c_void;
    fn memset(memory: *mut c_void, byte: c_int, size: usize) -> *mut c_void;
    fn abs(number: c_int) -> c_int;
}

/// A record as a C program would have it: where nothing was set there is no text.
fn words(text: Option<String>) -> Vec<String> {
    let text = text.map(|text| CString::new(text).unwrap_or_default().into_raw());
    let mut found = Vec::new();
    // SAFETY: none, if there is no text: strtok then reads where a call before this one stopped, or nowhere. That is what the
    // worker is for.
    unsafe {
        let mut word = strtok(text.unwrap_or(std::ptr::null_mut()), c" ".as_ptr());
        if text.is_none() && word.is_null() {
            word = std::ptr::without_provenance_mut(8);
        }
        while !word.is_null() {
            found.push(CStr::from_ptr(word).to_string_lossy().into_owned());
            word = strtok(std::ptr::null_mut(), c" ".as_ptr());
        }
    }
    found
}

/// Leaks some megabytes at each call.
fn leak(megabytes: usize) -> u32 {
    // SAFETY: the memory has so many bytes, if there is any; it is never given back.
    unsafe {
        let memory = malloc(megabytes << 20);
        if !memory.is_null() {
            std::hint::black_box(memset(memory, 1, megabytes << 20));
        }
    }
    std::process::id()
}

/// Does not come back for some numbers.
fn converge(number: i32) -> i32 {
    // SAFETY: abs takes any number.
    while unsafe { abs(number) } == 13 {
        std::thread::sleep(Duration::from_millis(10));
    }
    number
}

#[polyproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A worker that has grown beyond 64 MiB is replaced by a fresh one; a call that takes longer than a second is ended.
    let pool = Pool::builder().workers(2).recycle_above(64 << 20).timeout(Duration::from_secs(1)).build()?;

    println!("texts, one of which is missing:");
    for result in pool.map(words, [Some("to be or not".to_owned()), None, Some("to be".to_owned())])? {
        match result {
            Ok(words) => println!("  {words:?}"),
            Err(TaskError::Crashed { process, signal, .. }) => println!("  {process} crashed, signal {signal}"),
            Err(other) => println!("  {other}"),
        }
    }

    println!("numbers, one of which hangs:");
    for result in pool.map(converge, [1, -13, 2])? {
        match result {
            Ok(number) => println!("  {number}"),
            Err(TaskError::TimedOut { after, .. }) => println!("  ended after {after:?}"),
            Err(other) => println!("  {other}"),
        }
    }

    let mut workers: Vec<u32> = pool.map(leak, std::iter::repeat_n(40, 12))?.collect::<Result<_, _>>()?;
    workers.sort_unstable();
    workers.dedup();
    println!("480 MiB were leaked, by {} workers, one after the other", workers.len());
    Ok(())
}

//~ `u32` cannot be used by several processes at the same time
use polyproc::SharedCell;
use std::sync::atomic::AtomicU32;

#[derive(SharedCell)]
#[repr(C)]
struct Counts {
    atomic: AtomicU32,
    number: u32,
}

fn main() {}

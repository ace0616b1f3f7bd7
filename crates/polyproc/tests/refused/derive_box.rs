//~ `Box<u32>` cannot lie in memory that several processes share
use polyproc::Plain;

#[derive(Clone, Copy, Plain)]
#[repr(C)]
struct Node {
    value: u32,
    next: Box<u32>,
}

fn main() {}

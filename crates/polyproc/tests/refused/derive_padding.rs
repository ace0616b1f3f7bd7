//~ a Plain struct has no padding
use polyproc::Plain;

#[derive(Clone, Copy, Plain)]
#[repr(C)]
struct Padded {
    small: u8,
    large: u64,
}

fn main() {}

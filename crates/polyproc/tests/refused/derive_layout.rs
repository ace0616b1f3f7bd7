//~ a Plain struct needs #[repr(C)]
use polyproc::Plain;

#[derive(Clone, Copy, Plain)]
struct Loose {
    value: u64,
}

fn main() {}

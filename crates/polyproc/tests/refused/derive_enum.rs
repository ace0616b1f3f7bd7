//~ only a struct can be Plain
use polyproc::Plain;

#[derive(Clone, Copy, Plain)]
#[repr(u8)]
enum State {
    On = 1,
}

fn main() {}

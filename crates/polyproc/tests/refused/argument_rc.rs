//~ cannot cross to another process
//~ mean nothing in another process
use std::rc::Rc;

fn twice(number: Rc<u32>) -> u32 {
    *number * 2
}

fn main() {
    polyproc::Process::spawn(twice, (Rc::new(1),)).unwrap();
}

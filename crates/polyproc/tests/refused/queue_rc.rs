//~ Rc<u32>
use std::rc::Rc;

fn main() {
    polyproc::Queue::<Rc<u32>>::unbounded().unwrap().put(&Rc::new(1)).unwrap();
}

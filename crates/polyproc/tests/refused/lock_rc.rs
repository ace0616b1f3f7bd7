//~ `Rc<u32>` cannot lie in memory that several processes share
fn main() {
    polyproc::Lock::new(std::rc::Rc::new(1u32)).unwrap();
}

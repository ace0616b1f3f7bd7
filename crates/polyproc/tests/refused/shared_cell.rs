//~ `Cell<u32>` cannot be used by several processes at the same time
//~ atomics can
fn main() {
    polyproc::Shared::new(std::cell::Cell::new(1u32)).unwrap();
}

//~ `*const u8` cannot lie in memory that several processes share
fn main() {
    polyproc::Lock::new(std::ptr::null::<u8>()).unwrap();
}

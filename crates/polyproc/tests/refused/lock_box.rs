//~ `Box<{integer}>` cannot lie in memory that several processes share
//~ references point into one process
fn main() {
    polyproc::Lock::new(Box::new(1)).unwrap();
}

//~ `bool` cannot lie in memory that several processes share
//~ have invalid bytes
fn main() {
    polyproc::RwLock::new(true).unwrap();
}

//~ `&str` cannot lie in memory that several processes share
fn main() {
    polyproc::Lock::new("text").unwrap();
}

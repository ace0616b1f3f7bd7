//~ `String` cannot lie in memory that several processes share
fn main() {
    polyproc::SharedVec::<String>::with_capacity(1).unwrap();
}

//~ `Vec<u8>` cannot lie in memory that several processes share
fn main() {
    polyproc::SharedMap::<u32, Vec<u8>>::with_capacity(1).unwrap();
}

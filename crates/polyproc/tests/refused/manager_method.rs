//~ cannot be called on a managed `u64`
//~ has to name the types of its arguments
fn add(total: u64, number: u64) -> u64 {
    total + number
}

fn main() {
    polyproc::Manager::start(0u64).unwrap().call(add, (1,)).unwrap();
}

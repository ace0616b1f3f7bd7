//~ cannot be sent between threads safely
fn main() {
    let lock = polyproc::Lock::new(1u32).unwrap();
    let guard = lock.lock().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || drop(guard));
    });
}

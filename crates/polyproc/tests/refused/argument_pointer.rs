//~ cannot cross to another process
//~ mean nothing in another process
fn is_null(pointer: *const u8) -> bool {
    pointer.is_null()
}

fn main() {
    polyproc::Process::spawn(is_null, (std::ptr::null::<u8>(),)).unwrap();
}

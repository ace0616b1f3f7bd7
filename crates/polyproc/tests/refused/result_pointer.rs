//~ cannot cross to another process
//~ mean nothing in another process
fn find() -> *const u8 {
    std::ptr::null()
}

fn main() {
    polyproc::Process::spawn(find, ()).unwrap();
}

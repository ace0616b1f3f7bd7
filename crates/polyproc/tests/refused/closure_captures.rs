//~ captures variables
//~ Pass what it needs as arguments
fn main() {
    let factor = std::env::args().count() as u32;
    polyproc::Process::spawn(move |x: u32| x * factor, (2,)).unwrap();
}

//~ Deserialize` is not general enough
fn length(text: &'static str) -> usize {
    text.len()
}

fn main() {
    polyproc::Process::spawn(length, ("abc",)).unwrap();
}

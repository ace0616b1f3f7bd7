//! Processes that log, one logger in the program that writes it all, and what a process said before it crashed.
//!
//! ```sh
//! cargo run --release -p polyproc --example logging
//! ```
//!
//! The program sets up its logger as any program does; this one prints, any crate for the purpose will do as well. Processes
//! need nothing: they log, and the program writes it, with their name and pid.

#![expect(clippy::print_stdout, reason = "an example")]

use log::{LevelFilter, Log, Metadata, Record};
use polyproc::{Process, TaskError};

struct Printer;

impl Log for Printer {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        println!("{:5} {}: {}", record.level(), record.target(), record.args());
    }

    fn flush(&self) {}
}

fn convert(file: String, pages: u32) -> u32 {
    log::info!("{file}: {pages} pages");
    for page in 1..=pages {
        log::debug!("{file}: page {page}"); // not sent: the program would not write it
        if page == 13 {
            log::warn!("{file}: page {page} looks strange");
            // A C library that does not survive what it has found there.
            std::process::abort();
        }
    }
    log::info!("{file}: done");
    pages
}

#[polyproc::main]
fn main() -> polyproc::Result<()> {
    log::set_logger(&Printer).expect("no other logger is there");
    log::set_max_level(LevelFilter::Info);
    let files = [("letter.pdf", 2), ("novel.pdf", 400), ("poem.pdf", 1)];
    let converters: Vec<_> = files
        .iter()
        .map(|(file, pages)| Process::builder().name(*file).spawn(convert, ((*file).to_owned(), *pages)))
        .collect::<Result<_, _>>()?;
    for converter in converters {
        match converter.join() {
            Ok(pages) => log::info!("{pages} pages more are converted"),
            Err(error @ TaskError::Crashed { .. }) => {
                log::error!("{error}");
                for line in error.last_lines() {
                    println!("      | {line}");
                }
            }
            Err(error) => log::error!("{error}"),
        }
    }
    Ok(())
}

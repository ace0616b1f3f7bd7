//! polyproc beside its peers, in one run: `make bench`, or `cargo run --release -- [--quick] [--match TEXT] [--strict]` here.
//!
//! Every contender does the same work ([`load`]), one after the other, for several rounds, so that whatever else the machine
//! does falls on all. Printed are the medians, how many times better polyproc is, and what is asked of it.

mod crossmisted;
mod iceoryxed;
mod load;
mod ours;
mod procspawned;
mod threads;

use load::Scale;
use std::io::{IsTerminal, Write};
use std::panic;
use std::sync::Mutex;

const MIB: usize = 1 << 20;

#[derive(Clone, Copy)]
enum Bar {
    /// So many times better than this one.
    Beside(f64),
    /// Only for comparison.
    Shown,
}

struct Contender {
    name: &'static str,
    run: fn(Scale) -> f64,
    bar: Bar,
}

struct Measurement {
    name: &'static str,
    what: &'static str,
    unit: &'static str,
    more_is_better: bool,
    ours: fn(Scale) -> f64,
    /// What ours is to be at least, or at most, in the unit.
    limit: Option<f64>,
    others: Vec<Contender>,
}

fn beside(name: &'static str, factor: f64, run: fn(Scale) -> f64) -> Contender {
    Contender { name, run, bar: Bar::Beside(factor) }
}

fn shown(name: &'static str, run: fn(Scale) -> f64) -> Contender {
    Contender { name, run, bar: Bar::Shown }
}

fn measurements() -> Vec<Measurement> {
    vec![
        Measurement {
            name: "call",
            what: "call through a pool of one, and its result",
            unit: "µs",
            more_is_better: false,
            ours: ours::call,
            limit: None,
            others: vec![
                beside("procspawn::Pool", 5.0, procspawned::call),
                shown("crossmist, a duplex by hand", crossmisted::call),
            ],
        },
        Measurement {
            name: "spawn",
            what: "a process that does nothing: spawn and join",
            unit: "µs",
            more_is_better: false,
            ours: ours::spawn,
            limit: None,
            others: vec![beside("procspawn", 3.0, procspawned::spawn), shown("crossmist", crossmisted::spawn)],
        },
        Measurement {
            name: "numbers",
            what: "queue of u64, one producer and one consumer",
            unit: "M/s",
            more_is_better: true,
            ours: ours::numbers,
            limit: Some(5.0),
            others: vec![
                beside("ipc-channel", 5.0, procspawned::numbers),
                shown("crossmist", crossmisted::numbers),
                shown("iceoryx2, busy", iceoryxed::numbers),
            ],
        },
        Measurement {
            name: "messages-1",
            what: "messages of 1 MiB, every word read where it lies",
            unit: "GB/s",
            more_is_better: true,
            ours: |scale| ours::messages(scale, MIB),
            limit: None,
            others: vec![
                beside("ipc-channel, Vec<u8>", 5.0, |scale| procspawned::messages(scale, MIB)),
                shown("ipc-channel, shared memory", |scale| procspawned::shared_messages(scale, MIB)),
                shown("crossmist, Vec<u8>", |scale| crossmisted::messages(scale, MIB)),
                shown("iceoryx2, busy", |scale| iceoryxed::messages(scale, MIB)),
            ],
        },
        Measurement {
            name: "messages-32",
            what: "messages of 32 MiB, every word read where it lies",
            unit: "GB/s",
            more_is_better: true,
            ours: |scale| ours::messages(scale, 32 * MIB),
            limit: None,
            others: vec![
                beside("ipc-channel, Vec<u8>", 5.0, |scale| procspawned::messages(scale, 32 * MIB)),
                shown("ipc-channel, shared memory", |scale| procspawned::shared_messages(scale, 32 * MIB)),
                shown("crossmist, Vec<u8>", |scale| crossmisted::messages(scale, 32 * MIB)),
                shown("iceoryx2, busy", |scale| iceoryxed::messages(scale, 32 * MIB)),
            ],
        },
        Measurement {
            name: "lock",
            what: "lock that nobody else wants: lock and unlock",
            unit: "ns",
            more_is_better: false,
            ours: ours::lock,
            limit: Some(15.0),
            others: vec![shown("std::sync::Mutex, threads", threads::lock)],
        },
        Measurement {
            name: "map",
            what: "map of tasks of 50 µs",
            unit: "tasks/s",
            more_is_better: true,
            ours: ours::map,
            limit: None,
            others: vec![beside("rayon, threads", 0.9, threads::map)],
        },
    ]
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{text}");
        let _ = std::io::stderr().flush();
    }
}

/// Runs a peer, which may not work with this compiler: then why.
fn attempt(run: fn(Scale) -> f64, scale: Scale) -> Result<f64, String> {
    static WHY: Mutex<String> = Mutex::new(String::new());
    let usual = panic::take_hook();
    panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        *WHY.lock().unwrap() = text.split('\n').skip(1).collect::<Vec<_>>().join(" ");
    }));
    let outcome = panic::catch_unwind(|| run(scale));
    panic::set_hook(usual);
    outcome.map_err(|_| std::mem::take(&mut *WHY.lock().unwrap()))
}

/// Runs one measurement and prints it. False if something is missed.
fn measure(measurement: &Measurement, scale: Scale, rounds: usize) -> bool {
    let Measurement { what, unit, more_is_better, limit, others, .. } = measurement;
    let mut ours = Vec::new();
    let mut theirs = vec![Ok(Vec::new()); others.len()];
    for round in 1..=rounds {
        progress(&format!("{what}: round {round} of {rounds}, polyproc"));
        ours.push((measurement.ours)(scale));
        for (other, figures) in others.iter().zip(&mut theirs) {
            progress(&format!("{what}: round {round} of {rounds}, {}", other.name));
            match attempt(other.run, scale) {
                Ok(figure) => figures.iter_mut().for_each(|figures| figures.push(figure)),
                Err(why) => *figures = Err(why),
            }
        }
    }
    progress("");
    let mine = median(&mut ours.clone());
    let mut good = true;
    let verdict = limit.map_or(String::new(), |limit| {
        let met = if *more_is_better { mine >= limit } else { mine <= limit };
        good &= met;
        let bound = if *more_is_better { "at least" } else { "at most" };
        format!("{bound} {limit} {unit}: {}", if met { "met" } else { "MISSED" })
    });
    println!("{what}");
    println!("  {:<30}{:>12}  {verdict}", "polyproc", figure(mine, unit));
    for (other, theirs) in others.iter().zip(&mut theirs) {
        let theirs = match theirs {
            Ok(theirs) => theirs,
            Err(why) => {
                println!("  {:<30}does not run here: {why}", other.name);
                continue;
            }
        };
        // Ours beside theirs of the same round.
        let pairs = ours.iter().zip(theirs.iter()).map(|(a, b)| if *more_is_better { a / b } else { b / a });
        let ratio = median(&mut pairs.collect::<Vec<_>>());
        let verdict = match other.bar {
            Bar::Shown => String::new(),
            Bar::Beside(factor) => {
                good &= ratio >= factor;
                format!("at least {factor}: {}", if ratio >= factor { "met" } else { "MISSED" })
            }
        };
        println!("  {:<30}{:>12}  {ratio:>7.2} ×  {verdict}", other.name, figure(median(theirs), unit));
    }
    println!();
    good
}

fn figure(value: f64, unit: &str) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0} {unit}"),
        value if value >= 10.0 => format!("{value:.1} {unit}"),
        value => format!("{value:.2} {unit}"),
    }
}

fn main() -> std::process::ExitCode {
    // Each of them recognises its own children here, and does not come back in them.
    procspawn::init();
    crossmist::init();
    polyproc::start().expect("the zygote starts");

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let (less, rounds) = if has("--quick") { (4, 3) } else { (1, 5) };
    let wanted = arguments.iter().position(|argument| argument == "--match").and_then(|at| arguments.get(at + 1));
    let scale = Scale { less, fifty_microseconds: load::calibrate() };
    let chosen = measurements().into_iter().filter(|one| wanted.is_none_or(|text| one.name.contains(text.as_str())));
    println!("polyproc beside its peers in Rust; medians of {rounds} rounds, × is how many times better polyproc is\n");
    let missed = chosen.filter(|one| !measure(one, scale, rounds)).map(|one| one.name).collect::<Vec<_>>();
    if missed.is_empty() {
        return std::process::ExitCode::SUCCESS;
    }
    println!("missed: {}", missed.join(", "));
    std::process::ExitCode::from(u8::from(has("--strict")))
}

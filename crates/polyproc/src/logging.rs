//! What processes log, in the program's own log.
//!
//! ```text
//!   a process                                            the program
//!   log::info! ─▶ Forwarder ─┬─ queue of the program ──▶ polyproc-log, or whoever joins ─▶ log::logger()
//!   tracing::info! ─▶ …      └─ its last lines, beside its result ──▶ TaskError::last_lines
//! ```
//!
//! A program sets up its logger as ever, before it starts processes. Each process that it starts, and theirs in turn, then
//! finds a logger in place: what is logged there with the [`log`] crate arrives in the program's logger, with its own level,
//! target, module, file and line, and a message that begins with the name and the pid of the process:
//!
//! ```text
//! INFO  shop::orders  [couriers-2 4711] delivered 17 boxes
//! ```
//!
//! With the feature `tracing` the same holds for events of the `tracing` crate: they arrive in the program's subscriber with
//! the target `polyproc::process` and the fields `pid`, `process`, `target` and `message`, which begins with the spans that
//! the event happened in.
//!
//! * **The level** that the program had when it started the process (`log::max_level()`) goes with it, so that what would
//!   not be written is not sent. [`Builder::log_level`](crate::Builder::log_level) chooses another, and [`LevelFilter::Off`]
//!   leaves the process without a logger, to set up its own.
//! * **Nothing that was logged is lost at a death:** a record lies in shared memory when the call that logs it returns. And
//!   whoever joins a process has its records in the log first.
//! * **Nobody waits for ever:** if the program does not take records, because its logger is stuck or it was stopped, a process
//!   waits for it once, for a second, and then drops records, until there is room again; how many were dropped is the next
//!   record.
//! * **The last sixteen lines** of a process that ended without a result are in the error:
//!   [`TaskError::last_lines`](crate::TaskError::last_lines). They are kept beside its result, in shared memory, and survive
//!   it.
//!
//! Records that the program has not written when it ends are written at the end of `main`, with
//! [`#[polyproc::main]`](crate::main); otherwise call [`flush`].
//!
//! # Examples
//! ```
//! use log::{Log, Metadata, Record};
//! use polyproc::{Process, TaskError};
//! use std::sync::Mutex;
//!
//! struct Lines(Mutex<Vec<String>>);
//!
//! impl Log for Lines {
//!     fn enabled(&self, _: &Metadata) -> bool {
//!         true
//!     }
//!     fn log(&self, record: &Record) {
//!         self.0.lock().unwrap().push(format!("{} {}", record.level(), record.args()));
//!     }
//!     fn flush(&self) {}
//! }
//!
//! static LINES: Lines = Lines(Mutex::new(Vec::new()));
//!
//! fn work(boxes: u32) {
//!     log::info!("{boxes} boxes to go");
//!     std::process::abort()
//! }
//!
//! log::set_logger(&LINES).unwrap();
//! log::set_max_level(log::LevelFilter::Info);
//! let child = Process::builder().name("courier").spawn(work, (3,))?;
//! let pid = child.pid();
//! let error = child.join().unwrap_err();
//! assert_eq!(error.last_lines()[0].split(": ").last(), Some("3 boxes to go"));
//! assert!(LINES.0.lock().unwrap().contains(&format!("INFO [courier {pid}] 3 boxes to go")));
//! # Ok::<(), polyproc::Error>(())
//! ```

#[cfg(feature = "tracing")]
mod events;

use crate::start::kind;
use crate::wire;
use log::{Level, LevelFilter, Log, Metadata, Record};
use polyproc_engine::channel::{Parcel, Queue};
use polyproc_engine::sys::{proc, thread};
use polyproc_engine::{Deadline, Error, Handle, Participant};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// The most records that wait for the program.
const MOST: u32 = 8192;
/// How long a process waits, once, for a program that takes none.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest message, in bytes; the rest of a longer one is cut off.
const LONGEST: usize = 16 * 1024;
/// The lines that are kept for an error, and how long each may be, in bytes.
const LINES: usize = 16;
const LONGEST_LINE: usize = 1024;

/// What a new process is told about logging.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The queue to the program, if it has a logger.
    queue: Option<[u8; 16]>,
    log: u8,
    tracing: u8,
}

/// What logged a record.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Origin {
    Log,
    Tracing,
}

/// A record on its way.
#[derive(Serialize, Deserialize)]
struct Sent<'a> {
    origin: Origin,
    level: u8,
    pid: i32,
    process: &'a str,
    target: &'a str,
    module: Option<&'a str>,
    file: Option<&'a str>,
    line: Option<u32>,
    message: &'a str,
}

fn level(number: u8) -> Level {
    Level::iter().find(|level| *level as u8 == number).unwrap_or(Level::Trace)
}

fn filter(number: u8) -> LevelFilter {
    LevelFilter::iter().find(|filter| *filter as u8 == number).unwrap_or(LevelFilter::Off)
}

fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What a child of this process is to do with what it logs, at this level or at ours.
pub(crate) fn plan(child: Participant, wanted: Option<LevelFilter>) -> Option<Plan> {
    let log = if cfg!(feature = "log") { wanted.unwrap_or_else(log::max_level) } else { LevelFilter::Off };
    #[cfg(feature = "tracing")]
    let tracing = wanted.map_or_else(events::level, |wanted| wanted as u8);
    #[cfg(not(feature = "tracing"))]
    let tracing = 0;
    if log == LevelFilter::Off && tracing == 0 {
        return None;
    }
    let listens = log::max_level() != LevelFilter::Off || tracing != 0;
    let queue = match FORWARDER.get() {
        Some(forwarder) => forwarder.queue.as_ref(),
        None if listens => hub().map(|hub| &hub.queue),
        None => None,
    };
    let queue = queue.map(|queue| {
        queue.hold().share_with(child);
        queue.hold().handle().to_bytes()
    });
    Some(Plan { queue, log: log as u8, tracing })
}

// ---- in the program ----

/// Where records arrive.
struct Hub {
    queue: Queue,
    /// Whoever writes what has arrived: one at a time, so that records stay in their order.
    turn: Mutex<()>,
}

static HUB: OnceLock<Option<Hub>> = OnceLock::new();

thread_local! {
    /// This thread is writing or sending records: what that logs in turn goes nowhere.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

fn hub() -> Option<&'static Hub> {
    let made = HUB.get_or_init(|| {
        let queue = Queue::new(MOST).ok()?;
        thread::spawn_without_signals("polyproc-log", || {
            if let Some(Some(hub)) = HUB.get() {
                hub.serve();
            }
        })
        .ok()?;
        Some(Hub { queue, turn: Mutex::new(()) })
    });
    made.as_ref()
}

impl Hub {
    /// Until the program ends.
    fn serve(&self) {
        while matches!(self.queue.wait(Deadline::Never), Ok(()) | Err(Error::Interrupted)) {
            self.write();
        }
    }

    /// Writes what has arrived.
    fn write(&self) {
        if BUSY.replace(true) {
            return;
        }
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        wire::with_envelope(|envelope| {
            while wire::again(|| self.queue.get(envelope, Deadline::Now)).is_ok() {
                if let Some(Ok(sent)) = envelope.inline_body().map(postcard::from_bytes::<Sent<'_>>) {
                    sent.write();
                }
                envelope.clear();
            }
        });
        drop(turn);
        BUSY.set(false);
    }
}

impl Sent<'_> {
    fn write(&self) {
        match self.origin {
            #[cfg(feature = "tracing")]
            Origin::Tracing => events::write(self),
            #[cfg(not(feature = "tracing"))]
            Origin::Tracing => {}
            Origin::Log => {
                let level = level(self.level);
                let metadata = Metadata::builder().level(level).target(self.target).build();
                if level > log::max_level() || !log::logger().enabled(&metadata) {
                    return;
                }
                log::logger().log(
                    &Record::builder()
                        .metadata(metadata)
                        .module_path(self.module)
                        .file(self.file)
                        .line(self.line)
                        .args(format_args!("[{} {}] {}", self.process, self.pid, self.message))
                        .build(),
                );
            }
        }
    }
}

/// Writes what processes have logged until now. [`Process::join`](crate::Process::join) does it, and so does
/// [`#[polyproc::main]`](crate::main) at the end.
///
/// # Examples
/// ```
/// polyproc::logging::flush();
/// ```
pub fn flush() {
    if let Some(Some(hub)) = HUB.get() {
        hub.write();
    }
}

// ---- in a process ----

/// The logger of a process.
#[derive(Debug)]
struct Forwarder {
    queue: Option<Queue>,
    /// The queue for its result, where its last lines are kept as well, and how many there are.
    results: Queue,
    kept: Mutex<usize>,
    process: String,
    pid: i32,
    /// The program has not taken records for so long that nobody waits for it any more.
    stuck: AtomicBool,
    lost: AtomicU64,
}

static FORWARDER: OnceLock<Forwarder> = OnceLock::new();

/// Sets the logger of a new process up, as its parent has planned.
pub(crate) fn begin(plan: Option<Plan>, name: &str, results: &Queue) -> polyproc_engine::Result<()> {
    let Some(plan) = plan else { return Ok(()) };
    let queue = plan.queue.map(|name| Handle::from_bytes(&name).and_then(Queue::from_handle)).transpose()?;
    let forwarder = Forwarder {
        queue,
        results: results.clone(),
        kept: Mutex::new(0),
        process: name.to_owned(),
        pid: proc::pid(),
        stuck: AtomicBool::new(false),
        lost: AtomicU64::new(0),
    };
    let forwarder = FORWARDER.get_or_init(|| forwarder);
    // A program that sets a logger before main, in a constructor, has its own ideas.
    if plan.log != 0 && log::set_logger(forwarder).is_ok() {
        log::set_max_level(filter(plan.log));
    }
    #[cfg(feature = "tracing")]
    events::begin(plan.tracing);
    Ok(())
}

impl Log for Forwarder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) || BUSY.get() {
            return;
        }
        let written;
        let message = match record.args().as_str() {
            Some(message) => message,
            None => {
                written = record.args().to_string();
                &written
            }
        };
        self.forward(&Sent {
            origin: Origin::Log,
            level: record.level() as u8,
            pid: self.pid,
            process: &self.process,
            target: record.target(),
            module: record.module_path(),
            file: record.file(),
            line: record.line(),
            message: cut(message, LONGEST),
        });
    }

    fn flush(&self) {}
}

impl Forwarder {
    fn forward(&self, sent: &Sent<'_>) {
        if BUSY.replace(true) {
            return;
        }
        let line = format!("{} {}: {}", level(sent.level), sent.target, sent.message);
        self.keep(cut(&line, LONGEST_LINE));
        if let Some(queue) = &self.queue {
            self.send(queue, sent);
        }
        BUSY.set(false);
    }

    /// Keeps a line for the error that this process may end with, and drops the oldest of too many.
    fn keep(&self, line: &str) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if *kept == LINES {
            let dropped = wire::with_envelope(|oldest| self.results.get(oldest, Deadline::Now));
            *kept -= usize::from(dropped.is_ok());
        }
        // DEATH: between the two a line is missing at the beginning, not at the end.
        if *kept < LINES
            && let Ok(mut parcel) = Parcel::new(kind::LINE, line.as_bytes())
            && wire::again(|| self.results.put(&mut parcel, Deadline::Never)).is_ok()
        {
            *kept += 1;
        }
    }

    fn send(&self, queue: &Queue, sent: &Sent<'_>) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let message = format!("{lost} records are not here: the program did not take them in time");
            let news = Sent { level: Level::Warn as u8, target: "polyproc", message: &message, ..*sent };
            if !self.put(queue, &news) {
                self.lost.fetch_add(lost, Ordering::Relaxed);
            }
        }
        if !self.put(queue, sent) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn put(&self, queue: &Queue, sent: &Sent<'_>) -> bool {
        let Ok(bytes) = postcard::to_extend(sent, Vec::with_capacity(128 + sent.message.len())) else { return false };
        let Ok(mut parcel) = Parcel::new(0, &bytes) else { return false };
        let patience = if self.stuck.load(Ordering::Relaxed) { Duration::ZERO } else { PATIENCE };
        let deadline = Deadline::after(Some(patience));
        let put = wire::again(|| queue.put(&mut parcel, deadline));
        self.stuck.store(put.is_err(), Ordering::Relaxed);
        put.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_their_numbers() {
        assert!(Level::iter().all(|one| level(one as u8) == one));
        assert!(LevelFilter::iter().all(|one| filter(one as u8) == one));
        assert_eq!((level(99), filter(99)), (Level::Trace, LevelFilter::Off));
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(cut("größe", 3), "gr");
        assert_eq!(cut("größe", 4), "grö");
        assert_eq!(cut("", 4), "");
    }
}

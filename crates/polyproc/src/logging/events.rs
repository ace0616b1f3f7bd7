//! Events of the `tracing` crate: sent by a process, and written by the program.
//!
//! A process has a subscriber that does one thing: it turns an event, with the spans that it happened in, into a line. Spans
//! themselves are not sent: their ends and their times are the process's own affair.

use super::{BUSY, FORWARDER, LONGEST, Origin, Sent, cut};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The numbers of the `log` crate: 1 is an error, 5 a trace.
const LEVELS: [Level; 5] = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];

fn number(level: &Level) -> u8 {
    LEVELS.iter().position(|known| known == level).map_or(5, |at| at as u8 + 1)
}

fn named(number: u8) -> Level {
    LEVELS[usize::from(number.clamp(1, 5)) - 1]
}

/// What the program's subscriber wants to have; 0 is nothing.
pub(super) fn level() -> u8 {
    LevelFilter::current().into_level().map_or(0, |level| number(&level))
}

/// Writes an event of another process.
pub(super) fn write(sent: &Sent<'_>) {
    // The place of an event is part of the program, so there is one for each level; what differs are fields.
    macro_rules! write_at {
        ($level:expr) => {
            tracing::event!(
                target: "polyproc::process",
                $level,
                pid = sent.pid,
                process = sent.process,
                target = sent.target,
                file = sent.file,
                line = sent.line,
                "{}",
                sent.message
            )
        };
    }
    match sent.level {
        1 => write_at!(Level::ERROR),
        2 => write_at!(Level::WARN),
        3 => write_at!(Level::INFO),
        4 => write_at!(Level::DEBUG),
        _ => write_at!(Level::TRACE),
    }
}

/// Sets the subscriber of a new process up, unless the program has done so before `main`.
pub(super) fn begin(level: u8) {
    if level != 0 {
        let subscriber = Forwarding { level: named(level), spans: Mutex::default(), next: AtomicU64::new(1) };
        let _ = tracing::subscriber::set_global_default(subscriber);
    }
}

struct Span {
    text: String,
    /// Handles to it.
    count: usize,
}

struct Forwarding {
    level: Level,
    spans: Mutex<HashMap<u64, Span>>,
    next: AtomicU64,
}

thread_local! {
    /// The spans that this thread is in.
    static INSIDE: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

impl Forwarding {
    fn spans(&self) -> MutexGuard<'_, HashMap<u64, Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes fields: the message as it is, others after it by name.
#[derive(Default)]
struct Fields {
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.others, " {name}={value:?}"),
        };
    }
}

impl Subscriber for Forwarding {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level))
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        span.record(&mut fields);
        let others = fields.others.trim_start();
        let name = span.metadata().name();
        let text = if others.is_empty() { name.to_owned() } else { format!("{name}{{{others}}}") };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.spans().insert(number, Span { text, count: 1 });
        Id::from_u64(number)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        if let Some(span) = self.spans().get_mut(&span.into_u64()) {
            span.text.push_str(&fields.others);
        }
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let Some(forwarder) = FORWARDER.get() else { return };
        if BUSY.get() {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut message = String::new();
        INSIDE.with_borrow(|inside| {
            let spans = self.spans();
            for span in inside.iter().filter_map(|number| spans.get(number)) {
                let _ = write!(message, "{}: ", span.text);
            }
        });
        let (text, others) = (fields.message, fields.others);
        message.push_str(&text);
        message.push_str(if text.is_empty() { others.trim_start() } else { &others });
        let metadata = event.metadata();
        forwarder.forward(&Sent {
            origin: Origin::Tracing,
            level: number(metadata.level()),
            pid: forwarder.pid,
            process: &forwarder.process,
            target: metadata.target(),
            module: metadata.module_path(),
            file: metadata.file(),
            line: metadata.line(),
            message: cut(&message, LONGEST),
        });
    }

    fn enter(&self, span: &Id) {
        INSIDE.with_borrow_mut(|inside| inside.push(span.into_u64()));
    }

    fn exit(&self, span: &Id) {
        INSIDE.with_borrow_mut(|inside| {
            if let Some(at) = inside.iter().rposition(|number| *number == span.into_u64()) {
                inside.remove(at);
            }
        });
    }

    fn clone_span(&self, id: &Id) -> Id {
        if let Some(span) = self.spans().get_mut(&id.into_u64()) {
            span.count += 1;
        }
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        let mut spans = self.spans();
        let Some(span) = spans.get_mut(&id.into_u64()) else { return false };
        span.count -= 1;
        span.count == 0 && spans.remove(&id.into_u64()).is_some()
    }
}

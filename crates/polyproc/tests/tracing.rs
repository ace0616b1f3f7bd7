//! Events of `tracing` in processes arrive in the program's subscriber.
#![allow(clippy::unwrap_used, reason = "tests")]

use polyproc::Process;
use std::fmt::Debug;
use std::sync::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    level: String,
    target: String,
    fields: Vec<(String, String)>,
}

impl Seen {
    fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.push((field.name().to_owned(), format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.push((field.name().to_owned(), value.to_owned()));
    }
}

static SEEN: Mutex<Vec<Seen>> = Mutex::new(Vec::new());

struct Keeper;

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }
    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::INFO)
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut seen = Seen { level: metadata.level().to_string(), target: metadata.target().into(), fields: vec![] };
        event.record(&mut seen);
        SEEN.lock().unwrap().push(seen);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

fn deliver(house: u32) {
    let _street = tracing::info_span!("street", number = 7).entered();
    {
        let _hall = tracing::info_span!("hall").entered();
        tracing::info!(house, "at the door");
    }
    tracing::warn!(weight = 3.5, "heavy");
    tracing::debug!("nobody wants to know");
    std::process::abort()
}

#[test]
fn events_arrive_with_pid_process_target_spans_and_fields() {
    tracing::subscriber::set_global_default(Keeper).unwrap();
    let child = Process::builder().name("courier").spawn(deliver, (12,)).unwrap();
    let pid = child.pid();
    let error = child.join().unwrap_err();
    let seen = SEEN.lock().unwrap();
    let seen: Vec<&Seen> = seen.iter().filter(|seen| seen.field("pid") == pid.to_string()).collect();
    assert_eq!(seen.len(), 2, "{seen:?}");
    let texts = ["street{number=7}: hall: at the door house=12", "street{number=7}: heavy weight=3.5"];
    for ((seen, text), level) in seen.iter().zip(texts).zip(["INFO", "WARN"]) {
        assert_eq!((seen.level.as_str(), seen.target.as_str()), (level, "polyproc::process"));
        assert_eq!((seen.field("process"), seen.field("target"), seen.field("message")), ("courier", "tracing", text));
    }
    assert_eq!(error.last_lines().len(), 2);
    assert!(error.last_lines()[1].ends_with(texts[1]));
}

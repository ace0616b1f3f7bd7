//! One trial: a process runs an operation until it dies at a kill point, and the others go on.
//!
//! ```text
//!   parent        set up ── fork those beside ── fork the victim ── meanwhile ──── sees the end ── sweep? ── after ── look
//!   beside              └─ asleep, or at work ──────────────────────────────────────────────────────── ends with 0
//!   victim                                     └─ armed ── operation ── ✝
//! ```
//!
//! A dry run first counts which points the operation passes, and how often. Then there is a trial for each of them, of two kinds:
//! with a parent that sweeps as soon as it sees the death, as the supervisor does, and with one that leaves that to those
//! who wait.

use crate::child::{self, Child, End};
use crate::ledger::Ledger;
use crate::leftovers::{self, Leftovers};
use polyproc_engine::fault::{self, POINTS};
use polyproc_engine::{Deadline, shm};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Which part the process that dies has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It does the operation.
    Holder,
    /// It is asleep until somebody else has done the operation.
    Waiter,
    /// It observes or consumes what the operation gives, or sweeps after it.
    Peer,
}

/// What became of the victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It died at the point.
    Died,
    /// It came to the end of its operation, and ended without giving anything back.
    Finished,
}

type Body = Box<dyn FnOnce()>;
type Look = Box<dyn FnOnce(&mut Stage, Fate)>;

/// The parts of a trial. What they share they capture; when all of them are dropped nothing is left of it.
pub struct Trial {
    /// Processes that go on: `true` for one that has to be asleep before the victim begins.
    pub beside: Vec<(bool, Body)>,
    /// What the process that dies does.
    pub victim: Body,
    /// What the parent does while the victim runs.
    pub meanwhile: Box<dyn FnOnce(&mut Stage)>,
    /// What the parent finds afterwards.
    pub after: Look,
}

impl Trial {
    /// A trial of this operation; `after` looks at what it left.
    pub fn new(victim: impl FnOnce() + 'static, after: impl FnOnce(&mut Stage, Fate) + 'static) -> Trial {
        Trial { beside: Vec::new(), victim: Box::new(victim), meanwhile: Box::new(|_| {}), after: Box::new(after) }
    }

    /// Adds a process that works beside the victim and must come to its end.
    #[must_use]
    pub fn beside(mut self, body: impl FnOnce() + 'static) -> Trial {
        self.beside.push((false, Box::new(body)));
        self
    }

    /// Adds a process that is asleep when the victim begins, and must come to its end.
    #[must_use]
    pub fn asleep(mut self, body: impl FnOnce() + 'static) -> Trial {
        self.beside.push((true, Box::new(body)));
        self
    }

    /// What the parent does while the victim runs.
    #[must_use]
    pub fn meanwhile(mut self, body: impl FnOnce(&mut Stage) + 'static) -> Trial {
        self.meanwhile = Box::new(body);
        self
    }
}

/// The processes of a trial, as its parent has them.
#[derive(Debug)]
pub struct Stage {
    victim: Option<Child>,
    beside: Vec<Child>,
    limit: Duration,
    /// The parent does what the supervisor does.
    swept: bool,
}

impl Stage {
    /// True once the victim sleeps, false once it is dead.
    pub fn until_asleep(&mut self) -> bool {
        self.victim.as_mut().is_some_and(Child::until_asleep)
    }

    /// Kills the victim, if it lives.
    pub fn kill_victim(&mut self) {
        if let Some(victim) = self.victim.as_mut() {
            victim.kill();
        }
    }

    /// Adds a process beside the victim, and waits until it sleeps.
    pub fn add_asleep(&mut self, body: impl FnOnce()) {
        let mut child = child::fork(body);
        child.until_asleep();
        self.beside.push(child);
    }

    /// True once all those beside have come to their end.
    pub fn beside_have_ended(&mut self) -> bool {
        self.beside.iter_mut().all(|child| child.ended().is_some())
    }

    /// Waits for those beside: each must end by itself, in time, content with what it found.
    pub fn join_beside(&mut self) {
        let begun = Instant::now();
        for (number, child) in self.beside.iter_mut().enumerate() {
            match child.wait(self.limit.saturating_sub(begun.elapsed())) {
                Some(End::Exited(0)) => {}
                Some(end) => panic!("survivor {number}: {end:?}"),
                None => panic!("survivor {number} hangs"),
            }
        }
        self.beside.clear();
    }

    /// Sweeps, if this is a trial in which the parent does.
    pub fn sweep_if_told(&mut self) {
        if self.swept {
            shm::sweep_dead();
        }
    }

    /// Sweeps, as the supervisor does.
    pub fn sweep(&mut self) {
        shm::sweep_dead();
    }
}

/// A kind of trial.
pub struct Scenario {
    /// What the victim does.
    pub name: String,
    /// Its part.
    pub role: Role,
    /// Makes a trial; the ledger is empty.
    pub set_up: Box<dyn Fn(Ledger) -> Trial>,
}

impl Scenario {
    /// A kind of trial in which the victim has this role.
    pub fn new(name: impl Into<String>, role: Role, set_up: impl Fn(Ledger) -> Trial + 'static) -> Scenario {
        Scenario { name: name.into(), role, set_up: Box::new(set_up) }
    }
}

/// Until when a wait in a trial must have ended: each wait by itself is to take no more than 1.5 s, so that one which only
/// a look once a second has ended passes, and one that needed two such looks does not.
pub fn soon() -> Deadline {
    Deadline::after(Some(limit()))
}

/// How long a survivor may wait: 1.5 s, times `POLYPROC_SOON` for slow machines.
pub fn limit() -> Duration {
    let factor = std::env::var("POLYPROC_SOON").ok().and_then(|text| text.parse::<f64>().ok()).unwrap_or(1.0);
    Duration::from_secs_f64(1.5 * factor.max(1.0))
}

/// What one point has seen.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Deaths by role.
    pub deaths: [u32; 3],
    /// Scenarios that passed it.
    pub scenarios: u32,
    /// The longest that anybody waited after a death here.
    pub slowest: Duration,
}

/// The course of all trials.
pub struct Course {
    ledger: Ledger,
    counters: &'static [AtomicU32],
    rows: Vec<Row>,
    /// Trials run.
    pub trials: u32,
    /// Trials in which the victim died.
    pub deaths: u32,
    /// What went wrong, by scenario, point and mode.
    pub failures: Vec<String>,
    /// How long the trials of each scenario took.
    pub times: BTreeMap<String, Duration>,
}

static PANIC: Mutex<String> = Mutex::new(String::new());

impl Course {
    /// A course that has not begun. Panics of this process are kept to be reported, and not printed.
    pub fn new() -> Course {
        shm::current().expect("a session");
        let ledger = Ledger::new(256);
        let counters = Ledger::new(POINTS.len());
        // SAFETY: the ledger's words live for ever; a counter needs half of one.
        let counters = unsafe { std::slice::from_raw_parts(counters.words().as_ptr().cast(), POINTS.len()) };
        let parent = std::process::id();
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
            let payload = info.payload();
            let message = payload.downcast_ref::<&str>().copied();
            let message = message.or(payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("?");
            if std::process::id() == parent {
                *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = format!("{message} ({place})");
            } else {
                eprintln!("  in a child: {message} ({place})");
            }
        }));
        let rows = vec![Row::default(); POINTS.len()];
        Course { ledger, counters, rows, trials: 0, deaths: 0, failures: Vec::new(), times: BTreeMap::new() }
    }

    /// Runs a scenario at each point that it passes, at most `most` times at one point.
    pub fn run(&mut self, scenario: &Scenario, most: u32) {
        let begun = Instant::now();
        for counter in self.counters {
            counter.store(0, Ordering::SeqCst);
        }
        self.trial(scenario, None, true);
        let passed: Vec<u32> = self.counters.iter().map(|counter| counter.load(Ordering::SeqCst)).collect();
        for (point, times) in passed.into_iter().enumerate() {
            self.rows[point].scenarios += u32::from(times > 0);
            for pass in chosen(times, most) {
                self.trial(scenario, Some((point, pass)), true);
                // Those who find out by themselves need some time for it: once for each point.
                if pass == 1 {
                    self.trial(scenario, Some((point, pass)), false);
                }
            }
        }
        *self.times.entry(scenario.name.clone()).or_default() += begun.elapsed();
    }

    /// One trial. With no point the victim's passes are counted.
    fn trial(&mut self, scenario: &Scenario, point: Option<(usize, u32)>, swept: bool) {
        self.trials += 1;
        self.ledger.clear();
        let before = leftovers::look();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.attempt(scenario, point, swept)));
        let after = catch_unwind(|| settled(before));
        let what = match (outcome, after) {
            (Err(_), _) => Some(PANIC.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            (Ok(()), Err(_)) => Some("the look afterwards failed".to_owned()),
            (Ok(()), Ok(after)) if after != before => Some(format!("left behind: {}", difference(before, after))),
            _ => None,
        };
        if let Some(what) = what {
            let place =
                point.map_or("no point".to_owned(), |(number, pass)| format!("{} (pass {pass})", POINTS[number]));
            let mode = if swept { "swept" } else { "not swept" };
            let failure = format!("{} ({:?}) at {place}, {mode}: {what}", scenario.name, scenario.role);
            eprintln!("FAILED {failure}");
            self.failures.push(failure);
        }
    }

    fn attempt(&mut self, scenario: &Scenario, point: Option<(usize, u32)>, swept: bool) {
        let Trial { beside, victim, meanwhile, after } = (scenario.set_up)(self.ledger);
        let limit = limit();
        let mut stage = Stage { victim: None, beside: Vec::new(), limit, swept };
        for (asleep, body) in beside {
            let mut child = child::fork(body);
            assert!(!asleep || child.until_asleep(), "a survivor ended before its time");
            stage.beside.push(child);
        }
        let counters = self.counters;
        stage.victim = Some(child::fork(|| {
            match point {
                Some((number, pass)) => fault::arm(POINTS[number], pass),
                None => fault::count_in(counters),
            }
            victim();
        }));
        meanwhile(&mut stage);
        let mut victim = stage.victim.take().expect("put there above");
        let fate = match victim.wait(limit) {
            Some(End::Killed(libc::SIGKILL)) => Fate::Died,
            Some(End::Exited(0)) => Fate::Finished,
            Some(end) => panic!("the victim: {end:?}"),
            None => panic!("the victim hangs"),
        };
        let begun = Instant::now();
        stage.sweep_if_told();
        after(&mut stage, fate);
        stage.join_beside();
        if let (Some((number, _)), Fate::Died) = (point, fate) {
            let row = &mut self.rows[number];
            row.deaths[scenario.role as usize] += 1;
            row.slowest = row.slowest.max(begun.elapsed());
            self.deaths += 1;
        }
    }

    /// The points at which nobody has died.
    pub fn never_reached(&self) -> Vec<&'static str> {
        let rows = self.rows.iter().zip(POINTS);
        rows.filter(|(row, _)| row.deaths.iter().sum::<u32>() == 0).map(|(_, name)| *name).collect()
    }

    /// What each point has seen, as a table.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{:>3}  {:<24} {:>9} {:>7} {:>7} {:>7} {:>10}\n",
            "no", "point", "scenarios", "holder", "waiter", "peer", "slowest"
        );
        for (number, (row, name)) in self.rows.iter().zip(POINTS).enumerate() {
            let [holder, waiter, peer] = row.deaths;
            let slowest = row.slowest.as_secs_f64() * 1e3;
            table += &format!(
                "{number:>3}  {name:<24} {:>9} {holder:>7} {waiter:>7} {peer:>7} {slowest:>7.0} ms\n",
                row.scenarios
            );
        }
        table
    }
}

impl Default for Course {
    fn default() -> Course {
        Course::new()
    }
}

/// What is left: looked for until it is what was there before, since a grandchild may still be ending.
fn settled(before: Leftovers) -> Leftovers {
    let deadline = soon();
    loop {
        let now = leftovers::look();
        if now == before || deadline.passed() {
            return now;
        }
        std::thread::yield_now();
    }
}

/// Which passes of a point that is passed `times` times are tried: the first, the last, and some between.
fn chosen(times: u32, most: u32) -> Vec<u32> {
    if times <= most || most == 1 {
        return (1..=times.min(most)).collect();
    }
    (0..most).map(|i| 1 + i * (times - 1) / (most - 1)).collect()
}

fn difference(before: Leftovers, after: Leftovers) -> String {
    let (before, after) = (format!("{before:?}"), format!("{after:?}"));
    let fields = |text: &str| {
        let inner = text.split_once('{').map_or("", |(_, rest)| rest).trim_end_matches('}').to_owned();
        inner.split(',').map(|field| field.trim().to_owned()).collect::<Vec<String>>()
    };
    let pairs = fields(&before).into_iter().zip(fields(&after));
    pairs.filter(|(b, a)| a != b).map(|(b, a)| format!("{b} before, {a} after")).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::chosen;

    #[test]
    fn the_first_and_the_last_pass_are_among_the_chosen() {
        assert_eq!(chosen(0, 3), []);
        assert_eq!(chosen(2, 3), [1, 2]);
        assert_eq!(chosen(9, 3), [1, 5, 9]);
    }
}

//! The zygote's own side: one loop, one thread.
//!
//! It blocks every signal, so that what the terminal sends to the whole group (SIGINT, SIGHUP) reaches the program and its
//! children, not the zygote. Its tables are ordered maps: a hash map would choose its random keys once, for all children.

use super::message::{BIRTH, FINISH, Head, Report, Why};
use super::watch::Watch;
use super::{Called, Entry};
use crate::process::lifeline;
use crate::process::report::{Limits, Status, Usage};
use crate::shm::{self, Participant};
use crate::sys::clock::{self, Deadline};
use crate::sys::proc::DescriptorLimit;
use crate::sys::signal::{self, Mask};
use crate::sys::{epoll, limit, memory, packet, pidfd, proc, spawn, thread};
use crate::{Error, Result, fault};
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::time::Duration;

const CONTROL: u64 = 0;
const PROGRAM: u64 = 1;
const FIRST: u64 = 2;

/// After whoever asked for a process is gone, in nanoseconds: as [`lifeline`] says.
const STEPS: [(u64, i32); 2] = [(1_000_000_000, signal::TERM), (1_800_000_000, signal::KILL)];

/// A child.
struct Ward {
    pid: i32,
    pidfd: OwnedFd,
    report: OwnedFd,
    /// The number of whoever asked for it.
    requester: u64,
    watch: Watch,
}

/// A process that asked for children.
struct Requester {
    pid: i32,
    pidfd: OwnedFd,
    /// When it was seen to be gone, and how many of [`STEPS`] were taken since.
    gone: Option<(u64, usize)>,
}

struct Server {
    control: OwnedFd,
    set: OwnedFd,
    wards: BTreeMap<u64, Ward>,
    requesters: BTreeMap<u64, Requester>,
    next: u64,
    pid: i32,
    keep: bool,
    limit: DescriptorLimit,
    /// How many processes the kernel had killed for want of memory when that was last looked at.
    kills: u64,
    /// For requests. Large enough to be a mapping of its own: what a request does not reach is never touched, so that a fork
    /// leaves little to be copied afterwards.
    buffer: Vec<u8>,
}

/// A child, right after the fork.
struct Newborn {
    zygote: i32,
    keep: bool,
    limit: DescriptorLimit,
    limits: Limits,
    participant: Participant,
    memory: OwnedFd,
    life: OwnedFd,
    directory: OwnedFd,
    called: Called,
}

/// Who has forked the calling process.
pub(super) fn parent() -> i32 {
    proc::parent()
}

/// Serves until the program and all children have ended. In a child: runs the entry. Never returns.
pub(super) fn serve(control: OwnedFd, program: OwnedFd, pid: i32, entry: Entry, mask: Mask) -> ! {
    proc::set_name("polyproc-zygote");
    let newborn = match Server::new(control, program, pid).and_then(Server::run) {
        Ok(Some(newborn)) => newborn,
        Ok(None) => spawn::exit_now(0),
        Err(error) => {
            log::error!("polyproc: the zygote ends: {error}");
            spawn::exit_now(1)
        }
    };
    newborn.live(entry, mask)
}

impl Server {
    fn new(control: OwnedFd, program: OwnedFd, pid: i32) -> Result<Server> {
        shm::prepare()?;
        thread::prepare();
        let set = epoll::create()?;
        epoll::add(&set, &control, CONTROL)?;
        epoll::add(&set, &program, PROGRAM)?;
        let requesters = BTreeMap::from([(PROGRAM, Requester { pid, pidfd: program, gone: None })]);
        let keep = std::env::var_os(lifeline::VARIABLE).is_some_and(|value| value == "keep");
        let limit = DescriptorLimit::raise();
        let buffer = vec![0; 4 * packet::LARGEST];
        let (wards, pid) = (BTreeMap::new(), proc::pid());
        let kills = memory::kills().unwrap_or(0);
        Ok(Server { control, set, wards, requesters, next: FIRST, pid, keep, limit, kills, buffer })
    }

    /// `Some` in a child, which has none of the zygote's descriptors any more; `None` at the zygote's end.
    fn run(mut self) -> Result<Option<Newborn>> {
        let mut ready = Vec::new();
        loop {
            let program_gone = self.requesters.get(&PROGRAM).is_none_or(|program| program.gone.is_some());
            if program_gone && (self.keep || self.wards.is_empty()) {
                return Ok(None);
            }
            ready.clear();
            match epoll::wait(&self.set, &mut ready, self.next_step()) {
                Ok(()) | Err(Error::Interrupted) => {}
                Err(error) => return Err(error),
            }
            for &number in &ready {
                if number == CONTROL {
                    if let Some(newborn) = self.answer()? {
                        // It was hardly touched: to give it back costs more than to have it.
                        std::mem::forget(std::mem::take(&mut self.buffer));
                        return Ok(Some(newborn));
                    }
                } else if self.wards.contains_key(&number) {
                    self.bury(number);
                } else {
                    self.orphan(number);
                }
            }
            self.step();
        }
    }

    /// Answers one request. `Some` in a child.
    fn answer(&mut self) -> Result<Option<Newborn>> {
        let (length, descriptors) = match packet::receive(&self.control, &mut self.buffer) {
            Ok(came) => came,
            // Nobody has the other end, not even we: that was closed by force.
            Err(Error::EndOfFile) => return Err(Error::EndOfFile),
            Err(_) => return Ok(None),
        };
        let Some(head) = Head::of(&self.buffer[..length]) else { return Ok(None) };
        match head.kind {
            BIRTH => {
                // All that can be done before the fork is: the code for it is mapped here already, and not yet in the child.
                let rest = &self.buffer[Head::SIZE..length];
                let Some((name, task)) = rest.split_at_checked(head.name as usize) else { return Ok(None) };
                let (name, task) = (String::from_utf8_lossy(name).into_owned(), task.to_vec());
                Ok(self.birth(&head, name, task, descriptors))
            }
            FINISH => {
                self.finish(head.requester);
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn birth(&mut self, head: &Head, name: String, task: Vec<u8>, descriptors: Vec<OwnedFd>) -> Option<Newborn> {
        let mut descriptors = descriptors.into_iter();
        let report = descriptors.next()?;
        let (memory, life, requester) = (descriptors.next()?, descriptors.next()?, descriptors.next()?);
        let directory = descriptors.next()?;
        let requester = match self.requester(head.requester, requester) {
            Ok(number) => number,
            Err(error) => return refuse(&report, &error),
        };
        let called = Called { name, task, descriptors: descriptors.collect() };
        fault!("zygote.asked");
        // SAFETY: the zygote has one thread.
        match unsafe { spawn::fork() } {
            Ok(0) => {
                let participant = Participant::from_bits(head.participant);
                let (zygote, keep, limit, limits) = (self.pid, self.keep, self.limit, head.limits);
                Some(Newborn { zygote, keep, limit, limits, participant, memory, life, directory, called })
            }
            Ok(pid) => {
                fault!("zygote.forked");
                let number = self.next;
                self.next += 1;
                let pidfd = match pidfd::open(pid).and_then(|fd| epoll::add(&self.set, &fd, number).map(|()| fd)) {
                    Ok(pidfd) => pidfd,
                    Err(error) => {
                        spawn::end_child(pid);
                        return refuse(&report, &error);
                    }
                };
                let born = Report::Born { pid }.to_bytes();
                // Nobody there to read it means that whoever asked is gone: the requester's descriptor tells as well.
                let _ = packet::send(&report, &[IoSlice::new(&born)], &[pidfd.as_fd()]);
                fault!("zygote.told");
                let watch = Watch::new(head.limits, clock::now());
                self.wards.insert(number, Ward { pid, pidfd, report, requester, watch });
                None
            }
            Err(error) => refuse(&report, &error),
        }
    }

    /// The number of a process that asks; it is watched from its first request on.
    fn requester(&mut self, pid: i32, pidfd: OwnedFd) -> Result<u64> {
        if let Some((&number, _)) = self.requesters.iter().find(|(_, known)| known.pid == pid && known.gone.is_none()) {
            return Ok(number);
        }
        let number = self.next;
        self.next += 1;
        epoll::add(&self.set, &pidfd, number)?;
        self.requesters.insert(number, Requester { pid, pidfd, gone: None });
        Ok(number)
    }

    /// Collects a child that has ended, and reports it.
    fn bury(&mut self, number: u64) {
        let Some(ward) = self.wards.remove(&number) else { return };
        let (status, usage) = match pidfd::collect_with_usage(&ward.pidfd) {
            Ok(Some((end, used))) => {
                let usage = Usage { processor: Duration::from_nanos(used.processor), peak_memory: used.peak };
                (Status::from(Some(end)), usage)
            }
            _ => (Status::Unknown, Usage::default()),
        };
        fault!("zygote.collected");
        let mut why = ward.watch.why(status, usage.processor);
        if why == Why::Unknown && matches!(status, Status::Signaled { signal: signal::KILL, .. }) {
            why = self.look_for_kills();
        }
        let ended = Report::Ended { status, why, usage }.to_bytes();
        let _ = packet::send(&ward.report, &[IoSlice::new(&ended)], &[]);
        let _ = epoll::remove(&self.set, &ward.pidfd);
        self.forget_if_idle(ward.requester);
    }

    /// Somebody has killed a child. It may have been the kernel, for want of memory: then its count has grown.
    fn look_for_kills(&mut self) -> Why {
        let kills = memory::kills().unwrap_or(0);
        match kills.saturating_sub(std::mem::replace(&mut self.kills, kills)) {
            0 => Why::Unknown,
            more => Why::OutOfMemory(more),
        }
    }

    fn forget_if_idle(&mut self, requester: u64) {
        if requester != PROGRAM
            && !self.wards.values().any(|ward| ward.requester == requester)
            && let Some(requester) = self.requesters.remove(&requester)
        {
            let _ = epoll::remove(&self.set, &requester.pidfd);
        }
    }

    /// Notes that one who asked for children is gone.
    fn orphan(&mut self, number: u64) {
        if let Some(requester) = self.requesters.get_mut(&number) {
            let _ = epoll::remove(&self.set, &requester.pidfd);
            requester.gone.get_or_insert((clock::now(), 0));
        }
        self.forget_if_idle(number);
    }

    /// The program ends by itself: its processes are asked to end at once.
    fn finish(&mut self, pid: i32) {
        let step = clock::now().saturating_sub(STEPS[0].0);
        if let Some(program) = self.requesters.get_mut(&PROGRAM)
            && program.pid == pid
            && !self.keep
        {
            program.gone.get_or_insert((step, 0));
        }
    }

    fn next_step(&self) -> Deadline {
        let next = |requester: &Requester| {
            let (since, taken) = requester.gone?;
            STEPS.get(taken).map(|(after, _)| since + after)
        };
        let orphans = self.requesters.values().filter_map(next).min().filter(|_| !self.keep);
        let limits = self.wards.values().map(|ward| ward.watch.next()).min();
        match orphans.unwrap_or(u64::MAX).min(limits.unwrap_or(u64::MAX)) {
            u64::MAX => Deadline::Never,
            at => Deadline::At(at),
        }
    }

    /// Ends those that have taken more than they may.
    fn enforce(&mut self) {
        let now = clock::now();
        for ward in self.wards.values_mut() {
            if ward.watch.next() <= now && ward.watch.exceeds(ward.pid, now) {
                let _ = pidfd::send_signal(&ward.pidfd, signal::KILL);
            }
        }
    }

    /// Does what is due to the children of those who are gone.
    fn step(&mut self) {
        self.enforce();
        if self.keep {
            return;
        }
        let now = clock::now();
        for (&number, requester) in &mut self.requesters {
            let Some((since, taken)) = &mut requester.gone else { continue };
            while let Some(&(after, signal)) = STEPS.get(*taken)
                && now >= *since + after
            {
                *taken += 1;
                for ward in self.wards.values().filter(|ward| ward.requester == number) {
                    log::debug!("polyproc: process {} has outlived process {}", ward.pid, requester.pid);
                    let _ = pidfd::send_signal(&ward.pidfd, signal);
                }
            }
        }
    }
}

fn refuse(report: &OwnedFd, error: &Error) -> Option<Newborn> {
    let number = error.raw_os_error().unwrap_or(0);
    let _ = packet::send(report, &[IoSlice::new(&Report::Failed { number }.to_bytes())], &[]);
    None
}

impl Newborn {
    /// Takes its place in the session, and runs the entry.
    fn live(self, entry: Entry, mask: Mask) -> ! {
        fault!("newborn.forked");
        if !self.keep && !signal::die_with(self.zygote) {
            spawn::exit_now(1);
        }
        self.limit.restore();
        proc::set_name(&self.called.name);
        // SAFETY: the descriptors came for this process and are its own.
        let attached = unsafe { shm::attach(self.memory.into_raw_fd(), self.life.into_raw_fd(), self.participant) };
        fault!("newborn.attached");
        let limited = || self.limits.processor.map_or(Ok(()), limit::processor);
        if let Err(error) = attached.and_then(|()| proc::enter(&self.directory)).and_then(|()| limited()) {
            log::error!("polyproc: process '{}' cannot begin: {error}", self.called.name);
            spawn::exit_now(1);
        }
        drop(self.directory);
        mask.restore();
        spawn::end(entry(self.called))
    }
}

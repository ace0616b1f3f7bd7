//! The zygote: a process with one thread for life, forked (or started) from a clean image, that forks every child.
//!
//! ```text
//!   program                          zygote                                child
//!   ┌──────────┐  control (packets)  ┌───────────────────────────┐  fork   ┌─────────────────────────────┐
//!   │ spawn ───┼── request + fds ───▶│ one thread, no session,   ├────────▶│ attaches to the session,    │
//!   │          │                     │ all signals blocked       │         │ runs the task               │
//!   │ Worker ◀─┼─── report ──────────┤ Born{pid}+pidfd … Ended   │         │ may ask the zygote as well  │
//!   └──────────┘  (a socket each)    └───────────────────────────┘         └─────────────────────────────┘
//! ```
//!
//! A fork copies only the thread that calls it; a lock that another thread held at that moment (the allocator's, a
//! logger's, a C library's) is held for ever in the child. The zygote never has another thread, so its forks are safe
//! whatever the program does, and they need no exec and no dynamic linking.
//!
//! There are two ways to have one. [`start`] forks it off a program that has only one thread yet and no session: then a
//! function of the program *and of its libraries* is at the same address in every child. Where nobody called that,
//! [`Request::spawn`] executes `/proc/self/exe` once more, and a hook that the face has put before `main` calls
//! [`serve_if_called`]: then functions of the program itself can be found, by their distance from its base.
//!
//! **Invariant:** the zygote takes no part in the session: it has no slot, no mapping, holds nothing and keeps nothing
//! alive. What a child is to hold is given to the child's name by whoever asks, before it asks ([`Estate`]).
//!
//! **When somebody dies.** A child: the zygote collects it and reports how it ended to whoever asked for it. Whoever asked:
//! the zygote asks its children to end after 1 s and ends them after 1.8 s, unless `POLYPROC_ORPHANS=keep`. The program: the
//! same, and then the zygote ends. The zygote: its children are killed by the kernel with it (it has one thread, so
//! PR_SET_PDEATHSIG means what it says here), the program sees its reports end, and the next spawn starts another zygote.

mod message;
mod server;
mod watch;
mod worker;

pub use worker::{Told, Worker};

use super::birth::{self, Estate};
use super::child::Child;
use super::lifeline;
use super::report::{Limits, Status};
use super::supervisor;
use crate::shm::Participant;
use crate::sys::clock::Deadline;
use crate::sys::poll::{self, Polled};
use crate::sys::{image, packet, pidfd, proc, signal, spawn as system};
use crate::{Error, Result, fault, shm};
use message::{BIRTH, FINISH, Head, Report};
use std::ffi::OsStr;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use worker::{End, SOON};

/// In the environment of a program that is to be a zygote: the number of the control socket.
const VARIABLE: &str = "POLYPROC_ZYGOTE";

/// How long a program that was started once more may take until it is a zygote.
const START: Duration = Duration::from_secs(20);

/// The largest task, with its name, that [`Request::spawn`] takes.
pub const TASK_MAX: usize = packet::LARGEST - 64;
/// The most descriptors that a task may bring.
pub const DESCRIPTORS_MAX: usize = packet::MOST_DESCRIPTORS - 8;

/// What runs in every child. Its result is the exit code.
pub type Entry = fn(Called) -> i32;

/// What a child is given.
#[derive(Debug)]
pub struct Called {
    /// What its parent calls it.
    pub name: String,
    /// The task, as the face wrote it.
    pub task: Vec<u8>,
    /// The descriptors that came with the task.
    pub descriptors: Vec<OwnedFd>,
}

/// How the zygote came into being, and so which functions its children can find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Forked: everything is where it is here.
    Forked,
    /// Executed: the program is the same, at another address; libraries that were loaded later are not there.
    Executed,
}

struct Connection {
    control: Arc<OwnedFd>,
    way: Way,
    /// The zygote, where it is a child of this very process.
    own: Option<(i32, OwnedFd)>,
}

impl Connection {
    fn new(control: OwnedFd, way: Way) -> Connection {
        Connection { control: Arc::new(control), way, own: None }
    }

    fn owning(mut self, pid: i32) -> Result<Connection> {
        self.own = Some((proc::pid(), pidfd::open(pid)?));
        Ok(self)
    }
}

static CONNECTION: Mutex<Option<Connection>> = Mutex::new(None);

fn connection() -> MutexGuard<'static, Option<Connection>> {
    CONNECTION.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The code that is mapped into this process, as it was at the first call (in a zygote's child: in the zygote).
pub fn images() -> &'static [image::Image] {
    static IMAGES: OnceLock<Vec<image::Image>> = OnceLock::new();
    IMAGES.get_or_init(image::all)
}

/// Forks the zygote: to be called first thing in `main`. True if there is one now; false if it is too late, because the
/// program has another thread or a session already: then [`Request::spawn`] starts one by exec.
///
/// # Errors
/// [`Error::Os`] where there is no process or descriptor to be had.
pub fn start(entry: Entry) -> Result<bool> {
    let mut known = connection();
    if known.is_some() {
        return Ok(true);
    }
    if shm::exists() || proc::threads() != Some(1) {
        return Ok(false);
    }
    images();
    let (ours, theirs) = packet::pair()?;
    let program = lifeline::own()?;
    let mask = signal::block_all();
    // SAFETY: this process has one thread.
    match unsafe { system::fork() } {
        Ok(0) => {
            // The children of the zygote find this, and can ask it themselves.
            *known = Some(Connection::new(ours, Way::Forked));
            drop(known);
            // SAFETY: the descriptor was copied by the fork and nobody closes it here.
            let program = unsafe { BorrowedFd::borrow_raw(program) }.try_clone_to_owned();
            match program {
                Ok(program) => server::serve(theirs, program, server::parent(), entry, mask),
                Err(_) => system::exit_now(1),
            }
        }
        Ok(pid) => {
            mask.restore();
            *known = Some(Connection::new(ours, Way::Forked).owning(pid)?);
            Ok(true)
        }
        Err(error) => {
            mask.restore();
            Err(error)
        }
    }
}

/// To be called before `main` by whoever wants [`Request::spawn`] to work without [`start`]: in a program that was started to be a
/// zygote it becomes one and does not return; in any other it does nothing.
pub fn serve_if_called(entry: Entry) {
    let Some(number) = std::env::var_os(VARIABLE) else { return };
    // SAFETY: this runs before main, in the only thread.
    unsafe { std::env::remove_var(VARIABLE) };
    let Some(control) = number.to_str().and_then(packet::adopt) else { return };
    signal::ignore_broken_pipes();
    let mask = signal::block_all();
    let mut bytes = [0u8; 16];
    let Ok((length, descriptors)) = packet::receive(&control, &mut bytes) else { system::exit_now(1) };
    let mut descriptors = descriptors.into_iter();
    let (Some(ours), Some(program), true) = (descriptors.next(), descriptors.next(), length == 4) else {
        system::exit_now(1)
    };
    let pid = i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let Ok(()) = packet::send(&control, &[IoSlice::new(&identity())], &[]) else { system::exit_now(1) };
    *connection() = Some(Connection::new(ours, Way::Executed));
    server::serve(control, program, pid, entry, mask)
}

/// What tells this build of the program from any other.
fn identity() -> Vec<u8> {
    let Some(program) = images().first() else { return vec![0] };
    if !program.build_id.is_empty() {
        return program.build_id.clone();
    }
    // A linker that gives no build id: how much code there is, and where.
    program
        .code
        .iter()
        .flat_map(|range| [range.start - program.base, range.len()])
        .flat_map(usize::to_ne_bytes)
        .chain([0])
        .collect()
}

/// Starts the program once more, as a zygote.
fn execute() -> Result<Connection> {
    let failed = |detail| Error::Damaged { what: "start of the zygote", detail };
    let (ours, theirs) = packet::pair()?;
    let number = theirs.as_raw_fd().to_string();
    let pid = system::again(&[(OsStr::new(VARIABLE), OsStr::new(&number))], &[theirs.as_fd()])?;
    drop(theirs);
    // SAFETY: it stays open for as long as this process lives.
    let program = unsafe { BorrowedFd::borrow_raw(lifeline::own()?) };
    packet::send(&ours, &[IoSlice::new(&proc::pid().to_ne_bytes())], &[ours.as_fd(), program])?;
    let mut polled = [Polled::new(ours.as_raw_fd())];
    let deadline = Deadline::after(Some(START));
    loop {
        match poll::wait(&mut polled, deadline) {
            Ok(0) if deadline.passed() => return Err(failed("the program was started once more, and did not answer")),
            Ok(0) | Err(Error::Interrupted) => {}
            Ok(_) => break,
            Err(error) => return Err(error),
        }
    }
    let mut bytes = [0u8; 4096];
    match packet::receive(&ours, &mut bytes) {
        Ok((length, _)) if bytes[..length] == identity() => Connection::new(ours, Way::Executed).owning(pid),
        Ok(_) => Err(failed("the program that was started is another build than this one")),
        Err(_) => Err(failed("the program was started once more, and ended")),
    }
}

/// The way in which children come into being; starts a zygote if there is none.
///
/// # Errors
/// What starting this program once more can fail with.
pub fn way() -> Result<Way> {
    Ok(connected()?.1)
}

fn connected() -> Result<(Arc<OwnedFd>, Way)> {
    let mut known = connection();
    let connection = match &mut *known {
        Some(connection) => connection,
        none => none.insert(execute()?),
    };
    Ok((Arc::clone(&connection.control), connection.way))
}

/// Forgets a zygote that does not answer any more, and collects it.
fn forget(control: &Arc<OwnedFd>) {
    let mut known = connection();
    if let Some(connection) = known.take_if(|connection| Arc::ptr_eq(&connection.control, control))
        && let Some((parent, zygote)) = connection.own
        && parent == proc::pid()
    {
        let _ = pidfd::send_signal(&zygote, signal::KILL);
        let mut polled = [Polled::new(zygote.as_raw_fd())];
        let _ = poll::wait(&mut polled, Deadline::after(Some(Duration::from_secs(1))));
        let _ = pidfd::collect(&zygote);
    }
}

/// Asks the zygote's children to end, at the end of the program; it does not wait for them.
pub fn finish() {
    if let Some(connection) = &*connection() {
        let head = Head { kind: FINISH, participant: 0, requester: proc::pid(), name: 0, limits: Limits::default() };
        let _ = packet::send(&*connection.control, &[IoSlice::new(&head.to_bytes())], &[]);
    }
}

/// A child that is to be: its name in the session is known, so that it can be given what it is to hold.
#[derive(Debug)]
pub struct Request {
    estate: Estate,
    limits: Limits,
}

/// Prepares a child of this process.
///
/// # Errors
/// [`Error::TooMany`] processes; [`Error::Os`].
pub fn prepare() -> Result<Request> {
    Ok(Request { estate: birth::prepare()?, limits: Limits::default() })
}

impl Request {
    /// The child's name in the session.
    pub fn participant(&self) -> Participant {
        self.estate.participant()
    }

    /// The same, for a child that is ended when it takes more than this.
    pub fn limited(mut self, limits: Limits) -> Request {
        self.limits = limits;
        self
    }

    /// Has the child made. The entry that the zygote was started with runs there, with `task` and `descriptors`.
    ///
    /// # Errors
    /// [`Error::TooLarge`] beyond [`TASK_MAX`]; [`Error::Os`] if the system has no room for another process.
    pub fn spawn(self, name: &str, task: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<Worker> {
        self.spawn_and_tell(name, task, descriptors, None)
    }

    /// As [`Request::spawn`]; `told` runs, in the supervisor's thread, once the child has ended and what it held was swept.
    ///
    /// # Errors
    /// As [`Request::spawn`].
    pub fn spawn_and_tell(
        self,
        name: &str,
        task: &[u8],
        descriptors: &[BorrowedFd<'_>],
        told: Option<Told>,
    ) -> Result<Worker> {
        let outcome = self.ask(name, task, descriptors, told);
        if outcome.is_err() {
            // What the child was to hold is let go of.
            let participant = self.participant();
            drop(self);
            shm::sweep(participant);
        }
        outcome
    }

    fn ask(&self, name: &str, task: &[u8], descriptors: &[BorrowedFd<'_>], mut told: Option<Told>) -> Result<Worker> {
        let mut tried = false;
        loop {
            let (control, _) = connected()?;
            match self.ask_on(&control, name, task, descriptors, &mut told) {
                Err(Error::BrokenPipe | Error::EndOfFile) if !tried => {
                    log::warn!("polyproc: the zygote is gone; starting another");
                    forget(&control);
                    tried = true;
                }
                Err(Error::BrokenPipe | Error::EndOfFile) => {
                    return Err(Error::Damaged { what: "zygote", detail: "it ends whenever a process is asked for" });
                }
                outcome => return outcome,
            }
        }
    }

    fn ask_on(
        &self,
        control: &OwnedFd,
        name: &str,
        task: &[u8],
        descriptors: &[BorrowedFd<'_>],
        told: &mut Option<Told>,
    ) -> Result<Worker> {
        let (report, theirs) = packet::pair()?;
        let head = Head {
            kind: BIRTH,
            participant: self.participant().bits(),
            requester: proc::pid(),
            name: name.len() as u32,
            limits: self.limits,
        };
        let directory = proc::directory()?;
        let [memory, life, requester] = self.estate.borrowed();
        let mut with = vec![theirs.as_fd(), memory, life, requester, directory.as_fd()];
        with.extend_from_slice(descriptors);
        let head = head.to_bytes();
        packet::send(control, &[IoSlice::new(&head), IoSlice::new(name.as_bytes()), IoSlice::new(task)], &with)?;
        fault!("request.sent");
        drop(theirs);
        let mut bytes = [0; Report::SIZE];
        let (length, mut came) = loop {
            match packet::receive(&report, &mut bytes) {
                Err(Error::Interrupted) => {}
                outcome => break outcome?,
            }
        };
        let damaged = || Error::Damaged { what: "zygote", detail: "its answer makes no sense" };
        match (Report::of(&bytes[..length]), came.pop()) {
            (Some(Report::Born { pid }), Some(pidfd)) => {
                fault!("request.answered");
                let end = Arc::new(End::new(report, self.limits));
                let told = told.take().map(|told| {
                    let end = Arc::clone(&end);
                    // The zygote collects it at this very moment.
                    let soon = move |child: &Child| {
                        let ending = end.wait(child, Deadline::after(Some(SOON)));
                        told(ending.map_or(Status::Unknown, |ending| ending.status));
                    };
                    Box::new(soon) as supervisor::Told
                });
                let child = Child::adopt_descriptor_and_tell(pid, pidfd, name, self.participant(), told)?;
                Ok(Worker { child, end })
            }
            (Some(Report::Failed { number }), _) => {
                Err(Error::Os { call: "fork in the zygote", source: std::io::Error::from_raw_os_error(number) })
            }
            _ => Err(damaged()),
        }
    }
}

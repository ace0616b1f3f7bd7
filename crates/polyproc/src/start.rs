//! The beginning: of a program that uses processes, and of each process.

use crate::logging;
use crate::task::{Arrival, Place, Run};
use crate::wire::{self, Arrived, Luggage};
use polyproc_engine::channel::{Envelope, Parcel, Queue, keeper};
use polyproc_engine::process::Child;
use polyproc_engine::process::zygote::{self, Called};
use polyproc_engine::sys::{limit, proc};
use polyproc_engine::{Deadline, Handle, shm};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::cell::Cell;
use std::ffi::OsString;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// The kinds of message between a process and the one that asked for it.
pub(crate) mod kind {
    /// The arguments, where they are too long for the request.
    pub(crate) const ARGUMENTS: u8 = 1;
    /// What the task returned.
    pub(crate) const RESULT: u8 = 2;
    /// `(message, location)` of its panic.
    pub(crate) const PANIC: u8 = 3;
    /// Why arguments or result could not be encoded or decoded.
    pub(crate) const REFUSED: u8 = 4;
    /// A line that was logged.
    pub(crate) const LINE: u8 = 5;
}

/// The exit code of a process whose task panicked: what Rust gives a program that panics.
const PANICKED: i32 = 101;

/// How long a process whose task is done waits for those who are to have the descriptors that it has sent.
const LONGEST_LINGER: Duration = Duration::from_secs(1);

/// What a new process reads first. The arguments follow, unless they come as a message.
#[derive(Serialize, Deserialize)]
pub(crate) struct Call {
    pub place: Place,
    /// The queue for the result.
    pub results: [u8; 16],
    pub arguments_follow: bool,
    pub surroundings: Surroundings,
    pub logging: Option<logging::Plan>,
}

/// What is to be different in the process from how the zygote had it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Surroundings {
    /// Variables of the environment: set, or, without a value, removed.
    pub environment: Vec<(OsString, Option<OsString>)>,
    /// Instead of the working directory of whoever asks.
    pub directory: Option<PathBuf>,
    /// In a process group of its own.
    pub group: bool,
    /// The processors on which it may run.
    pub affinity: Option<Vec<usize>>,
}

impl Surroundings {
    /// Sets this process up.
    fn apply(&self) -> std::io::Result<()> {
        for (name, value) in &self.environment {
            // SAFETY: this process has one thread yet.
            unsafe {
                match value {
                    Some(value) => std::env::set_var(name, value),
                    None => std::env::remove_var(name),
                }
            }
        }
        if let Some(directory) = &self.directory {
            std::env::set_current_dir(directory)?;
        }
        if self.group {
            proc::lead_group()?;
        }
        if let Some(processors) = &self.affinity {
            limit::affinity(processors).map_err(std::io::Error::other)?;
        }
        Ok(())
    }
}

/// Forks the zygote, from which all processes are then forked: to be called first thing in `main`, before there is another
/// thread. [`#[polyproc::main]`](crate::main) does it.
///
/// Without it the first [`Process::spawn`](crate::Process::spawn) starts the program's file once more, as the zygote; that
/// takes some milliseconds, once. It is also what happens if this is called too late.
///
/// # Errors
/// [`Error::Engine`](crate::Error::Engine) if the system has no room for another process.
///
/// # Examples
/// ```
/// fn main() -> polyproc::Result<()> {
///     polyproc::start()?;
///     let child = polyproc::Process::spawn(|| 6 * 7, ())?;
///     assert_eq!(child.join().unwrap(), 42);
///     Ok(())
/// }
/// ```
pub fn start() -> crate::Result<()> {
    if !zygote::start(begin)? {
        log::debug!("polyproc: too late to fork the zygote: the program will be started once more for it");
    }
    Ok(())
}

/// What `#[polyproc::main]` makes of `main`.
#[doc(hidden)]
pub fn run_main<R>(body: impl FnOnce() -> R) -> R {
    if let Err(error) = start() {
        log::warn!("polyproc: no zygote yet: {error}");
    }
    /// Also at a panic.
    struct Finish;
    impl Drop for Finish {
        fn drop(&mut self) {
            wait_for_awaited();
            zygote::finish();
            logging::flush();
        }
    }
    let _finish = Finish;
    body()
}

/// Processes that are no daemons: this one does not end before them.
static AWAITED: Mutex<Vec<Arc<Child>>> = Mutex::new(Vec::new());

pub(crate) fn await_at_end(child: &Arc<Child>) {
    let mut awaited = AWAITED.lock().unwrap_or_else(PoisonError::into_inner);
    awaited.retain(|child| !child.has_ended());
    awaited.push(Arc::clone(child));
}

fn wait_for_awaited() {
    let awaited = std::mem::take(&mut *AWAITED.lock().unwrap_or_else(PoisonError::into_inner));
    for child in awaited {
        // It can fail only where there is nothing to wait for.
        let _ = wire::again(|| child.wait(Deadline::Never));
    }
}

/// Runs before `main` in every program that uses this crate, so that a program which was started to be a zygote becomes one,
/// and its `main`, or the harness of a test binary, never runs.
extern "C" fn before_main() {
    zygote::serve_if_called(begin);
}

// SAFETY: the section holds addresses of functions that the C library calls, each once, before main. Ours does nothing but
// read the environment unless this process was started by `zygote::way`.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

/// Names the hook, so that the linker keeps it wherever a process is spawned.
pub(crate) fn keep_hook() {
    std::hint::black_box(&BEFORE_MAIN);
}

/// The queue for the result of this process.
static RESULTS: OnceLock<Queue> = OnceLock::new();

thread_local! {
    /// True in the thread that runs the task.
    static IS_TASK: Cell<bool> = const { Cell::new(false) };
    static PANIC_AT: Cell<Option<String>> = const { Cell::new(None) };
}

/// Every process begins here. Gives its exit code.
fn begin(called: Called) -> i32 {
    let outcome = begin_checked(called);
    wait_for_awaited();
    if !keeper::linger(LONGEST_LINGER) {
        log::warn!(
            "polyproc: this process ends although descriptors that it has sent were not received: they are lost"
        );
    }
    match outcome {
        Ok(code) => {
            shm::leave();
            code
        }
        Err(error) => {
            log::error!("polyproc: this process was called in a way that makes no sense: {error}");
            1
        }
    }
}

fn begin_checked(called: Called) -> crate::Result<i32> {
    let damaged = |detail| polyproc_engine::Error::Damaged { what: "start of a process", detail };
    let Ok((call, rest)) = postcard::take_from_bytes::<Call>(&called.task) else {
        return Err(damaged("its request does not parse").into());
    };
    let results = Handle::from_bytes(&call.results).and_then(Queue::from_handle)?;
    let results = RESULTS.get_or_init(|| results);
    logging::begin(call.logging, &called.name, results)?;
    IS_TASK.set(true);
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if IS_TASK.get() {
            let location = info.location().map(ToString::to_string);
            if cfg!(panic = "abort") {
                tell_panic(&message(info.payload()), location);
            } else {
                PANIC_AT.set(location);
            }
        }
        usual(info);
    }));
    if let Err(error) = call.surroundings.apply() {
        refused(results, &format!("the process could not be set up: {error}"))?;
        return Ok(1);
    }
    let (long, mut blocks) = (&mut Vec::new(), Vec::new());
    let arguments = if call.arguments_follow {
        rest
    } else {
        let mut envelope = Envelope::new();
        results.get(&mut envelope, Deadline::Now)?;
        *long = envelope.copy();
        blocks = std::mem::take(&mut envelope.buffers);
        long
    };
    let Some(code) = code_at(call.place) else {
        return Err(damaged("its function is not there").into());
    };
    let told = match run(code, arguments, Arrived::new(called.descriptors, blocks.drain(..))) {
        Ran::Returned(_, luggage) if !luggage.descriptors.is_empty() => {
            let why = "a descriptor, or the end of a pipe, cannot be the result of a process, which is gone when it is read: \
                       send it through a pipe that is passed as an argument";
            refused(results, why)
        }
        Ran::Returned(bytes, mut luggage) => {
            let handles = luggage.handles();
            wire::parcel(kind::RESULT, &bytes, &mut luggage, &handles)
                .and_then(|mut parcel| wire::again(|| results.put(&mut parcel, Deadline::Never)))
        }
        Ran::Panicked(message, location) => {
            tell_panic(&message, location);
            return Ok(PANICKED);
        }
        Ran::Refused(why) => refused(results, &why),
    };
    match told {
        Ok(()) => Ok(0),
        Err(error) => {
            refused(results, &format!("the result could not be sent: {error}")).map(|()| 0).map_err(Into::into)
        }
    }
}

/// The code at a place, in a process of the zygote's.
pub(crate) fn code_at(place: Place) -> Option<Run> {
    // SAFETY: the zygote that forked this process is of the same build as the program: it was forked from it, or the build was
    // compared when it was started.
    unsafe { place.code() }
}

/// What came of running a task's code.
pub(crate) enum Ran {
    /// Its result, encoded.
    Returned(Vec<u8>, Luggage),
    /// What it said, and where.
    Panicked(String, Option<String>),
    /// Why its arguments could not be decoded, or its result could not be encoded.
    Refused(String),
}

/// Runs a task's code in this process.
pub(crate) fn run(code: Run, arguments: &[u8], arrived: Arrived) -> Ran {
    match panic::catch_unwind(AssertUnwindSafe(|| code(arguments, Arrival(arrived)))) {
        Ok(Ok((bytes, luggage))) => Ran::Returned(bytes, luggage.0),
        Ok(Err(error)) => Ran::Refused(error.to_string()),
        Err(payload) => Ran::Panicked(message(&*payload), PANIC_AT.take()),
    }
}

fn refused(results: &Queue, why: &str) -> polyproc_engine::Result<()> {
    let mut parcel = Parcel::new(kind::REFUSED, why.as_bytes())?;
    wire::again(|| results.put(&mut parcel, Deadline::Never))
}

fn tell_panic(message: &str, location: Option<String>) {
    let told = wire::encode(&(message, location), Vec::new()).map(|(bytes, _)| bytes);
    if let (Some(results), Ok(bytes)) = (RESULTS.get(), told)
        && let Ok(mut parcel) = Parcel::new(kind::PANIC, &bytes)
    {
        let _ = wire::again(|| results.put(&mut parcel, Deadline::Never));
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a value that is no text".to_owned()
    }
}

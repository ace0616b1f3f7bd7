//! Death at a birth: the zygote, its child, or the program that asks dies at each kill point between them, and the others go
//! on, or end.
//!
//! Each trial is a program of its own, this one started once more: the zygote must be forked before there is a session. It
//! inherits what is armed, and so do its children. Each of these points is passed by one of the three only.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use polyproc_engine::fault::{self, POINTS};
use polyproc_engine::process::zygote::{self, Called, Way};
use polyproc_engine::process::{Cause, Ending, Status};
use polyproc_engine::{Deadline, shm};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const WELL: i32 = 7;

fn entry(_: Called) -> i32 {
    WELL
}

fn soon() -> Deadline {
    Deadline::after(Some(Duration::from_secs(5)))
}

/// One child, from its request to its end.
fn one() -> Ending {
    let worker = zygote::prepare().unwrap().spawn("child", b"", &[]).unwrap();
    worker.wait(soon()).unwrap()
}

/// The program: with a point armed it asks for four children. True if somebody has died of it.
fn program(point: &'static str, pass: u32) -> bool {
    fault::arm(point, pass);
    assert!(zygote::start(entry).unwrap());
    let endings: Vec<Ending> = (0..4).map(|_| one()).collect();
    let well = endings.iter().filter(|ending| ending.status == Status::Exited(WELL)).count();
    let killed = Status::Signaled { signal: 9, core: false };
    let at = pass as usize - 1;
    let died = match point {
        // The request is made again, of another zygote: nobody notices.
        "zygote.asked" | "zygote.forked" => {
            assert_eq!(well, 4, "{endings:?}");
            zygote::way().unwrap() == Way::Executed
        }
        // The child ends with the zygote, or was faster; if the system tells, it is known how.
        "zygote.told" => {
            assert!(well >= 3, "{endings:?}");
            let told = [Status::Exited(WELL), killed, Status::Unknown];
            assert!(told.contains(&endings[at].status), "{endings:?}");
            assert!(endings[at].status != killed || endings[at].cause == Some(Cause::ZygoteGone), "{endings:?}");
            zygote::way().unwrap() == Way::Executed
        }
        "zygote.collected" => {
            assert!(well == 4 || (well == 3 && endings[at].status == Status::Unknown), "{endings:?}");
            zygote::way().unwrap() == Way::Executed
        }
        // Each child counts for itself.
        _ => {
            assert!(endings.iter().all(|ending| ending.status == killed && ending.cause.is_none()), "{endings:?}");
            zygote::way().unwrap() == Way::Forked
        }
    };
    shm::sweep_dead();
    let census = shm::census();
    // A program that was forked and executed by us keeps the place of the fork until it ends.
    let zygotes = u32::from(zygote::way().unwrap() == Way::Executed);
    assert_eq!(census.participants, 1 + zygotes, "a dead child has kept its place: {census:?}");
    died
}

/// Waits until no process is left of those that the program has started: they are ours once it has ended.
fn none_left() -> bool {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let mut status = 0;
        // SAFETY: collects any child; nobody else here waits for one.
        match unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) } {
            -1 => return true,
            0 if Instant::now() > end => return false,
            0 => std::thread::yield_now(),
            _ => {}
        }
    }
}

fn trial(point: &'static str, pass: u32) -> Result<(), String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let mut child = command.args([point, &pass.to_string()]).process_group(0).spawn().unwrap();
    let group = child.id() as i32;
    let end = Instant::now() + Duration::from_secs(20);
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > end => {
                // SAFETY: the group of a child that was not collected yet.
                unsafe { libc::kill(-group, libc::SIGKILL) };
                child.wait().unwrap();
                none_left();
                return Err("the program hangs".to_owned());
            }
            None => std::thread::yield_now(),
        }
    };
    let program_dies = point.starts_with("request.");
    let as_wanted = if program_dies { status.signal() == Some(9) } else { status.success() };
    let left = !none_left();
    if left {
        // SAFETY: as above; somebody of the group still runs, so its number is not another's.
        unsafe { libc::kill(-group, libc::SIGKILL) };
        none_left();
    }
    match (as_wanted, left) {
        (true, false) => Ok(()),
        (false, _) => Err(format!("the program: {status}")),
        (true, true) => Err("a process has outlived the program".to_owned()),
    }
}

fn main() -> ExitCode {
    // The second zygote of a program whose first one has died.
    zygote::serve_if_called(entry);
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let [point, pass] = &arguments[..]
        && let Some(point) = POINTS.iter().find(|known| *known == point)
    {
        return if program(point, pass.parse().unwrap()) { ExitCode::SUCCESS } else { ExitCode::from(2) };
    }
    // SAFETY: the option takes a number.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    let mut failures = 0;
    let mut trials = 0;
    for point in POINTS.iter().filter(|point| polyproc_testkit::at_birth(point)) {
        if arguments.iter().any(|word| !point.contains(word.as_str())) {
            continue;
        }
        let passes: &[u32] = if point.starts_with("newborn.") { &[1] } else { &[1, 3] };
        for &pass in passes {
            trials += 1;
            if let Err(what) = trial(point, pass) {
                failures += 1;
                println!("FAILED {point} (pass {pass}): {what}");
            }
        }
    }
    println!("{trials} trials, {failures} failures");
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

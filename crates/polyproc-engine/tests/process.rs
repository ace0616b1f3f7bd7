//! What a parent learns of its children, and what children do when their parent is gone.

use polyproc_engine::process::{Child, Status, birth, supervisor};
use polyproc_engine::sys::{signal, spawn};
use polyproc_engine::{Deadline, Participant};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// The supervisor is one a process: tests that stop it take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that runs `f` and exits with its code.
fn child(name: &str, f: impl FnOnce() -> i32) -> Arc<Child> {
    // SAFETY: the child touches no lock that another thread of the test runner could hold.
    match unsafe { birth::fork() }.expect("fork") {
        None => spawn::exit_now(f()),
        Some(pid) => Child::adopt(pid, name, Participant::NOBODY).expect("adopt"),
    }
}

fn soon() -> Deadline {
    Deadline::after(Some(Duration::from_secs(10)))
}

fn for_ever() -> i32 {
    loop {
        std::thread::park();
    }
}

#[test]
fn an_exit_code_is_reported_and_collected() {
    let _turn = turn();
    let child = child("seven", || 7);
    child.wait(soon()).expect("it ends");
    let report = child.collect().expect("collect").expect("it has ended");
    assert_eq!(report.status, Status::Exited(7));
    assert_eq!(report.to_string(), format!("process 'seven' (pid {}) exited with code 7", child.pid()));
    assert_eq!(child.collect().expect("again").expect("still known").status, Status::Exited(7));
}

#[test]
fn a_killed_child_is_named_with_its_signal() {
    let _turn = turn();
    let child = child("victim", for_ever);
    assert!(!child.has_ended());
    assert!(child.collect().expect("collect").is_none());
    child.send_signal(signal::KILL).expect("kill");
    child.wait(soon()).expect("it ends");
    let report = child.collect().expect("collect").expect("it has ended");
    assert_eq!(report.status, Status::Signaled { signal: signal::KILL, core: false });
    assert!(report.to_string().ends_with("was killed by SIGKILL"), "{report}");
}

#[test]
fn whoever_asked_is_told_of_the_end_and_the_status_is_left_to_the_program() {
    let _turn = turn();
    let (tell, told) = mpsc::channel();
    let child = child("told", || 3);
    let to_be_told: supervisor::Told = Box::new(move |child| {
        let _ = tell.send(child.report());
    });
    supervisor::tell(&child, to_be_told);
    let report = told.recv_timeout(Duration::from_secs(10)).expect("told").expect("reported");
    assert_eq!(report.status, Status::Exited(3));
    assert_eq!(child.collect().expect("not collected before").map(|r| r.status), Some(Status::Exited(3)));
}

#[test]
fn a_paused_supervisor_is_no_thread_and_misses_nothing() {
    let _turn = turn();
    let (mut ours, theirs) = UnixStream::pair().expect("pair");
    let child = child("late", move || {
        let mut theirs = theirs;
        let _ = theirs.read(&mut [0]);
        5
    });
    assert!(supervisor::is_running());
    supervisor::pause();
    assert!(!supervisor::is_running());
    ours.write_all(b"!").expect("write");
    child.wait(soon()).expect("it ends");
    assert!(child.report().is_none(), "nobody was there to see it");
    supervisor::resume().expect("resume");
    let end = Instant::now() + Duration::from_secs(10);
    while child.report().is_none() && Instant::now() < end {
        std::thread::yield_now();
    }
    assert_eq!(child.report().map(|r| r.status), Some(Status::Exited(5)));
    let _ = child.collect();
}

#[test]
fn a_forked_child_has_no_supervisor_and_can_have_its_own() {
    let _turn = turn();
    let outer = child("outer", || {
        let inner = child("inner", || 11);
        if inner.wait(soon()).is_err() {
            return 1;
        }
        inner.collect().ok().flatten().and_then(|r| r.status.code()).unwrap_or(2)
    });
    outer.wait(soon()).expect("it ends");
    assert_eq!(outer.collect().expect("collect").map(|r| r.status), Some(Status::Exited(11)));
}

#[test]
fn grandchildren_end_soon_after_their_parent_was_killed() {
    let _turn = turn();
    let (mut ours, theirs) = UnixStream::pair().expect("pair");
    let mut in_child = theirs.try_clone().expect("clone");
    let parent = child("parent", move || {
        let _grandchild = child("grandchild", for_ever);
        let _ = in_child.write_all(b"up");
        for_ever()
    });
    drop(theirs);
    ours.read_exact(&mut [0; 2]).expect("they are up");
    parent.send_signal(signal::KILL).expect("kill");
    parent.wait(soon()).expect("it ends");
    let _ = parent.collect();
    let began = Instant::now();
    ours.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
    // Both have a copy of the other end: end of file means that both are gone.
    assert_eq!(ours.read(&mut [0]).expect("the end"), 0);
    assert!(began.elapsed() < Duration::from_secs(3), "it took {:?}", began.elapsed());
}

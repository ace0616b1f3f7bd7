//! The engine between real processes: parents, forked children, and what is left when they end.
#![allow(clippy::unwrap_used, reason = "tests")]

use polyproc_engine::channel::{Envelope, Parcel, Queue, pipe};
use polyproc_engine::shm::{self, Lease};
use polyproc_engine::sync::{Acquired, Barrier, Condition, Event, Lock, Semaphore};
use polyproc_engine::{Deadline, Error};
use std::time::Duration;

/// Runs `body` in a forked child, which ends with 0 if it returned.
fn fork(body: impl FnOnce()) -> i32 {
    shm::current().unwrap();
    // SAFETY: the test binary's other threads hold no lock that the bodies need.
    match unsafe { libc::fork() } {
        0 => {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            // SAFETY: ends this process only.
            unsafe { libc::_exit(i32::from(outcome.is_err())) }
        }
        pid => pid,
    }
}

/// Waits for a child and gives its wait status.
fn wait(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: a child of ours, waited for once.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    status
}

fn kill(pid: i32) -> i32 {
    // SAFETY: a child of ours that was not waited for.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    wait(pid)
}

fn soon() -> Deadline {
    Deadline::after(Some(Duration::from_secs(5)))
}

fn get(queue: &Queue) -> Vec<u8> {
    let mut envelope = Envelope::new();
    queue.get(&mut envelope, soon()).unwrap();
    // SAFETY: the envelope's body is valid for its length.
    unsafe { std::slice::from_raw_parts(envelope.as_ptr(), envelope.len()) }.to_vec()
}

#[test]
fn items_arrive_in_order_from_another_process() {
    let queue = Queue::new(0).unwrap();
    let child = fork(|| {
        for i in 0..100_000u32 {
            queue.put(&mut Parcel::new(0, &i.to_le_bytes()).unwrap(), Deadline::Never).unwrap();
        }
    });
    for i in 0..100_000u32 {
        assert_eq!(get(&queue), i.to_le_bytes());
    }
    assert_eq!(wait(child), 0);
    assert!(queue.is_empty());
}

#[test]
fn items_of_all_sizes_come_whole() {
    let queue = Queue::new(0).unwrap();
    let body = |i: usize| (0..i * i * 37 % 300_000).map(|b| (b * 7 + i) as u8).collect::<Vec<u8>>();
    let child = fork(|| {
        for i in 0..300 {
            queue.put(&mut Parcel::new(0, &body(i)).unwrap(), Deadline::Never).unwrap();
        }
    });
    assert_eq!(wait(child), 0);
    assert_eq!(queue.len(), 300);
    for i in 0..300 {
        assert_eq!(get(&queue), body(i), "item {i}");
    }
}

#[test]
fn a_bounded_queue_is_full_and_goes_on() {
    let queue = Queue::new(2).unwrap();
    let mut parcel = Parcel::new(0, b"x").unwrap();
    queue.put(&mut parcel, Deadline::Now).unwrap();
    queue.put(&mut parcel, Deadline::Now).unwrap();
    assert!(queue.is_full());
    assert!(matches!(queue.put(&mut parcel, Deadline::Now), Err(Error::TimedOut)));
    let child = fork(|| {
        get(&queue);
    });
    queue.put(&mut parcel, soon()).unwrap();
    assert_eq!(wait(child), 0);
    assert_eq!(queue.len(), 2);
}

#[test]
fn a_dead_holder_hands_its_lock_on() {
    let lock = Lock::new().unwrap();
    let ready = Event::new().unwrap();
    let child = fork(|| {
        lock.acquire(Deadline::Never).unwrap();
        ready.set();
        Event::new().unwrap().wait(Deadline::Never).unwrap();
    });
    ready.wait(soon()).unwrap();
    assert!(matches!(lock.acquire(Deadline::Now), Err(Error::TimedOut)));
    kill(child);
    assert_eq!(lock.acquire(soon()).unwrap(), Acquired::HolderDied { pid: child });
    lock.release().unwrap();
    assert!(lock.release().is_err());
}

#[test]
fn the_permits_of_a_killed_process_come_back() {
    let semaphore = Semaphore::new(2, None).unwrap();
    let ready = Event::new().unwrap();
    let child = fork(|| {
        semaphore.acquire(Deadline::Never).unwrap();
        semaphore.acquire(Deadline::Never).unwrap();
        ready.set();
        Event::new().unwrap().wait(Deadline::Never).unwrap();
    });
    ready.wait(soon()).unwrap();
    assert_eq!(semaphore.value(), 0);
    kill(child);
    shm::sweep_dead();
    assert_eq!(semaphore.value(), 2);
}

#[test]
fn a_dead_party_breaks_the_barrier() {
    let barrier = Barrier::new(2).unwrap();
    let child = fork(|| {
        barrier.enter(Deadline::Never).unwrap();
        barrier.wait(Deadline::Never).unwrap();
    });
    while barrier.waiting() == 0 {
        std::thread::yield_now();
    }
    kill(child);
    shm::sweep_dead();
    assert!(barrier.is_broken());
    barrier.reset();
    assert_eq!(barrier.enter(Deadline::Now).unwrap().index, 0);
}

#[test]
fn a_dead_waiter_is_struck_off_the_condition() {
    let (condition, lock) = (Condition::new().unwrap(), Lock::new().unwrap());
    let children: Vec<i32> = (0..2)
        .map(|_| {
            fork(|| {
                lock.acquire(Deadline::Never).unwrap();
                let ticket = condition.enqueue();
                lock.release().unwrap();
                assert!(condition.wait(&ticket, Deadline::Never).unwrap());
            })
        })
        .collect();
    while condition.waiters() < 2 {
        std::thread::yield_now();
    }
    kill(children[0]);
    shm::sweep_dead();
    assert_eq!(condition.waiters(), 1);
    assert_eq!(condition.notify(1), 1);
    assert_eq!(wait(children[1]), 0);
}

#[test]
fn a_pipe_goes_both_ways_and_tells_of_its_end() {
    let (ours, theirs) = pipe(true).unwrap();
    let child = fork(|| {
        let mut envelope = Envelope::new();
        for _ in 0..1000 {
            theirs.receive(&mut envelope, soon()).unwrap();
            theirs.send(&mut Parcel::new(2, &envelope.inline).unwrap(), soon()).unwrap();
        }
    });
    drop(theirs);
    let mut envelope = Envelope::new();
    for i in 0..1000u32 {
        ours.send(&mut Parcel::new(1, &i.to_le_bytes()).unwrap(), soon()).unwrap();
        ours.receive(&mut envelope, soon()).unwrap();
        assert_eq!((envelope.kind, &envelope.inline[..]), (2, &i.to_le_bytes()[..]));
    }
    assert_eq!(wait(child), 0);
    assert!(matches!(ours.receive(&mut envelope, soon()), Err(Error::EndOfFile)));
    shm::sweep_dead();
    assert!(matches!(ours.send(&mut Parcel::new(1, b"x").unwrap(), soon()), Err(Error::BrokenPipe)));
}

#[test]
fn a_reader_that_closes_at_once_has_still_been_sent_to() {
    for _ in 0..300 {
        let (reads, writes) = pipe(false).unwrap();
        let child = fork(|| {
            // SAFETY: the child's own copy of the end, which it does not use again.
            drop(unsafe { std::ptr::read(&reads) });
            writes.send(&mut Parcel::new(1, b"all is well").unwrap(), soon()).unwrap();
        });
        drop(writes);
        reads.receive(&mut Envelope::new(), soon()).unwrap();
        drop(reads);
        assert_eq!(wait(child), 0);
    }
}

#[test]
fn descriptors_come_in_order_with_messages() {
    let (ours, theirs) = pipe(false).unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    theirs.send(&mut Parcel::new(1, b"first").unwrap(), soon()).unwrap();
    theirs.send_descriptor(std::os::fd::AsFd::as_fd(&file)).unwrap();
    let mut envelope = Envelope::new();
    ours.receive(&mut envelope, soon()).unwrap();
    assert_eq!(envelope.inline, b"first");
    ours.receive_descriptor(soon()).unwrap();
}

#[test]
fn a_received_block_is_private_after_a_fork() {
    let queue = Queue::new(0).unwrap();
    queue.put(&mut Parcel::new(0, &vec![7u8; 100_000]).unwrap(), soon()).unwrap();
    let mut envelope = Envelope::new();
    queue.get(&mut envelope, soon()).unwrap();
    let polyproc_engine::channel::Body::Block(lease) =
        std::mem::replace(&mut envelope.body, polyproc_engine::channel::Body::Inline)
    else {
        panic!("a large body lies in a block");
    };
    let lease: Lease = lease.keep();
    let (there, done) = (Event::new().unwrap(), Event::new().unwrap());
    // SAFETY: the lease has 100,000 bytes; this process has no other thread that uses it.
    let byte = |i: usize| unsafe { lease.as_ptr().add(i).read_volatile() };
    let child = fork(|| {
        // SAFETY: as above, in the child's own copy.
        unsafe { lease.as_ptr().write_volatile(1) };
        there.set();
        done.wait(soon()).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { lease.as_ptr().add(99_999).read_volatile() }, 7);
        // SAFETY: the child's own copy of the lease, which it does not use again.
        drop(unsafe { std::ptr::read(&lease) });
        // SAFETY: ends this process, without the destructors of what it shares with its parent.
        unsafe { libc::_exit(0) };
    });
    there.wait(soon()).unwrap();
    assert_eq!(byte(0), 7);
    // SAFETY: as above.
    unsafe { lease.as_ptr().add(99_999).write_volatile(2) };
    done.set();
    assert_eq!(wait(child), 0);
    assert_eq!((byte(0), byte(99_999)), (7, 2));
}

#[test]
fn what_is_dropped_is_used_again() {
    let before = shm::reserved().unwrap();
    for _ in 0..1000 {
        let queue = Queue::new(0).unwrap();
        for _ in 0..3 {
            queue.put(&mut Parcel::new(0, &vec![1; 200_000]).unwrap(), soon()).unwrap();
        }
    }
    // 600 MB went through; some tens may be those of tests that run beside this one, in the same session.
    assert!(shm::reserved().unwrap().saturating_sub(before) < 200_000_000);
}

#[test]
fn a_bell_is_readable_while_the_queue_is_not_empty() {
    use polyproc_engine::sys::poll::{Polled, wait as poll};
    let queue = Queue::new(0).unwrap();
    let fd = queue.bell().unwrap();
    let mut polled = [Polled::new(fd)];
    assert_eq!(poll(&mut polled, Deadline::Now).unwrap(), 0);
    let child = fork(|| queue.put(&mut Parcel::new(0, b"x").unwrap(), soon()).unwrap());
    assert_eq!(poll(&mut polled, soon()).unwrap(), 1);
    get(&queue);
    assert_eq!(poll(&mut polled, Deadline::Now).unwrap(), 0);
    assert_eq!(wait(child), 0);
}

#[test]
fn every_kill_point_is_listed_once() {
    let mut found = std::collections::BTreeSet::new();
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap() != "fault.rs" {
                let text = std::fs::read_to_string(path).unwrap();
                found.extend(text.split("fault!(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()));
            }
        }
    }
    let listed: std::collections::BTreeSet<String> =
        polyproc_engine::fault::POINTS.iter().map(|point| (*point).to_owned()).collect();
    assert_eq!(found, listed);
    assert_eq!(listed.len(), polyproc_engine::fault::POINTS.len());
}

#[test]
fn a_process_that_has_every_share_it_may_have_waits_for_one_of_them() {
    use polyproc_engine::sync::RwLock;
    let lock = RwLock::new().unwrap();
    for _ in 0..(1 << 14) - 1 {
        lock.read(Deadline::Now).unwrap();
    }
    assert!(matches!(lock.read(Deadline::Now), Err(Error::TimedOut)));
    let other = lock.clone();
    let waiting = std::thread::spawn(move || other.read(Deadline::Never).map(drop));
    lock.release_read().unwrap();
    waiting.join().unwrap().unwrap();
    assert_eq!(lock.readers(), (1 << 14) - 1);
}

//! Blocks and the directory: allocate, share, drop, trim, fork; create and drop an object of each kind.

use polyproc_engine::Deadline;
use polyproc_engine::channel::{Body, Envelope, Queue, pipe};
use polyproc_engine::shm::{self, Lease, Memory};
use polyproc_engine::sync::{Barrier, Condition, Event, Lock, ReentrantLock, Semaphore};
use polyproc_testkit::child::End;
use polyproc_testkit::item::Item;
use polyproc_testkit::ledger::Ledger;
use polyproc_testkit::trial::{Role, Scenario, Trial, soon};
use std::cell::RefCell;
use std::rc::Rc;

/// Blocks of several sizes are made, written and dropped again.
fn allocating(_ledger: Ledger) -> Trial {
    let work = || {
        let small = Lease::allocate(10_000).unwrap();
        let large = Lease::allocate(300_000).unwrap().keep();
        for lease in [&small, &large] {
            // SAFETY: the lease has that many bytes, which this process alone has.
            unsafe { std::ptr::write_bytes(lease.as_ptr(), 7, lease.len()) };
        }
        drop(small);
        let again = Lease::allocate(9_000).unwrap();
        drop((large, again));
    };
    Trial::new(work, move |_, _| (0..3).for_each(|_| work()))
}

/// Memory that parent and victim share.
fn shared_memory(_ledger: Ledger) -> Trial {
    let memory = Memory::allocate(20_000).unwrap();
    let handle = memory.handle();
    // SAFETY: the memory has 20,000 bytes; the other process does not write now.
    unsafe { memory.as_ptr().add(19_999).write(9) };
    let victim = move || {
        let second = Memory::from_handle(handle).unwrap();
        let own = Memory::allocate(5_000).unwrap();
        drop(second);
        drop(own);
    };
    Trial::new(victim, move |stage, _| {
        stage.sweep();
        let second = Memory::from_handle(handle).unwrap();
        drop(memory);
        // SAFETY: as above.
        assert_eq!(unsafe { second.as_ptr().add(19_999).read() }, 9);
        drop(second);
        assert!(Memory::from_handle(handle).is_err());
    })
}

/// The pages of idle blocks are given back because the budget is used up.
fn trimming(_ledger: Ledger) -> Trial {
    let budget = shm::budget().unwrap();
    drop((Lease::allocate(30_000).unwrap(), Lease::allocate(40_000).unwrap(), Lease::allocate(300_000).unwrap()));
    let victim = || {
        shm::set_budget(0).unwrap();
        assert!(Lease::allocate(1 << 36).is_err());
    };
    Trial::new(victim, move |_, _| {
        shm::set_budget(budget).unwrap();
        let lease = Lease::allocate(300_000).unwrap();
        // SAFETY: the lease has that many bytes, which this process alone has.
        unsafe { std::ptr::write_bytes(lease.as_ptr(), 7, lease.len()) };
    })
}

fn received(size: usize) -> Lease {
    let queue = Queue::new(0).unwrap();
    crate::queues::put(&queue, Item::new(0, 1), size, soon());
    let mut envelope = Envelope::new();
    queue.get(&mut envelope, soon()).unwrap();
    match std::mem::replace(&mut envelope.body, Body::Inline) {
        Body::Block(lease) => lease.keep(),
        Body::Inline => panic!("a large body lies in a block"),
    }
}

fn item_in(lease: &Lease) -> Item {
    // SAFETY: a lease is valid for its length, and this process's own.
    Item::of(unsafe { std::slice::from_raw_parts(lease.as_ptr(), lease.len()) })
}

/// Parent and victim have the same received block across a fork: what the victim does to it the parent does not see.
fn lease_across_a_fork(_ledger: Ledger, parent_drops_first: bool) -> Trial {
    let lease = Rc::new(RefCell::new(Some(received(100_000))));
    let (victims, parents) = (lease.clone(), lease);
    let (gate, opened) = (Event::new().unwrap(), parents.clone());
    let go = gate.clone();
    let victim = move || {
        gate.wait(soon()).unwrap();
        let lease = victims.borrow_mut().take().unwrap();
        assert_eq!(item_in(&lease), Item::new(0, 1));
        // SAFETY: the lease has that many bytes, and they are private since the fork.
        unsafe { lease.as_ptr().write(lease.as_ptr().read().wrapping_add(1)) };
        drop(lease);
    };
    Trial::new(victim, move |stage, _| {
        stage.sweep();
        if let Some(lease) = parents.borrow_mut().take() {
            assert_eq!(item_in(&lease), Item::new(0, 1));
        }
    })
    .meanwhile(move |_| {
        if parent_drops_first {
            opened.borrow_mut().take();
        }
        go.set();
    })
}

/// The victim has a received block and forks; both write, both end.
fn forking_with_a_lease(_ledger: Ledger) -> Trial {
    let queue = Queue::new(0).unwrap();
    let for_victim = queue.clone();
    let victim = move || {
        let lease = received(100_000);
        let child = polyproc_testkit::child::fork(|| {
            assert_eq!(item_in(&lease), Item::new(0, 1));
            crate::queues::put(&for_victim, Item::new(1, 1), 0, soon());
        });
        assert_eq!(item_in(&lease), Item::new(0, 1));
        let mut child = child;
        if child.wait(std::time::Duration::from_secs(1)).expect("the child's end") != End::Exited(0) {
            // The point was the child's: then this one is not missed either.
            // SAFETY: kill and getpid have no preconditions.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
        drop(lease);
    };
    Trial::new(victim, move |stage, _| {
        stage.sweep();
        crate::queues::put(&queue, Item::new(0, 1), 0, soon());
        while crate::queues::get(&queue, soon()) != Item::new(0, 1) {}
    })
}

/// One object of each kind, used and dropped.
fn each_kind() {
    let (lock, reentrant) = (Lock::new().unwrap(), ReentrantLock::new().unwrap());
    let again = Lock::from_handle(lock.hold().handle()).unwrap();
    again.acquire(soon()).unwrap();
    again.release().unwrap();
    let (semaphore, event) = (Semaphore::new(1, None).unwrap(), Event::new().unwrap());
    let (condition, barrier) = (Condition::new().unwrap(), Barrier::new(2).unwrap());
    let (queue, ends) = (Queue::new(3).unwrap(), pipe(true).unwrap());
    crate::queues::put(&queue, Item::new(0, 1), 100_000, Deadline::Now);
    drop((lock, again, reentrant, semaphore, event, condition, barrier, queue, ends));
}

pub fn scenarios() -> Vec<Scenario> {
    use Role::{Holder, Peer};
    vec![
        Scenario::new("block: allocate and drop", Holder, allocating),
        Scenario::new("block: shared memory", Holder, shared_memory),
        Scenario::new("block: trim", Holder, trimming),
        Scenario::new("block: a lease across a fork", Peer, |l| lease_across_a_fork(l, false)),
        Scenario::new("block: the last lease after a fork", Peer, |l| lease_across_a_fork(l, true)),
        Scenario::new("block: fork with a lease", Holder, forking_with_a_lease),
        Scenario::new("directory: each kind of object", Holder, |_| Trial::new(each_kind, |_, _| each_kind())),
    ]
}

//! One thread for each process that has children or a lifeline. It waits for ends.
//!
//! ```text
//!            epoll set
//!   child's pidfd ──┐        readable: note how it ended ─▶ sweep what it held ─▶ tell who asked
//!   child's pidfd ──┼──▶ thread
//!   lifeline ───────┤        readable: the one we work for is gone ─▶ see `lifeline`
//!   bell ───────────┘        readable: stop (a fork is coming that must find no such thread)
//! ```
//!
//! It is started with the first child or the lifeline, has every signal blocked, and runs nothing of the program but what
//! was given to [`watch`] to be told of an end.
//!
//! **Invariant:** the thread holds the table's lock only to look something up: never while it sweeps, waits or tells.
//! It collects no exit status.
//!
//! **At a fork** the child finds an empty table: the epoll set is shared across a fork, so its copy of the descriptor is
//! closed, and the thread is not there. The table's lock is taken before the fork, so the copy is whole.
//!
//! **When this process dies** the thread dies with it, and what it watched is not swept by it: those who wait for
//! something that a dead process owns look after that themselves.

use super::child::Child;
use super::lifeline;
use crate::sys::clock::{self, Deadline};
use crate::sys::{epoll, event, fork, proc, signal};
use crate::{Error, Result, shm, sync};
use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is run, by the supervisor's thread, once a child has ended.
pub type Told = Box<dyn FnOnce(&Child) + Send>;

const BELL: u64 = 0;
const LIFELINE: u64 = 1;
const FIRST_CHILD: u64 = 2;

/// How often idle memory is looked for, in nanoseconds.
const TICK: u64 = 5_000_000_000;

/// The thread calls little and calls it shallowly.
const STACK: usize = 256 * 1024;

struct Watched {
    child: Arc<Child>,
    told: Option<Told>,
}

struct Table {
    /// The epoll set and the bell, once there is something to watch.
    set: Option<Arc<(OwnedFd, OwnedFd)>>,
    children: HashMap<u64, Watched>,
    /// The child whose end is being dealt with, by its address.
    settling: Option<usize>,
    next: u64,
    lifeline: Option<RawFd>,
    /// When the lifeline fired, and how far we have gone since.
    orphaned: Option<lifeline::Orphan>,
    stop: bool,
}

impl Table {
    fn new() -> Table {
        Table {
            set: None,
            children: HashMap::new(),
            settling: None,
            next: FIRST_CHILD,
            lifeline: None,
            orphaned: None,
            stop: false,
        }
    }
}

static TABLE: Mutex<Option<Table>> = Mutex::new(None);

/// The kernel's number of the thread; zero while there is none, minus one while it starts.
static THREAD: AtomicI32 = AtomicI32::new(0);

/// Those sleep here who [`settle`].
static SETTLED: AtomicU32 = AtomicU32::new(0);

fn lock() -> MutexGuard<'static, Option<Table>> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watches a child from now on. `told` runs once it has ended, was reported and swept.
pub fn watch(child: &Arc<Child>, told: Option<Told>) -> Result<()> {
    watch_forks()?;
    let mut guard = lock();
    let table = guard.get_or_insert_with(Table::new);
    let number = table.next;
    add(table, child.as_ref(), number)?;
    table.next += 1;
    table.children.insert(number, Watched { child: Arc::clone(child), told });
    let started = start(table);
    if started.is_err() {
        table.children.remove(&number);
    }
    started
}

/// Has `told` run once this child, which is watched, has ended; at once, and here, if it has.
pub fn tell(child: &Arc<Child>, told: Told) {
    let known = {
        let mut guard = lock();
        let children = guard.as_mut().map(|table| &mut table.children);
        match children.and_then(|children| children.values_mut().find(|watched| Arc::ptr_eq(&watched.child, child))) {
            Some(watched) if watched.told.is_none() => {
                watched.told = Some(told);
                return;
            }
            Some(watched) => {
                // Both are told, in this order.
                let first = watched.told.take();
                watched.told = Some(Box::new(move |child| {
                    if let Some(first) = first {
                        first(child);
                    }
                    told(child);
                }));
                return;
            }
            None => told,
        }
    };
    child.observe();
    if !shm::sweep(child.participant()) {
        shm::sweep_dead();
    }
    known(child);
}

/// Waits until the end of this child, which must have come, was dealt with: what it held is swept, who asked was told, and
/// nobody here keeps its descriptor any more. At once where no thread of this process watches.
///
/// # Errors
/// [`Error::TimedOut`], [`Error::Interrupted`].
pub fn settle(child: &Child, deadline: Deadline) -> Result<()> {
    let address = std::ptr::from_ref(child).addr();
    let is_watched = |table: &Table| {
        let mut children = table.children.values();
        table.settling == Some(address) || children.any(|watched| Arc::as_ptr(&watched.child).addr() == address)
    };
    sync::signal::wait(&SETTLED, deadline, || !is_running() || !lock().as_ref().is_some_and(is_watched))
}

/// Watches the process behind this descriptor as the one that we work for. The descriptor must stay open.
pub(super) fn watch_lifeline(descriptor: BorrowedFd<'_>) -> Result<()> {
    use std::os::fd::AsRawFd;
    watch_forks()?;
    let mut guard = lock();
    let table = guard.get_or_insert_with(Table::new);
    if table.lifeline.is_some() {
        return Ok(());
    }
    add(table, descriptor, LIFELINE)?;
    table.lifeline = Some(descriptor.as_raw_fd());
    start(table)
}

/// True if the thread runs: one of this process's threads is then the engine's. It stays until the process ends, or
/// [`pause`].
pub fn is_running() -> bool {
    THREAD.load(Ordering::Acquire) != 0
}

/// Ends the thread, and waits until the kernel no longer counts it. What it watched is kept for [`resume`].
///
/// For those who are about to fork in a way that counts the threads of the process.
pub fn pause() {
    let thread = loop {
        match THREAD.load(Ordering::Acquire) {
            0 => return,
            -1 => std::thread::sleep(Duration::from_micros(20)),
            thread => break thread,
        }
    };
    if let Some(table) = lock().as_mut() {
        match intact(table) {
            Some(set) => event::raise(&set.1),
            None => return, // nothing wakes it, and it will find its set gone
        }
        table.stop = true;
    }
    // Half a second is for ever here; a sweep that takes longer is worth a warning more than a hang.
    for _ in 0..25_000 {
        if !signal::thread_exists(thread) {
            return;
        }
        std::thread::sleep(Duration::from_micros(20));
    }
}

/// Starts the thread again after [`pause`], if there was something to watch.
pub fn resume() -> Result<()> {
    let mut guard = lock();
    match guard.as_mut() {
        Some(table) if table.set.is_some() => start(table),
        _ => Ok(()),
    }
}

fn add(table: &mut Table, source: impl std::os::fd::AsFd, number: u64) -> Result<()> {
    if let Some(set) = intact(table) {
        return epoll::add(&set.0, source, number);
    }
    let set = Arc::new((epoll::create()?, event::create()?));
    epoll::add(&set.0, &set.1, BELL)?;
    epoll::add(&set.0, source, number)?;
    for (&number, watched) in &table.children {
        let _ = epoll::add(&set.0, watched.child.as_ref(), number);
    }
    if let Some(lost) = table.set.replace(set) {
        // The numbers may be other files by now: not ours to close, or to ring. The thread that waits there finds that it
        // has been replaced when it next looks up.
        std::mem::forget(lost);
        THREAD.store(0, Ordering::Release);
    }
    Ok(())
}

/// The set, unless a program that closed all its descriptors (to become a daemon) closed it as well.
fn intact(table: &Table) -> Option<&Arc<(OwnedFd, OwnedFd)>> {
    table.set.as_ref().filter(|set| epoll::has(&set.0, &set.1, BELL))
}

fn start(table: &mut Table) -> Result<()> {
    // The lock is held: nobody else starts one. A thread that is stopping takes the lock once more before it goes.
    if THREAD.load(Ordering::Acquire) != 0 {
        if table.stop {
            table.stop = false;
        }
        return Ok(());
    }
    table.stop = false;
    THREAD.store(-1, Ordering::Release);
    let thread = signal::blocked(|| {
        std::thread::Builder::new().name("polyproc-watch".into()).stack_size(STACK).spawn(|| {
            THREAD.store(proc::thread(), Ordering::Release);
            run();
        })
    });
    match thread {
        // Detached: a forked child must not find a handle to a thread that it does not have.
        Ok(_) => Ok(()),
        Err(source) => {
            THREAD.store(0, Ordering::Release);
            Err(Error::Os { call: "pthread_create", source })
        }
    }
}

fn run() {
    let mut ready = Vec::with_capacity(epoll::BATCH);
    let mut tick = clock::now() + TICK;
    let Some(set) = lock().as_ref().and_then(|table| table.set.clone()) else {
        return THREAD.store(0, Ordering::Release);
    };
    loop {
        let deadline = {
            let guard = lock();
            let current = guard.as_ref().filter(|table| table.set.as_ref().is_some_and(|now| Arc::ptr_eq(now, &set)));
            let Some(table) = current else { return };
            if table.stop {
                // Under the lock, so that whoever starts a thread next sees that there is none.
                return THREAD.store(0, Ordering::Release);
            }
            let next = table.orphaned.as_ref().map_or(u64::MAX, lifeline::Orphan::next_step);
            let tick = if shm::exists() { tick } else { u64::MAX };
            match next.min(tick) {
                u64::MAX => Deadline::Never,
                at => Deadline::At(at),
            }
        };
        ready.clear();
        match epoll::wait(&set.0, &mut ready, deadline) {
            Ok(()) | Err(Error::Interrupted) => {}
            Err(_) => {
                // The set was closed under us. The next child makes another, and another thread.
                let mut guard = lock();
                if let Some(table) = guard.as_mut()
                    && table.set.as_ref().is_some_and(|now| Arc::ptr_eq(now, &set))
                {
                    std::mem::forget(table.set.take());
                    THREAD.store(0, Ordering::Release);
                }
                std::mem::forget(set);
                return;
            }
        }
        for &number in &ready {
            match number {
                BELL => event::lower(&set.1),
                LIFELINE => orphaned(&set.0),
                number => ended(&set.0, number),
            }
        }
        let now = clock::now();
        if let Some(orphan) = lock().as_mut().and_then(|table| table.orphaned.as_mut()) {
            orphan.step(now);
        }
        if now >= tick {
            shm::trim();
            tick = now + TICK;
        }
    }
}

fn orphaned(set: &OwnedFd) {
    let mut guard = lock();
    let Some(table) = guard.as_mut() else { return };
    if let Some(descriptor) = table.lifeline {
        // SAFETY: whoever gave us the lifeline keeps it open; if not, the call below fails.
        let _ = epoll::remove(set, unsafe { BorrowedFd::borrow_raw(descriptor) });
    }
    table.orphaned.get_or_insert_with(lifeline::Orphan::now);
}

fn ended(set: &OwnedFd, number: u64) {
    let Some(watched) = take(number) else { return };
    let _ = epoll::remove(set, watched.child.as_ref());
    let status = watched.child.observe();
    log::debug!("polyproc: process '{}' (pid {}) {status}", watched.child.name(), watched.child.pid());
    // Its descriptors are closed before its pidfd becomes readable, so it counts as dead by now.
    if watched.child.participant().is_nobody() || !shm::sweep(watched.child.participant()) {
        shm::sweep_dead();
    }
    let Watched { child, told } = watched;
    if let Some(told) = told
        && std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| told(&child))).is_err()
    {
        log::error!("polyproc: what was to be told of the end of process {} panicked", child.pid());
    }
    drop(child);
    if let Some(table) = lock().as_mut() {
        table.settling = None;
    }
    sync::signal::notify(&SETTLED, u32::MAX);
}

/// A child whose end has come, to be dealt with.
fn take(number: u64) -> Option<Watched> {
    let mut guard = lock();
    let table = guard.as_mut()?;
    let watched = table.children.remove(&number)?;
    table.settling = Some(Arc::as_ptr(&watched.child).addr());
    Some(watched)
}

struct Held(UnsafeCell<Option<MutexGuard<'static, Option<Table>>>>);
// SAFETY: only touched by the thread that forks, between its handlers, and the mutex itself keeps others out.
unsafe impl Sync for Held {}
static HELD: Held = Held(UnsafeCell::new(None));

fn watch_forks() -> Result<()> {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if WATCHED.swap(true, Ordering::AcqRel) {
        return Ok(());
    }
    fork::watch(before, in_parent, in_child)
}

extern "C" fn before() {
    let guard = lock();
    // SAFETY: this thread alone forks now: the mutex is ours.
    unsafe { *HELD.0.get() = Some(guard) };
}

extern "C" fn in_parent() {
    // SAFETY: this thread put it there in `before`.
    drop(unsafe { (*HELD.0.get()).take() });
}

extern "C" fn in_child() {
    THREAD.store(0, Ordering::Release);
    // SAFETY: this thread put it there in `before`.
    if let Some(mut guard) = unsafe { (*HELD.0.get()).take() }
        && let Some(mut table) = guard.take()
    {
        // What was to be told of ends is the parent's, and dropping it could wait for a lock that one of the parent's
        // threads held.
        table.children.values_mut().for_each(|watched| std::mem::forget(watched.told.take()));
        if table.set.is_some() && intact(&table).is_none() {
            // The program has closed our descriptors: their numbers may be other files by now.
            std::mem::forget(table);
        }
        // Else our copies of the set, the bell and the pidfds that nobody else has are closed here.
    }
}

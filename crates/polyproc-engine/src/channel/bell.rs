//! Bells: descriptors that are readable while a queue is not empty, or an event set, for those who ask for one.
//!
//! Neither has a descriptor. A process that wants to wait for one with poll or epoll gets an eventfd of its own, rung by a
//! thread of its own that sleeps on the object's words (futex_waitv). So no descriptor travels, nobody else pays but for
//! waking that thread, and a bell dies with its process.
//!
//! Readable means not empty, or set, but for the moment that the thread needs; what this process itself puts, gets, sets or
//! clears rings or hushes before the call returns.

use super::ring::Ring;
use crate::Result;
use crate::shm::Handle;
use crate::sync::{Event, signal};
use crate::sys::clock::Deadline;
use crate::sys::futex::{self, Watched};
use crate::sys::{descriptor, event, fork};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// What a bell can be for.
trait Source: Send + Sync {
    fn handle(&self) -> Handle;
    /// The bell is to ring.
    fn is_ready(&self) -> bool;
    /// What changes when that does.
    fn words(&self) -> Vec<&'static AtomicU32>;
}

impl Source for Ring {
    fn handle(&self) -> Handle {
        self.hold().handle()
    }

    fn is_ready(&self) -> bool {
        !self.is_empty()
    }

    fn words(&self) -> Vec<&'static AtomicU32> {
        let state = self.state();
        vec![&state.items, &state.space]
    }
}

impl Source for Event {
    fn handle(&self) -> Handle {
        self.hold().handle()
    }

    fn is_ready(&self) -> bool {
        self.is_set()
    }

    fn words(&self) -> Vec<&'static AtomicU32> {
        vec![self.signal()]
    }
}

struct Bell {
    /// This process's objects of that name: a bell lives as long as one of them.
    sources: Vec<Weak<dyn Source>>,
    handle: Handle,
    fd: OwnedFd,
    rung: bool,
}

impl Bell {
    fn source(&self) -> Option<Arc<dyn Source>> {
        self.sources.iter().find_map(Weak::upgrade)
    }
}

#[derive(Default)]
struct Bells {
    bells: Vec<Bell>,
    /// The fork count of the process whose thread watches them.
    watched_in: i32,
}

static BELLS: Mutex<Bells> = Mutex::new(Bells { bells: Vec::new(), watched_in: 0 });
/// How many bells this process has; puts and gets look here first.
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// Changes when the list does, so that the thread looks at it again.
static CHANGES: AtomicU32 = AtomicU32::new(0);

/// How often the thread looks by itself: wakes may have been swallowed by the dead.
const LONGEST_SLEEP: u64 = 1_000_000_000;
/// The same, if there are more words than it can sleep on at a time.
const MANY_SLEEP: u64 = 5_000_000;

fn bells() -> MutexGuard<'static, Bells> {
    BELLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the descriptor of a ring, or gives the one that there is.
pub(super) fn arm(ring: &Arc<Ring>) -> Result<RawFd> {
    ring.watch();
    let source: Arc<dyn Source> = ring.clone();
    arm_source(&source)
}

/// A descriptor that is readable while the event is set, for poll, epoll and the like. The first call in a process starts a
/// thread that watches; the descriptor is the engine's, and lives as long as this process has the event.
pub fn event_bell(event: &Arc<Event>) -> Result<BorrowedFd<'_>> {
    let source: Arc<dyn Source> = event.clone();
    // SAFETY: it stays open for as long as this process has the event.
    arm_source(&source).map(|fd| unsafe { BorrowedFd::borrow_raw(fd) })
}

fn arm_source(source: &Arc<dyn Source>) -> Result<RawFd> {
    watch_forks()?;
    let mut guard = bells();
    let Bells { bells, watched_in } = &mut *guard;
    let handle = source.handle();
    if *watched_in != fork::count() {
        // A forked child shares its parent's eventfds: each gets a fresh one, at the same number.
        for bell in bells.iter_mut() {
            let fresh = event::create()?;
            descriptor::replace(&fresh, &mut bell.fd)?;
            bell.rung = false;
        }
        start_thread()?;
        *watched_in = fork::count();
    } else if let Some(bell) = bells.iter_mut().find(|bell| bell.handle == handle && bell.source().is_some()) {
        let weak = Arc::downgrade(source);
        bell.sources.retain(|source| source.strong_count() > 0);
        if !bell.sources.iter().any(|source| Weak::ptr_eq(source, &weak)) {
            bell.sources.push(weak);
        }
        set(bell);
        return Ok(bell.fd.as_raw_fd());
    }
    bells.retain(|bell| bell.source().is_some());
    let found = bells.iter().find(|bell| bell.handle == handle);
    let fd = match found {
        Some(bell) => bell.fd.as_raw_fd(),
        None => {
            let fd = event::create()?;
            let number = fd.as_raw_fd();
            bells.push(Bell { sources: vec![Arc::downgrade(source)], handle, fd, rung: false });
            number
        }
    };
    COUNT.store(bells.len(), Ordering::Release);
    for bell in bells.iter_mut() {
        set(bell);
    }
    CHANGES.fetch_add(1, Ordering::SeqCst);
    futex::Word::wake(&CHANGES, u32::MAX);
    Ok(fd)
}

/// Rings or hushes the bell of a ring that this process has just changed.
#[inline]
pub(super) fn rang(ring: &Arc<Ring>) {
    if COUNT.load(Ordering::Relaxed) != 0 {
        changed(ring.hold().handle());
    }
}

/// Rings or hushes the bell of an event that this process has just set or cleared.
#[inline]
pub fn event_changed(event: &Event) {
    if COUNT.load(Ordering::Relaxed) != 0 {
        changed(event.hold().handle());
    }
}

fn changed(handle: Handle) {
    let mut guard = bells();
    // In a forked child these are still the parent's eventfds, until it asks for its own.
    if guard.watched_in == fork::count()
        && let Some(bell) = guard.bells.iter_mut().find(|bell| bell.handle == handle)
    {
        set(bell);
    }
}

fn set(bell: &mut Bell) {
    let Some(source) = bell.source() else { return };
    let ready = source.is_ready();
    if ready != bell.rung {
        bell.rung = ready;
        if ready { event::raise(bell.fd.as_fd()) } else { event::lower(bell.fd.as_fd()) }
    }
}

/// A fork must not find the list half changed: it takes the lock first.
fn watch_forks() -> Result<()> {
    struct Held(std::cell::UnsafeCell<Option<MutexGuard<'static, Bells>>>);
    // SAFETY: only touched by the thread that forks, which has the lock.
    unsafe impl Sync for Held {}
    static HELD: Held = Held(std::cell::UnsafeCell::new(None));
    static ONCE: AtomicU32 = AtomicU32::new(0);
    extern "C" fn before() {
        // SAFETY: this thread has the lock from here on.
        unsafe { *HELD.0.get() = Some(bells()) };
    }
    extern "C" fn after() {
        // SAFETY: this thread put it there.
        drop(unsafe { (*HELD.0.get()).take() });
    }
    if ONCE.swap(1, Ordering::AcqRel) == 0 { fork::watch(before, after, after) } else { Ok(()) }
}

fn start_thread() -> Result<()> {
    crate::sys::thread::spawn_without_signals("polyproc-bells", || {
        let born_in = fork::count();
        while fork::count() == born_in {
            watch_once();
        }
    })
}

fn watch_once() {
    let changes = CHANGES.load(Ordering::SeqCst);
    let mut guard = bells();
    guard.bells.retain(|bell| bell.source().is_some());
    COUNT.store(guard.bells.len(), Ordering::Release);
    // What is dropped meanwhile stays mapped.
    let sources: Vec<Arc<dyn Source>> = guard.bells.iter().filter_map(Bell::source).collect();
    let mut words = vec![Watched { word: &CHANGES, expected: changes }];
    // Registered first, looked at after: what changes in between is seen now or ends the sleep at once.
    for word in sources.iter().flat_map(|source| source.words()) {
        words.push(Watched { word, expected: signal::register(word) });
    }
    for bell in &mut guard.bells {
        set(bell);
    }
    drop(guard);
    drop(sources);
    let longest = if words.len() <= futex::WATCHED_MAX { LONGEST_SLEEP } else { MANY_SLEEP };
    futex::wait_any(&words, Deadline::Never.within(longest));
}

//! Bells: descriptors that are readable while a queue is not empty, for those who ask for one.
//!
//! A queue has no descriptor. A process that wants to wait for one with poll or epoll gets an eventfd of its own, rung by a
//! thread of its own that sleeps on the queue's words (futex_waitv). So no descriptor travels, nobody else pays but for
//! waking that thread, and a bell dies with its process.
//!
//! Readable means not empty, but for the moment that the thread needs; a put or get by this process itself rings or hushes
//! before it returns.

use super::ring::Ring;
use crate::shm::Handle;
use crate::sync::signal;
use crate::sys::clock::Deadline;
use crate::sys::futex::{self, Watched};
use crate::sys::{descriptor, event, fork};
use crate::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

struct Bell {
    ring: Weak<Ring>,
    handle: Handle,
    fd: OwnedFd,
    rung: bool,
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

/// A futex_waitv takes 128 words: two a bell, and one for the list.
const MOST: usize = (futex::WATCHED_MAX - 1) / 2;

fn bells() -> MutexGuard<'static, Bells> {
    BELLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the descriptor of a ring, or gives the one that there is.
pub(super) fn arm(ring: &Arc<Ring>) -> Result<RawFd> {
    watch_forks()?;
    let mut guard = bells();
    let Bells { bells, watched_in } = &mut *guard;
    let handle = ring.hold().handle();
    if *watched_in != fork::count() {
        // A forked child shares its parent's eventfds: each gets a fresh one, at the same number.
        for bell in bells.iter_mut() {
            let fresh = event::create()?;
            descriptor::replace(&fresh, &mut bell.fd)?;
            bell.rung = false;
        }
        start_thread()?;
        *watched_in = fork::count();
    }
    bells.retain(|bell| bell.ring.strong_count() > 0);
    let found = bells.iter_mut().find(|bell| bell.handle == handle && bell.ring.strong_count() > 0);
    let fd = match found {
        Some(bell) => bell.fd.as_raw_fd(),
        None => {
            if bells.len() >= MOST {
                return Err(Error::TooMany { what: "queues with a file descriptor", limit: MOST as u64 });
            }
            ring.watch();
            let fd = event::create()?;
            let number = fd.as_raw_fd();
            bells.push(Bell { ring: Arc::downgrade(ring), handle, fd, rung: false });
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
        let handle = ring.hold().handle();
        let mut guard = bells();
        // In a forked child these are still the parent's eventfds, until it asks for its own.
        if guard.watched_in == fork::count()
            && let Some(bell) = guard.bells.iter_mut().find(|bell| bell.handle == handle)
        {
            set(bell);
        }
    }
}

fn set(bell: &mut Bell) {
    let Some(ring) = bell.ring.upgrade() else { return };
    let full = !ring.is_empty();
    if full != bell.rung {
        bell.rung = full;
        if full { event::raise(bell.fd.as_fd()) } else { event::lower(bell.fd.as_fd()) }
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
    guard.bells.retain(|bell| bell.ring.strong_count() > 0);
    COUNT.store(guard.bells.len(), Ordering::Release);
    let rings: Vec<Arc<Ring>> = guard.bells.iter().filter_map(|bell| bell.ring.upgrade()).collect();
    // Registered first, looked at after: what changes in between is seen now or ends the sleep at once.
    let mut expected = Vec::with_capacity(rings.len());
    for ring in &rings {
        let state = ring.state();
        expected.push((signal::register(&state.items), signal::register(&state.space)));
    }
    for bell in &mut guard.bells {
        set(bell);
    }
    drop(guard);
    let mut words = vec![Watched { word: &CHANGES, expected: changes }];
    for (ring, (items, space)) in rings.iter().zip(expected) {
        words.push(Watched { word: &ring.state().items, expected: items });
        words.push(Watched { word: &ring.state().space, expected: space });
    }
    // A ring that is dropped meanwhile stays mapped; the second is for wakes that were swallowed by the dead.
    futex::wait_any(&words, Deadline::Never.within(1_000_000_000));
}

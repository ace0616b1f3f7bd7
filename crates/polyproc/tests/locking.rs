//! Read-write locks, reentrant locks and what is done once, between processes that die.
#![allow(clippy::unwrap_used, reason = "tests")]

use polyproc::{Event, Once, OnceLock, Process, ReentrantLock, RwLock, Shared, TryLockError};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

fn write_rows(table: RwLock<[u64; 8]>, times: u64) {
    for _ in 0..times {
        let mut table = table.write().unwrap();
        let next = table[0] + 1;
        *table = [next; 8];
    }
}

fn read_rows(table: RwLock<[u64; 8]>, until: u64) -> bool {
    loop {
        let table = table.read().unwrap();
        if table.iter().any(|row| *row != table[0]) {
            return false;
        }
        if table[0] >= until {
            return true;
        }
    }
}

#[test]
fn readers_never_see_a_row_half_written() {
    let table = RwLock::new([0; 8]).unwrap();
    let readers: Vec<_> = (0..2).map(|_| Process::spawn(read_rows, (table.clone(), 2000)).unwrap()).collect();
    let writers: Vec<_> = (0..2).map(|_| Process::spawn(write_rows, (table.clone(), 1000)).unwrap()).collect();
    for writer in writers {
        writer.join().unwrap();
    }
    for reader in readers {
        assert!(reader.join().unwrap());
    }
    assert_eq!(table.readers(), 0);
}

fn keep_reading(level: RwLock<u32>, has: Event) {
    let _guard = level.read().unwrap();
    has.set();
    loop {
        std::thread::park();
    }
}

#[test]
fn the_share_of_a_killed_reader_comes_back() {
    let (level, has) = (RwLock::new(1).unwrap(), Event::new().unwrap());
    let reader = Process::spawn(keep_reading, (level.clone(), has.clone())).unwrap();
    assert!(has.wait_timeout(SOON));
    assert!(matches!(level.try_write(), Err(TryLockError::TimedOut)));
    assert_eq!(*level.try_read().unwrap(), 1);
    reader.kill().unwrap();
    *level.write_timeout(SOON).unwrap() = 2;
    assert!(reader.join().is_err());
}

fn write_half(level: RwLock<u32>, panics: bool) {
    let mut guard = level.write().unwrap();
    *guard = 1;
    assert!(!panics, "half done");
    std::process::abort();
}

#[test]
fn a_dead_writer_is_news_for_readers_until_a_writer_has_had_it() {
    for panics in [false, true] {
        let level = RwLock::new(0).unwrap();
        let writer = Process::spawn(write_half, (level.clone(), panics)).unwrap();
        let pid = writer.pid();
        assert!(writer.join().is_err());
        for _ in 0..2 {
            let abandoned = level.read().unwrap_err();
            assert_eq!((abandoned.pid(), abandoned.panicked(), **abandoned.get_ref()), (pid, panics, 1));
        }
        let mut abandoned = level.write().unwrap_err();
        assert_eq!((abandoned.pid(), abandoned.panicked()), (pid, panics));
        **abandoned.get_mut() = 0;
        drop(abandoned);
        assert_eq!(*level.read().unwrap(), 0);
    }
}

fn write_one(level: RwLock<u32>) {
    *level.write().unwrap() += 1;
}

#[test]
fn a_writer_gets_in_although_readers_come_all_the_time() {
    let level = RwLock::new(0).unwrap();
    let mut guards = vec![level.read().unwrap()];
    let writer = Process::spawn(write_one, (level.clone(),)).unwrap();
    // Until the writer waits readers come in; then one is kept out.
    loop {
        match level.try_read() {
            Ok(guard) => guards.push(guard),
            Err(TryLockError::TimedOut) => break,
            Err(other) => panic!("{other}"),
        }
        guards.truncate(4);
    }
    drop(guards);
    assert_eq!(*level.read_timeout(SOON).unwrap(), 1);
    writer.join().unwrap();
}

fn add_nested(total: ReentrantLock<[u64; 4]>, times: u64) {
    for _ in 0..times {
        let outer = total.lock().unwrap();
        let inner = total.lock().unwrap();
        inner.set(inner.get().map(|number| number + 1));
        assert_eq!(total.depth(), 2);
        drop(inner);
        outer.set(outer.get().map(|number| number + 1));
    }
}

#[test]
fn a_reentrant_lock_keeps_others_out_until_its_last_guard_is_dropped() {
    let total = ReentrantLock::new([0; 4]).unwrap();
    let children: Vec<_> = (0..3).map(|_| Process::spawn(add_nested, (total.clone(), 2000)).unwrap()).collect();
    for child in children {
        child.join().unwrap();
    }
    assert_eq!(total.lock().unwrap().get(), [12_000; 4]);
    let guard = total.lock().unwrap();
    let lock = total.clone();
    let other = std::thread::spawn(move || matches!(lock.try_lock(), Err(TryLockError::TimedOut)));
    assert!(other.join().unwrap());
    drop(guard);
}

fn die_inside(total: ReentrantLock<u32>) {
    let outer = total.lock().unwrap();
    let _inner = total.lock().unwrap();
    outer.set(1);
    std::process::abort();
}

#[test]
fn the_death_of_the_holder_of_a_reentrant_lock_is_news_once() {
    let total = ReentrantLock::new(0).unwrap();
    let child = Process::spawn(die_inside, (total.clone(),)).unwrap();
    let pid = child.pid();
    assert!(child.join().is_err());
    let abandoned = total.lock().unwrap_err();
    assert_eq!((abandoned.pid(), abandoned.get_ref().get()), (pid, 1));
    drop(abandoned);
    assert_eq!(total.lock().unwrap().get(), 1);
}

fn fill(seed: OnceLock<u64>, times: Shared<AtomicU32>, value: u64) -> u64 {
    *seed.get_or_init(|| {
        times.fetch_add(1, Ordering::SeqCst);
        value
    })
}

#[test]
fn all_processes_see_the_value_that_was_written_once() {
    let (seed, times) = (OnceLock::new().unwrap(), Shared::new(AtomicU32::new(0)).unwrap());
    assert_eq!(seed.get(), None);
    let children: Vec<_> =
        (1..=4).map(|value| Process::spawn(fill, (seed.clone(), times.clone(), value)).unwrap()).collect();
    let values: Vec<u64> = children.into_iter().map(|child| child.join().unwrap()).collect();
    assert!(values.iter().all(|value| Some(value) == seed.get()), "{values:?}");
    assert_eq!(times.load(Ordering::SeqCst), 1);
}

fn begin_and_stay(once: Once, has: Event) {
    once.call_once(|| {
        has.set();
        loop {
            std::thread::park();
        }
    });
}

fn take_over(once: Once) -> Option<i32> {
    let mut died = None;
    once.call_once_force(|pid| died = pid);
    died
}

#[test]
fn whoever_waits_does_it_when_the_one_that_was_at_it_is_killed() {
    let (once, has) = (Once::new().unwrap(), Event::new().unwrap());
    let first = Process::spawn(begin_and_stay, (once.clone(), has.clone())).unwrap();
    assert!(has.wait_timeout(SOON));
    let second = Process::spawn(take_over, (once.clone(),)).unwrap();
    first.kill().unwrap();
    assert_eq!(second.join().unwrap(), Some(first.pid()));
    assert!(once.is_completed());
    once.call_once(|| panic!("done twice"));
}

#[test]
fn a_panic_leaves_it_to_the_next() {
    let once = Once::new().unwrap();
    let copy = once.clone();
    assert!(std::thread::spawn(move || copy.call_once(|| panic!("on purpose"))).join().is_err());
    assert!(!once.is_completed());
    once.call_once(|| {});
    assert!(once.is_completed());
}

//! What can be said about tasks and workers, and the ways to get results.
#![allow(clippy::unwrap_used, reason = "tests")]

use polyproc::prelude::*;
use polyproc::{Bytes, Error, Event, Shared};
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

fn sleep(milliseconds: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(milliseconds));
    milliseconds
}

fn doubled(bytes: Bytes, more: Vec<Bytes>) -> (Bytes, usize) {
    let all = bytes.to_vec().iter().map(|byte| byte * 2).collect::<Vec<u8>>();
    (Bytes::from(all), more.iter().map(Bytes::len).sum())
}

#[test]
fn bytes_go_to_a_pool_and_come_back() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let items = (1..=8u8).map(|i| (Bytes::from(vec![i; 100_000]), vec![Bytes::from(vec![0; 10]), Bytes::from(vec![])]));
    for (i, result) in (1u8..).zip(pool.starmap(doubled, items).unwrap()) {
        let (bytes, more) = result.unwrap();
        assert_eq!((bytes.to_vec(), more), (vec![2 * i; 100_000], 10));
    }
    pool.finish();
}

fn dies_once(tries: Shared<AtomicU64>, bytes: Bytes) -> u8 {
    if tries.fetch_add(1, Ordering::SeqCst) == 0 {
        std::process::abort();
    }
    bytes.to_vec()[99_999]
}

#[test]
fn bytes_are_there_again_for_a_task_that_is_tried_again() {
    let tries = Shared::new(AtomicU64::new(0)).unwrap();
    let pool = Pool::builder().workers(1).retry(1).build().unwrap();
    let ticket = pool.submit(dies_once, (tries.clone(), Bytes::from(vec![7; 100_000]))).unwrap();
    assert_eq!(ticket.join().unwrap(), 7);
    assert_eq!(tries.load(Ordering::SeqCst), 2);
}

#[test]
fn a_limit_for_some_tasks_does_not_concern_the_others() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let others: Vec<_> = (0..2).map(|_| pool.submit(sleep, (150,)).unwrap()).collect();
    let limit = Duration::from_millis(40);
    let late = pool.with().timeout(limit).submit(sleep, (60_000,)).unwrap();
    let later: Vec<_> = (0..4).map(|_| pool.submit(sleep, (60,)).unwrap()).collect();
    match late.join() {
        Err(TaskError::TimedOut { after, process, .. }) => {
            assert_eq!(after, limit);
            assert!(process.name.starts_with("pool-"));
        }
        other => panic!("{other:?}"),
    }
    for ticket in others.into_iter().chain(later) {
        ticket.join().unwrap();
    }
}

static STARTED: OnceLock<String> = OnceLock::new();
static DONE: AtomicU64 = AtomicU64::new(0);

fn start(word: String, starts: Shared<AtomicU64>) {
    STARTED.set(word).unwrap();
    starts.fetch_add(1, Ordering::SeqCst);
}

fn word(_: u32) -> String {
    DONE.fetch_add(1, Ordering::SeqCst);
    STARTED.get().unwrap().clone()
}

fn exit(done: Queue<u64>) {
    done.put(&DONE.load(Ordering::SeqCst)).unwrap();
}

#[test]
fn each_worker_begins_and_ends_with_what_it_was_told() {
    let starts = Shared::new(AtomicU64::new(0)).unwrap();
    let done = Queue::unbounded().unwrap();
    let pool = Pool::builder()
        .workers(2)
        .recycle_after(10)
        .on_start(start, ("ready".to_owned(), starts.clone()))
        .on_exit(exit, (done.clone(),))
        .build()
        .unwrap();
    for result in pool.map(word, 0..40).unwrap() {
        assert_eq!(result.unwrap(), "ready");
    }
    pool.finish();
    let counts: Vec<u64> = std::iter::from_fn(|| done.try_get().ok()).collect();
    assert_eq!(counts.iter().sum::<u64>(), 40, "{counts:?}");
    assert!(counts.iter().all(|&count| count <= 10), "{counts:?}");
    assert!(starts.load(Ordering::SeqCst) >= 4);
}

fn start_badly(path: String) {
    panic!("no model at {path}");
}

#[test]
fn a_pool_whose_workers_cannot_begin_says_why() {
    let pool = Pool::builder().workers(2).on_start(start_badly, ("/nowhere".to_owned(),)).build().unwrap();
    match pool.submit(sleep, (1,)).unwrap().join() {
        Err(error @ TaskError::NotDone { .. }) => {
            assert!(error.to_string().contains("no model at /nowhere"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_only_one_process_can_have_is_refused_for_every_worker() {
    let (_, end) = polyproc::pipe::duplex::<u8, u8>().unwrap();
    let built = Pool::builder().workers(1).on_start(|_: polyproc::pipe::End<u8, u8>| (), (end,)).build();
    assert!(matches!(built, Err(Error::Encode { .. })), "{built:?}");
}

fn leak(megabytes: usize) -> u32 {
    std::mem::forget(vec![1u8; megabytes << 20]);
    std::process::id()
}

#[test]
fn a_worker_that_has_grown_too_large_is_replaced() {
    let pool = Pool::builder().workers(1).recycle_above(64 << 20).build().unwrap();
    let mut pids: Vec<u32> = Vec::new();
    for _ in 0..6 {
        pids.push(pool.submit(leak, (40,)).unwrap().join().unwrap());
    }
    pids.dedup();
    assert!((2..=4).contains(&pids.len()), "two leaks are too much for one worker: {pids:?}");
}

fn count(number: u64, counted: Shared<AtomicU64>, go: Event) {
    if number > 0 {
        go.wait();
    }
    counted.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn a_map_that_is_dropped_gives_up_what_was_not_sent() {
    let counted = Shared::new(AtomicU64::new(0)).unwrap();
    let go = Event::new().unwrap();
    let pool = Pool::builder().workers(1).build().unwrap();
    let mut endless = pool.starmap(count, (0..).map(|number| (number, counted.clone(), go.clone()))).unwrap();
    endless.next().unwrap().unwrap();
    drop(endless);
    go.set();
    pool.finish();
    let begun = counted.load(Ordering::SeqCst);
    assert!(begun <= 1025, "what lies in a worker's lane is done, the rest is not: {begun}");
}

#[test]
fn a_map_runs_no_further_ahead_than_it_was_told() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let taken = std::cell::Cell::new(0u64);
    let items = std::iter::repeat_with(|| taken.replace(taken.get() + 1));
    let mut results = pool.with().in_flight(3).map(|n: u64| n, items).unwrap();
    for expected in 0..200 {
        assert_eq!(results.next().unwrap().unwrap(), expected);
        assert!(taken.get() <= expected + 4);
    }
}

#[test]
fn an_iterator_is_mapped_in_processes_and_watched() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let halves = vec![2, 4, 6].par_map(&pool, |n: u32| n / 2);
    assert_eq!(halves.size_hint(), (3, Some(3)));
    assert_eq!(halves.collect::<Result<Vec<_>, _>>().unwrap(), [1, 2, 3]);
    let mut last = None;
    let inverses = (0..10).par_map(&pool, |n: u32| 10 / n).unordered().progress(|progress| last = Some(*progress));
    assert_eq!(inverses.filter(|(_, result)| result.is_ok()).count(), 9);
    let last = last.unwrap();
    assert_eq!((last.done, last.failed, last.total), (10, 1, Some(10)));
}

struct Bell(Sender<usize>, usize);

impl Wake for Bell {
    fn wake(self: std::sync::Arc<Self>) {
        let _ = self.0.send(self.1);
    }
}

#[test]
fn tickets_are_awaited_by_any_runtime() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let (bells, rung): (Sender<usize>, Receiver<usize>) = channel();
    let mut tickets: Vec<_> = (0..20).map(|n| Some(Box::pin(pool.submit(sleep, (n % 3,)).unwrap()))).collect();
    let mut poll = |at: usize| {
        let waker: Waker = std::sync::Arc::new(Bell(bells.clone(), at)).into();
        let slot = &mut tickets[at];
        let Some(ticket) = slot else { return false };
        match pin!(ticket).as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => {
                assert_eq!(result.unwrap(), at as u64 % 3);
                *slot = None;
                true
            }
            Poll::Pending => false,
        }
    };
    let mut left = 20 - (0..20).filter(|&at| poll(at)).count();
    while left > 0 {
        left -= usize::from(poll(rung.recv_timeout(Duration::from_secs(20)).unwrap()));
    }
}

//! Waiting for several things at once, with polyproc's own means and with those of others.
#![allow(clippy::unwrap_used, reason = "tests")]

use polyproc::{Error, Event, Process, Queue, Select, pipe};
use std::os::fd::AsFd;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

fn feed(go: Event, numbers: Queue<u32>, words: pipe::Sender<String>, done: Event) {
    go.wait();
    numbers.put(&1).unwrap();
    words.send(&"two".to_owned()).unwrap();
    done.set();
}

#[test]
fn each_kind_of_thing_is_found_when_it_is_ready() {
    let (go, numbers, done) = (Event::new().unwrap(), Queue::unbounded().unwrap(), Event::new().unwrap());
    let (sender, words) = pipe::channel().unwrap();
    let child = Process::spawn(feed, (go.clone(), numbers.clone(), sender, done.clone())).unwrap();
    let mut select = Select::new();
    let numbered = [select.add(&numbers), select.add(&words), select.add(&done), select.add(&child)];
    assert_eq!(numbered, [0, 1, 2, 3]);
    assert!(matches!(select.try_ready(), Err(Error::TimedOut)));
    go.set();
    let mut seen = [false; 4];
    let mut received = Vec::new();
    while seen != [true; 4] {
        let ready = select.ready_timeout(SOON).unwrap();
        match ready {
            0 => received.extend(numbers.try_get().ok().map(|number: u32| number.to_string())),
            1 => match words.try_receive() {
                Ok(word) => received.push(word),
                Err(error) => assert!(matches!(error, Error::EndOfFile | Error::TimedOut), "{error}"),
            },
            2 => done.clear(),
            _ => assert!(!child.is_alive()),
        }
        seen[ready] = true;
    }
    received.sort();
    assert_eq!(received, ["1", "two"]);
    child.join().unwrap();
}

#[test]
fn all_that_are_ready_have_their_turn() {
    let queues: Vec<Queue<u32>> = (0..3).map(|_| Queue::unbounded().unwrap()).collect();
    let mut select = Select::new();
    for queue in &queues {
        queue.put(&1).unwrap();
        select.add(queue);
    }
    let turns: Vec<usize> = (0..6).map(|_| select.ready_timeout(SOON).unwrap()).collect();
    assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
}

fn end_when_told(go: Event) {
    go.wait();
}

#[test]
fn wait_gives_all_that_are_ready_and_nothing_when_it_is_too_late() {
    let (go, queue) = (Event::new().unwrap(), Queue::<u32>::unbounded().unwrap());
    let child = Process::spawn(end_when_told, (go.clone(),)).unwrap();
    let sources = || [&go as &dyn AsFd, &queue, &child];
    assert!(polyproc::wait(sources(), Some(Duration::from_millis(5))).unwrap().is_empty());
    queue.put(&1).unwrap();
    assert_eq!(polyproc::wait(sources(), Some(SOON)).unwrap(), [1]);
    go.set();
    while polyproc::wait(sources(), Some(SOON)).unwrap() != [0, 1, 2] {}
    assert!(polyproc::wait([], Some(Duration::ZERO)).unwrap().is_empty());
}

#[test]
fn more_queues_can_be_waited_for_than_one_sleep_can_watch() {
    let queues: Vec<Queue<u32>> = (0..100).map(|_| Queue::unbounded().unwrap()).collect();
    let put = |last: Queue<u32>| last.put(&1).unwrap();
    let mut select = Select::new();
    for queue in &queues {
        select.add(queue);
    }
    let child = Process::spawn(put, (queues[99].clone(),)).unwrap();
    assert_eq!(select.ready_timeout(SOON).unwrap(), 99);
    child.join().unwrap();
}

#[test]
fn a_descriptor_outlives_the_handle_that_it_was_first_asked_of() {
    let outer = Queue::unbounded().unwrap();
    let first: Queue<u32> = Queue::unbounded().unwrap();
    outer.put(&first).unwrap();
    let second: Queue<u32> = outer.get().unwrap();
    let mut select = Select::new();
    first.descriptor().unwrap();
    select.add(&second);
    drop(first);
    // Another queue would get the number of a descriptor that is closed.
    let other: Queue<u32> = Queue::unbounded().unwrap();
    other.descriptor().unwrap();
    second.put(&3).unwrap();
    assert_eq!(select.ready_timeout(SOON).unwrap(), 0);
}

fn put_later(go: Event, queue: Queue<u32>) {
    go.wait();
    queue.put(&5).unwrap();
}

#[test]
fn tokio_waits_for_a_queue_without_a_feature() {
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
    let (go, queue) = (Event::new().unwrap(), Queue::unbounded().unwrap());
    let child = Process::spawn(put_later, (go.clone(), queue.clone())).unwrap();
    let number: u32 = runtime.block_on(async {
        // SAFETY: a queue's descriptor stays open and the same as long as there is a handle of it.
        let readable = unsafe { AsyncFd::register_with_interest(queue.clone(), Interest::READABLE) }.unwrap();
        go.set();
        loop {
            let mut guard = tokio::time::timeout(SOON, readable.readable()).await.unwrap().unwrap();
            match readable.get_ref().try_get() {
                Ok(number) => break number,
                Err(Error::TimedOut) => guard.clear_ready(),
                Err(error) => panic!("{error}"),
            }
        }
    });
    assert_eq!(number, 5);
    child.join().unwrap();
}

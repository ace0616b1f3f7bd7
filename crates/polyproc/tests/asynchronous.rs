//! Streams and futures: under tokio, and under an executor that knows nothing of descriptors.
#![allow(clippy::unwrap_used, reason = "tests")]

use polyproc::{Event, Pool, Process, Queue, TaskError, asynchronous, pipe};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor that there is.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park_timeout(Duration::from_secs(20)),
        }
    }
}

fn tokio<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn count_to(numbers: pipe::Sender<u32>, most: u32) -> u32 {
    for number in 0..most {
        numbers.send(&number).unwrap();
    }
    most
}

async fn sum(most: u32) -> u32 {
    let (sender, receiver) = pipe::channel().unwrap();
    let child = Process::spawn(count_to, (sender, most)).unwrap();
    let (mut numbers, mut sum) = (receiver.into_stream(), 0);
    while let Some(number) = numbers.next().await {
        sum += number.unwrap();
    }
    assert_eq!(child.await.unwrap(), most);
    sum
}

#[test]
fn a_stream_ends_with_its_pipe() {
    assert_eq!(block_on(sum(1000)), 499_500);
    assert_eq!(tokio(sum(1000)), 499_500);
}

fn echo(requests: Queue<(u32, Queue<u32>)>) {
    while let Ok((number, reply)) = requests.get() {
        if number == 0 {
            return;
        }
        reply.put(&(number + 1)).unwrap();
    }
}

#[test]
fn a_task_waits_for_a_queue_while_others_go_on() {
    let requests = Queue::unbounded().unwrap();
    let child = Process::spawn(echo, (requests.clone(),)).unwrap();
    tokio(async {
        let replies: Queue<u32> = Queue::unbounded().unwrap();
        let mut coming = replies.stream();
        let silent: Queue<u32> = Queue::unbounded().unwrap();
        let mut nothing = silent.stream();
        for number in 1..50 {
            let late = tokio::time::timeout(Duration::from_millis(1), nothing.next()).await;
            assert!(late.is_err());
            requests.put(&(number, replies.clone())).unwrap();
            assert_eq!(coming.next().await.unwrap().unwrap(), number + 1);
        }
        requests.put(&(0, replies)).unwrap();
        child.await.unwrap();
    });
}

fn add_one(end: pipe::End<u32, u32>) {
    while let Ok(number) = end.receive() {
        end.send(&(number + 1)).unwrap();
    }
}

#[test]
fn an_end_is_a_stream_that_can_be_sent_through() {
    let (ours, theirs) = pipe::duplex().unwrap();
    let child = Process::spawn(add_one, (theirs,)).unwrap();
    block_on(async {
        let mut answers = ours.stream();
        for number in 0..20 {
            ours.send(&number).unwrap();
            assert_eq!(answers.next().await.unwrap().unwrap(), number + 1);
        }
    });
    drop(ours);
    child.join().unwrap();
}

fn stay() {
    loop {
        std::thread::park();
    }
}

#[test]
fn the_end_of_a_process_is_a_future() {
    tokio(async {
        let child = Process::spawn(stay, ()).unwrap();
        let pid = child.pid();
        let joined = child.into_future();
        let mut joined = pin!(joined);
        assert!(tokio::time::timeout(Duration::from_millis(5), joined.as_mut()).await.is_err());
        Process::spawn(kill, (pid,)).unwrap().await.unwrap();
        assert!(matches!(joined.await, Err(TaskError::Crashed { signal: 9, .. })));
    });
}

fn kill(pid: i32) {
    let outcome = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(outcome.success());
}

#[test]
fn several_wait_for_the_same_event() {
    let (go, child) = (Event::new().unwrap(), Process::spawn(|go: Event| go.set(), (Event::new().unwrap(),)).unwrap());
    let setter = Process::spawn(|go: Event| go.set(), (go.clone(),)).unwrap();
    block_on(async {
        let (one, two) = (go.clone(), go.clone());
        asynchronous::readable(&one).await.unwrap();
        asynchronous::readable(&two).await.unwrap();
        setter.await.unwrap();
        child.await.unwrap();
    });
}

#[test]
fn the_results_of_a_map_are_a_stream_each_with_its_own_error() {
    let all = async |pool: &Pool| {
        let mut inverses = pool.map(|x: u32| 60 / x, [1, 0, 3]).unwrap().into_stream();
        assert_eq!(inverses.next().await.unwrap().unwrap(), 60);
        assert!(matches!(inverses.next().await, Some(Err(TaskError::Panicked { .. }))));
        assert_eq!(inverses.next().await.unwrap().unwrap(), 20);
        assert!(inverses.next().await.is_none());
        let (mut sum, mut order) = (0, Vec::new());
        let mut squares = pool.map(|x: usize| x * x, 0..5000).unwrap().unordered().into_stream();
        while let Some((index, square)) = squares.next().await {
            sum += square.unwrap();
            order.push(index);
        }
        order.sort_unstable();
        assert!(order.into_iter().eq(0..5000));
        assert_eq!(sum, (0..5000).map(|x| x * x).sum());
    };
    let pool = Pool::builder().workers(2).build().unwrap();
    block_on(all(&pool));
    tokio(all(&pool));
}

fn first_is_slow(at: u32, go: Event) -> u32 {
    if at == 0 {
        go.wait();
    }
    at
}

#[test]
fn a_stream_of_results_as_they_come_waits_for_none_that_is_slow() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let go = Event::new().unwrap();
    let items = (0..4).map(|at| (at, go.clone()));
    let mut results = pool.starmap(first_is_slow, items).unwrap().unordered().into_stream();
    block_on(async {
        let mut others = Vec::new();
        for _ in 1..4 {
            others.push(results.next().await.unwrap().0);
        }
        others.sort_unstable();
        assert_eq!(others, [1, 2, 3]);
        go.set();
        assert_eq!(results.next().await.unwrap().1.unwrap(), 0);
        assert!(results.next().await.is_none());
    });
}

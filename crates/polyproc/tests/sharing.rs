//! Queues, pipes, locks and the rest between processes that run.
#![allow(clippy::unwrap_used, reason = "tests")]

use polyproc::pipe::{self, Descriptor, End, Receiver, Sender};
use polyproc::{
    Barrier, Bytes, Condition, Error, Event, Lock, Managed, Manager, Once, OnceLock, Process, Queue, ReentrantLock,
    RwLock, Semaphore, Shared, SharedMap, SharedSlice, SharedVec,
};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Job {
    Name(String),
    Numbers { list: Vec<u32>, factor: f64 },
    Stop,
}

fn work(jobs: Queue<Job>, done: Queue<(u32, Job)>) -> u32 {
    let mut count = 0;
    loop {
        match jobs.get().unwrap() {
            Job::Stop => return count,
            job => {
                count += 1;
                done.put(&(std::process::id(), job)).unwrap();
            }
        }
    }
}

#[test]
fn each_job_comes_to_one_worker() {
    let (jobs, done) = (Queue::bounded(8).unwrap(), Queue::unbounded().unwrap());
    let workers: Vec<_> = (0..3).map(|_| Process::spawn(work, (jobs.clone(), done.clone())).unwrap()).collect();
    for number in 0..300 {
        let job = match number % 2 {
            0 => Job::Name(format!("job {number}")),
            _ => Job::Numbers { list: (0..number).collect(), factor: 0.5 },
        };
        jobs.put(&job).unwrap();
    }
    for _ in &workers {
        jobs.put(&Job::Stop).unwrap();
    }
    let counts: Vec<u32> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
    assert_eq!(counts.iter().sum::<u32>(), 300);
    assert_eq!(done.len(), 300);
    let mut names = 0;
    while let Ok((_, job)) = done.try_get() {
        names += u32::from(matches!(job, Job::Name(_)));
    }
    assert_eq!(names, 150);
}

fn answer(requests: Queue<(u32, Queue<u32>)>) {
    while let Ok((number, reply)) = requests.get_timeout(Duration::from_secs(5)) {
        if number == 0 {
            return;
        }
        reply.put(&(number * 2)).unwrap();
    }
}

#[test]
fn a_queue_is_sent_to_a_process_that_already_runs() {
    let requests = Queue::unbounded().unwrap();
    let server = Process::spawn(answer, (requests.clone(),)).unwrap();
    for number in 1..50 {
        let reply = Queue::unbounded().unwrap();
        requests.put(&(number, reply.clone())).unwrap();
        assert_eq!(reply.get_timeout(Duration::from_secs(5)).unwrap(), number * 2);
    }
    requests.put(&(0, Queue::unbounded().unwrap())).unwrap();
    server.join().unwrap();
}

#[test]
fn a_queue_lives_in_a_message_that_nobody_has_read() {
    let outer = Queue::unbounded().unwrap();
    let inner = Queue::unbounded().unwrap();
    inner.put("still here").unwrap();
    outer.put(&inner).unwrap();
    drop(inner);
    let inner: Queue<String> = outer.get().unwrap();
    assert_eq!(inner.try_get().unwrap(), "still here");
}

/// One of each kind of handle.
#[derive(Serialize, Deserialize)]
struct All {
    locks: (Lock<u32>, ReentrantLock<u32>, RwLock<u32>),
    once: (Once, OnceLock<u32>),
    signs: (Event, Semaphore, Condition, Barrier),
    shared: (Shared<AtomicU32>, SharedSlice<u32>, SharedVec<u32>, SharedMap<u32, u32>),
    ways: (Queue<u32>, End<u32, u32>, Sender<u32>),
    managed: Managed<u32>,
    bytes: Bytes,
    file: Descriptor,
}

fn use_all(handles: Queue<All>) {
    let all = handles.get().unwrap();
    *all.locks.0.lock().unwrap() += 1;
    all.locks.1.lock().unwrap().set(1);
    *all.locks.2.write().unwrap() += 1;
    all.once.0.call_once(|| {});
    all.once.1.set(1).unwrap();
    all.signs.1.acquire().unwrap().forget();
    all.shared.0.store(1, Ordering::SeqCst);
    all.shared.1.set(0, 1);
    all.shared.2.push(1).unwrap();
    all.shared.3.insert(1, 1).unwrap();
    all.ways.0.put(&1).unwrap();
    let received = all.ways.1.receive().unwrap();
    all.ways.1.send(&(received + 1)).unwrap();
    all.ways.2.send(&(all.bytes.len() as u32)).unwrap();
    all.managed.call(|number: &mut u32| *number += 1, ()).unwrap();
    std::fs::File::from(all.file.into_owned()).write_all(b"x").unwrap();
    all.signs.0.set();
    all.signs.3.wait().unwrap();
}

#[test]
fn every_kind_of_handle_is_sent_to_a_process_that_already_runs() {
    let handles = Queue::unbounded().unwrap();
    let child = Process::spawn(use_all, (handles.clone(),)).unwrap();
    let locks = (Lock::new(0).unwrap(), ReentrantLock::new(0).unwrap(), RwLock::new(0).unwrap());
    let once = (Once::new().unwrap(), OnceLock::new().unwrap());
    let signs =
        (Event::new().unwrap(), Semaphore::new(2).unwrap(), Condition::new().unwrap(), Barrier::new(2).unwrap());
    let shared = (
        Shared::new(AtomicU32::new(0)).unwrap(),
        SharedSlice::zeroed(1).unwrap(),
        SharedVec::with_capacity(1).unwrap(),
        SharedMap::with_capacity(1).unwrap(),
    );
    let (numbers, (ours, theirs), (sender, receiver)) =
        (Queue::unbounded().unwrap(), pipe::duplex().unwrap(), pipe::channel().unwrap());
    let number = Manager::start(0).unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    handles
        .put(&All {
            locks: (locks.0.clone(), locks.1.clone(), locks.2.clone()),
            once: once.clone(),
            signs: signs.clone(),
            shared: shared.clone(),
            ways: (numbers.clone(), theirs, sender),
            managed: number.handle(),
            bytes: Bytes::from(vec![0; 70_000]),
            file: Descriptor::new(writer),
        })
        .unwrap();
    ours.send(&4).unwrap();
    assert!(signs.0.wait_timeout(Duration::from_secs(5)));
    signs.3.wait().unwrap();
    child.join().unwrap();
    assert_eq!((*locks.0.lock().unwrap(), locks.1.lock().unwrap().get(), *locks.2.read().unwrap()), (1, 1, 1));
    assert_eq!((once.0.is_completed(), once.1.get(), signs.1.available()), (true, Some(&1), 1));
    assert_eq!((shared.0.load(Ordering::SeqCst), shared.1.get(0)), (1, 1));
    assert_eq!((shared.2.to_vec(), shared.3.get(&1)), (vec![1], Some(1)));
    assert_eq!((numbers.try_get().unwrap(), ours.receive().unwrap(), receiver.receive().unwrap()), (1, 5, 70_000));
    assert_eq!(number.call(|number: &mut u32| *number, ()).unwrap(), 1);
    let mut byte = [0; 2];
    assert_eq!(std::io::Read::read(&mut reader, &mut byte).unwrap(), 1);
}

fn relay(ends: Receiver<End<u32, u32>>) {
    while let Ok(end) = ends.receive() {
        let number = end.receive().unwrap();
        end.send(&(number + 1)).unwrap();
    }
}

#[test]
fn the_end_of_a_pipe_is_sent_through_a_pipe() {
    let (sender, receiver) = pipe::channel().unwrap();
    let child = Process::spawn(relay, (receiver,)).unwrap();
    for number in 0..20 {
        let (ours, theirs) = pipe::duplex().unwrap();
        sender.send(&theirs).unwrap();
        drop(theirs);
        ours.send(&number).unwrap();
        assert_eq!(ours.receive_timeout(Duration::from_secs(5)).unwrap(), number + 1);
        assert!(matches!(ours.receive_timeout(Duration::from_secs(5)), Err(Error::EndOfFile)));
    }
    drop(sender);
    child.join().unwrap();
}

fn send_and_die(sender: Sender<Vec<u8>>) {
    sender.send(&vec![1; 10]).unwrap();
    sender.send(&vec![2; 200_000]).unwrap();
    std::process::abort();
}

#[test]
fn what_a_process_sent_before_it_died_is_received_and_then_the_end() {
    let (sender, receiver) = pipe::channel().unwrap();
    let child = Process::spawn(send_and_die, (sender,)).unwrap();
    assert_eq!(receiver.receive().unwrap(), [1; 10]);
    assert!(receiver.receive().unwrap() == [2; 200_000]);
    assert!(matches!(receiver.receive_timeout(Duration::from_secs(5)), Err(Error::EndOfFile)));
    assert!(child.join().is_err());
}

#[test]
fn sending_to_nobody_is_an_error() {
    let (sender, receiver) = pipe::channel().unwrap();
    let child = Process::spawn(drop::<Receiver<u8>>, (receiver,)).unwrap();
    child.join().unwrap();
    let outcome = (0..100).find_map(|_| {
        std::thread::sleep(Duration::from_millis(5));
        sender.send(&1).err()
    });
    assert!(matches!(outcome, Some(Error::BrokenPipe)), "{outcome:?}");
}

fn add(total: Lock<[u64; 4]>, times: u64) {
    for _ in 0..times {
        let mut total = total.lock().unwrap();
        // Torn, if two were inside.
        let next = total[0] + 1;
        *total = [next; 4];
    }
}

#[test]
fn a_lock_keeps_others_out() {
    let total = Lock::new([0; 4]).unwrap();
    let children: Vec<_> = (0..3).map(|_| Process::spawn(add, (total.clone(), 20_000)).unwrap()).collect();
    for child in children {
        child.join().unwrap();
    }
    assert_eq!(*total.lock().unwrap(), [60_000; 4]);
}

fn hold(permits: Semaphore, has: Event) {
    permits.acquire().unwrap().forget();
    has.set();
    loop {
        std::thread::park();
    }
}

#[test]
fn the_permit_of_a_killed_process_comes_back() {
    let (permits, has) = (Semaphore::new(1).unwrap(), Event::new().unwrap());
    let child = Process::spawn(hold, (permits.clone(), has.clone())).unwrap();
    assert!(has.wait_timeout(Duration::from_secs(5)));
    assert!(matches!(permits.try_acquire(), Err(Error::TimedOut)));
    child.kill().unwrap();
    assert!(permits.acquire_timeout(Duration::from_secs(5)).is_ok());
    assert!(child.join().is_err());
}

fn ping(ball: Lock<u32>, moved: Condition, mine: u32) {
    for _ in 0..100 {
        let mut guard = moved.wait_while(ball.lock().unwrap(), |ball| *ball % 2 != mine).unwrap();
        *guard += 1;
        drop(guard);
        moved.notify_all();
    }
}

#[test]
fn two_take_turns_by_a_condition() {
    let (ball, moved) = (Lock::new(0).unwrap(), Condition::new().unwrap());
    let one = Process::spawn(ping, (ball.clone(), moved.clone(), 0)).unwrap();
    let two = Process::spawn(ping, (ball.clone(), moved.clone(), 1)).unwrap();
    one.join().unwrap();
    two.join().unwrap();
    assert_eq!(*ball.lock().unwrap(), 200);
}

fn meet(meeting: Barrier, rounds: u32) -> u32 {
    (0..rounds).map(|_| u32::from(meeting.wait().unwrap())).sum()
}

#[test]
fn one_of_all_is_the_last_at_each_meeting() {
    let meeting = Barrier::new(3).unwrap();
    let children: Vec<_> = (0..3).map(|_| Process::spawn(meet, (meeting.clone(), 50)).unwrap()).collect();
    let last: u32 = children.into_iter().map(|child| child.join().unwrap()).sum();
    assert_eq!(last, 50);
}

fn read_all(files: Receiver<(String, Descriptor, Descriptor)>) -> Vec<String> {
    let mut texts = Vec::new();
    while let Ok((name, one, two)) = files.receive() {
        let texts_of = [one, two].map(|file| std::io::read_to_string(std::fs::File::from(file.into_owned())).unwrap());
        texts.push(format!("{name}: {}", texts_of.join(" ")));
    }
    texts
}

#[test]
fn descriptors_travel_with_their_message() {
    let (sender, receiver) = pipe::channel().unwrap();
    let child = Process::spawn(read_all, (receiver,)).unwrap();
    for number in 0..3 {
        let files = ["a", "b"].map(|text| {
            let (reader, mut writer) = std::io::pipe().unwrap();
            writer.write_all(format!("{text}{number}").as_bytes()).unwrap();
            Descriptor::new(reader)
        });
        let [one, two] = files;
        sender.send(&(format!("pair {number}"), one, two)).unwrap();
    }
    drop(sender);
    assert_eq!(child.join().unwrap(), ["pair 0: a0 b0", "pair 1: a1 b1", "pair 2: a2 b2"]);
}

fn add_one(cells: Shared<[AtomicU32; 100]>) {
    for cell in cells.iter() {
        cell.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn atomics_are_shared() {
    let cells = Shared::new([const { AtomicU32::new(5) }; 100]).unwrap();
    let children: Vec<_> = (0..3).map(|_| Process::spawn(add_one, (cells.clone(),)).unwrap()).collect();
    children.into_iter().for_each(|child| child.join().unwrap());
    assert!(cells.iter().all(|cell| cell.load(Ordering::Relaxed) == 8));
}

fn double(bytes: Bytes, through: Queue<Bytes>, end: End<Bytes, (u32, Bytes)>) -> Bytes {
    through.put(&bytes).unwrap();
    let (number, other) = end.receive().unwrap();
    end.send(&Bytes::from(vec![number as u8; other.len()])).unwrap();
    let mut all = bytes.to_vec();
    all.extend(other.to_vec());
    Bytes::from(all)
}

#[test]
fn bytes_travel_as_blocks_on_every_way() {
    for size in [0, 5, 100_000, 3_000_000] {
        let body: Vec<u8> = (0..size).map(|i| (i * 31 + size) as u8).collect();
        let (through, (ours, theirs)) = (Queue::unbounded().unwrap(), pipe::duplex().unwrap());
        let child = Process::spawn(double, (Bytes::from(body.clone()), through.clone(), theirs)).unwrap();
        ours.send(&(7, Bytes::from(body.clone()))).unwrap();
        assert!(through.get().unwrap().to_vec() == body);
        assert!(ours.receive().unwrap().to_vec() == vec![7; size]);
        assert!(child.join().unwrap().to_vec() == [body.clone(), body].concat());
    }
}

#[test]
fn bytes_that_arrived_are_sent_on() {
    let (one, two) = (Queue::unbounded().unwrap(), Queue::unbounded().unwrap());
    one.put(&Bytes::from(vec![9; 70_000])).unwrap();
    let arrived: Bytes = one.get().unwrap();
    two.put(&vec![arrived, Bytes::from(vec![1])]).unwrap();
    let both: Vec<Bytes> = two.get().unwrap();
    assert_eq!((both[0].len(), both[1].to_vec()), (70_000, vec![1]));
    let mut part = [0; 3];
    both[0].read(69_997, &mut part);
    assert_eq!(part, [9; 3]);
}

fn put_after(queue: Queue<u32>, go: Event) {
    go.wait();
    queue.put(&1).unwrap();
}

#[test]
fn a_queue_is_readable_while_it_has_items() {
    use polyproc_engine::Deadline;
    use polyproc_engine::sys::poll::{self, Polled};
    let (queue, go) = (Queue::unbounded().unwrap(), Event::new().unwrap());
    let child = Process::spawn(put_after, (queue.clone(), go.clone())).unwrap();
    let readable = |time| {
        let mut polled = [Polled::new(queue.descriptor().unwrap().as_raw_fd())];
        poll::wait(&mut polled, Deadline::after(Some(Duration::from_millis(time)))).unwrap() > 0
    };
    assert!(!readable(0));
    go.set();
    assert!(readable(5000));
    assert_eq!(queue.get().unwrap(), 1);
    child.join().unwrap();
    let emptied = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(2));
        !readable(0)
    });
    assert!(emptied);
}

//! Descriptors and the ends of pipes as values, on every way to another process.
#![allow(clippy::unwrap_used, reason = "tests")]

use polyproc::pipe::{self, Descriptor, End};
use polyproc::{Error, Pool, Process, Queue};
use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

/// A pipe of the system with this text in it, and nobody who could write more.
fn text(text: &str) -> Descriptor {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(text.as_bytes()).unwrap();
    Descriptor::new(reader)
}

fn read(descriptor: Descriptor) -> String {
    std::io::read_to_string(File::from(descriptor.into_owned())).unwrap()
}

fn read_all(files: Queue<Vec<Descriptor>>, texts: Queue<String>) {
    loop {
        let files = files.get().unwrap();
        if files.is_empty() {
            return;
        }
        texts.put(&files.into_iter().map(read).collect::<Vec<_>>().join(" ")).unwrap();
    }
}

#[test]
fn descriptors_go_through_a_queue() {
    let (files, texts) = (Queue::unbounded().unwrap(), Queue::unbounded().unwrap());
    let child = Process::spawn(read_all, (files.clone(), texts.clone())).unwrap();
    for round in 0..20 {
        files.put(&vec![text(&format!("a{round}")), text(&format!("b{round}"))]).unwrap();
    }
    files.put(&Vec::new()).unwrap();
    for round in 0..20 {
        assert_eq!(texts.get_timeout(SOON).unwrap(), format!("a{round} b{round}"));
    }
    child.join().unwrap();
}

#[test]
fn what_was_sent_is_closed_here_once_it_is_received() {
    let files = Queue::unbounded().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    files.put(&Descriptor::new(writer)).unwrap();
    let received: Descriptor = files.get().unwrap();
    drop(received);
    assert_eof(&mut reader);
}

#[test]
fn what_nobody_received_is_closed_with_its_queue() {
    let files = Queue::unbounded().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    files.put(&Descriptor::new(writer)).unwrap();
    drop(files);
    assert_eof(&mut reader);
}

/// Waits for the end of a pipe: for the last of those who could write to close it.
fn assert_eof(reader: &mut PipeReader) {
    assert_eq!(polyproc::wait([&*reader as &dyn std::os::fd::AsFd], Some(SOON)).unwrap(), [0]);
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

fn answer(ends: Queue<End<u32, u32>>) {
    let end = ends.get().unwrap();
    let number = end.receive().unwrap();
    end.send(&(number + 1)).unwrap();
}

#[test]
fn the_end_of_a_pipe_goes_through_a_queue_to_a_process_that_runs() {
    let ends = Queue::unbounded().unwrap();
    let child = Process::spawn(answer, (ends.clone(),)).unwrap();
    let (ours, theirs) = pipe::duplex().unwrap();
    ends.put(&theirs).unwrap();
    drop(theirs);
    ours.send(&6).unwrap();
    assert_eq!(ours.receive_timeout(SOON).unwrap(), 7);
    child.join().unwrap();
    assert!(matches!(ours.receive_timeout(SOON), Err(Error::EndOfFile)));
}

fn reverse(file: Descriptor, _padding: Vec<u8>) -> Descriptor {
    text(&read(file).chars().rev().collect::<String>())
}

#[test]
fn descriptors_are_arguments_and_results_of_the_tasks_of_a_pool() {
    let pool = Pool::builder().workers(2).build().unwrap();
    for padding in [0, 300_000] {
        let tickets: Vec<_> = (0..8)
            .map(|number| pool.submit(reverse, (text(&format!("ab{number}")), vec![1; padding])).unwrap())
            .collect();
        for (number, ticket) in tickets.into_iter().enumerate() {
            assert_eq!(read(ticket.join().unwrap()), format!("{number}ba"));
        }
    }
}

fn put_and_end(files: Queue<Descriptor>) {
    files.put(&text("late")).unwrap();
}

#[test]
fn a_process_stays_a_moment_for_what_it_has_sent() {
    let files = Queue::unbounded().unwrap();
    let child = Process::spawn(put_and_end, (files.clone(),)).unwrap();
    assert_eq!(read(files.get_timeout(SOON).unwrap()), "late");
    child.join().unwrap();
}

fn put_and_die(files: Queue<Descriptor>) {
    files.put(&text("never")).unwrap();
    std::process::abort();
}

#[test]
fn a_descriptor_whose_sender_died_is_an_error_that_says_so() {
    let files: Queue<Descriptor> = Queue::unbounded().unwrap();
    let child = Process::spawn(put_and_die, (files.clone(),)).unwrap();
    assert!(child.join().is_err());
    let error = files.get_timeout(SOON).unwrap_err().to_string();
    assert!(error.contains("must live until it is received"), "{error}");
}

#[test]
fn an_owned_descriptor_comes_out() {
    let files = Queue::unbounded().unwrap();
    files.put(&text("here")).unwrap();
    let descriptor: Descriptor = files.get().unwrap();
    let owned: OwnedFd = descriptor.into_owned();
    assert_eq!(std::io::read_to_string(File::from(owned)).unwrap(), "here");
}

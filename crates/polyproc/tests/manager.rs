//! Objects that one process owns, and what their callers see when it ends.
#![allow(clippy::unwrap_used, reason = "tests")]

use polyproc::pipe::Descriptor;
use polyproc::{Event, Managed, Manager, Process, Queue, TaskError};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

type Words = HashMap<String, Vec<String>>;

fn add(words: &mut Words, key: String, word: String) -> usize {
    let list = words.entry(key).or_default();
    list.push(word);
    list.len()
}

fn add_many(words: Managed<Words>, who: u32) {
    for number in 0..100 {
        words.call(add, ("all".to_owned(), format!("{who}:{number}"))).unwrap();
    }
}

#[test]
fn calls_of_several_processes_are_made_one_after_the_other() {
    let words = Manager::start(Words::new()).unwrap();
    let children: Vec<_> = (0..3).map(|who| Process::spawn(add_many, (words.handle(), who)).unwrap()).collect();
    children.into_iter().for_each(|child| child.join().unwrap());
    let all = words.call(|words: &mut Words| words.remove("all").unwrap(), ()).unwrap();
    assert_eq!(all.len(), 300);
    for who in 0..3 {
        let own: Vec<_> = all.iter().filter(|word| word.starts_with(&format!("{who}:"))).collect();
        assert!(own.iter().enumerate().all(|(number, word)| **word == format!("{who}:{number}")));
    }
    words.stop().unwrap();
}

#[test]
fn threads_call_at_the_same_time() {
    let total = Manager::start(0u64).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for number in 0..200u64 {
                    total.call(|total: &mut u64, number: u64| *total += number, (number,)).unwrap();
                }
            });
        }
    });
    assert_eq!(total.call(|total: &mut u64| *total, ()).unwrap(), 4 * 199 * 100);
}

fn fail(number: &mut u32, how: u32) -> u32 {
    *number += 1;
    assert!(how == 0, "told to fail");
    *number
}

#[test]
fn a_panic_is_an_error_of_its_call_and_the_object_lives_on() {
    let number = Manager::start(0).unwrap();
    match number.call(fail, (1,)) {
        Err(TaskError::Panicked { process, message, location, .. }) => {
            assert_eq!((process.pid, message.as_str()), (number.pid(), "told to fail"));
            assert!(location.unwrap().contains("manager.rs"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(number.call(fail, (0,)).unwrap(), 2);
}

fn stay(_object: &mut u32, inside: Event) -> u32 {
    inside.set();
    loop {
        std::thread::park();
    }
}

fn wait_inside(object: Managed<u32>, inside: Event) -> bool {
    matches!(object.call(stay, (inside,)), Err(TaskError::Lost { .. }))
}

#[test]
fn the_end_of_the_owner_is_an_error_at_once_for_those_who_wait_and_those_who_come() {
    let (object, inside) = (Manager::start(1).unwrap(), Event::new().unwrap());
    let handle = object.handle();
    let waiting = Process::spawn(wait_inside, (handle.clone(), inside.clone())).unwrap();
    assert!(inside.wait_timeout(SOON));
    let behind = Process::spawn(wait_inside, (handle.clone(), inside.clone())).unwrap();
    let late = object.call_timeout(|object: &mut u32| *object, (), Duration::from_millis(5));
    assert!(matches!(late, Err(TaskError::TimedOut { .. })));
    object.kill().unwrap();
    assert!(waiting.join().unwrap());
    assert!(behind.join().unwrap());
    // Who has started it is told how it ended.
    let outcome = object.call_timeout(|object: &mut u32| *object, (), SOON);
    assert!(matches!(outcome, Err(TaskError::Crashed { signal: 9, .. })), "{outcome:?}");
    assert!(matches!(handle.call(|object: &mut u32| *object, ()), Err(TaskError::Lost { .. })));
}

#[test]
fn calls_made_before_the_end_are_answered_and_later_ones_refused() {
    let list = Manager::start(Vec::new()).unwrap();
    let handle = list.handle();
    for number in 0..10u32 {
        handle.call(|list: &mut Vec<u32>, number: u32| list.push(number), (number,)).unwrap();
    }
    assert_eq!(handle.call(|list: &mut Vec<u32>| list.len(), ()).unwrap(), 10);
    drop(list);
    let outcome = (0..1000).find_map(|_| handle.call(|list: &mut Vec<u32>| list.len(), ()).err());
    assert!(matches!(outcome, Some(TaskError::Lost { .. })), "{outcome:?}");
}

/// Says when it is dropped.
struct Log(Queue<String>);

impl Drop for Log {
    fn drop(&mut self) {
        self.0.put("dropped").unwrap();
    }
}

#[test]
fn an_object_that_cannot_be_sent_is_made_where_it_lives_and_dropped_there() {
    let said = Queue::unbounded().unwrap();
    let log = Manager::start_with(Log, (said.clone(),)).unwrap();
    log.call(|log: &mut Log, text: String| log.0.put(&text).unwrap(), ("hello".to_owned(),)).unwrap();
    log.stop().unwrap();
    assert_eq!((said.try_get().unwrap(), said.try_get().unwrap()), ("hello".to_owned(), "dropped".to_owned()));
}

fn open(_: &mut (), text: Descriptor, padding: Vec<u8>) -> (String, Descriptor, usize) {
    let text = std::io::read_to_string(File::from(text.into_owned())).unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(text.to_uppercase().as_bytes()).unwrap();
    (text, Descriptor::new(reader), padding.len())
}

#[test]
fn handles_descriptors_and_long_arguments_go_both_ways() {
    let object = Manager::start(()).unwrap();
    for size in [0, 500_000] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"abc").unwrap();
        drop(writer);
        let (text, upper, length) = object.call(open, (Descriptor::new(reader), vec![0; size])).unwrap();
        assert_eq!((text.as_str(), length), ("abc", size));
        assert_eq!(std::io::read_to_string(File::from(upper.into_owned())).unwrap(), "ABC");
    }
}

//! crossmist.

use crate::load::{self, BYTE, Scale};
use crossmist::{Duplex, Sender};

#[crossmist::func]
fn nothing() {}

pub fn spawn(scale: Scale) -> f64 {
    load::each(scale.of(60), || nothing.spawn().unwrap().join().unwrap())
}

#[crossmist::func]
fn increment(mut calls: Duplex<u64, u64>) {
    while let Some(number) = calls.recv().unwrap() {
        calls.send(&(number + 1)).unwrap();
    }
}

/// It has no pool: one process that answers.
pub fn call(scale: Scale) -> f64 {
    let (mut ours, theirs) = crossmist::duplex().unwrap();
    let child = increment.spawn(theirs).unwrap();
    let mut number = 0;
    let time = load::each(scale.of(5000), || number = ours.request(&number).unwrap());
    assert_eq!(number as usize, scale.of(5000) + 1);
    drop(ours);
    child.join().unwrap();
    time
}

#[crossmist::func]
fn send_numbers(mut sender: Sender<u64>, count: u64) {
    (0..count).for_each(|number| sender.send(&number).unwrap());
}

pub fn numbers(scale: Scale) -> f64 {
    let count = scale.of(200_000) as u64;
    let (sender, mut receiver) = crossmist::channel().unwrap();
    let child = send_numbers.spawn(sender, count).unwrap();
    let rate = load::receive_numbers(count, || receiver.recv().unwrap().unwrap());
    child.join().unwrap();
    rate
}

#[crossmist::func]
fn send_messages(mut sender: Sender<Vec<u8>>, count: usize, size: usize) {
    let message = vec![BYTE; size];
    (0..count).for_each(|_| sender.send(&message).unwrap());
}

pub fn messages(scale: Scale, size: usize) -> f64 {
    let count = scale.of((256 << 20) / size);
    let (sender, mut receiver) = crossmist::channel().unwrap();
    let child = send_messages.spawn(sender, count, size).unwrap();
    let rate = load::receive_all(count, size, || load::read_slice(&receiver.recv().unwrap().unwrap()));
    child.join().unwrap();
    rate
}

//! procspawn; and ipc-channel, between this process and one that procspawn has started.

use crate::load::{self, BYTE, Scale};
use ipc_channel::ipc::{self, IpcOneShotServer, IpcReceiver, IpcSender, IpcSharedMemory};
use procspawn::{Pool, spawn as start};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub fn spawn(scale: Scale) -> f64 {
    load::each(scale.of(60), || start((), |()| ()).join().unwrap())
}

pub fn call(scale: Scale) -> f64 {
    let pool = Pool::new(1).unwrap();
    let mut number = 0u64;
    let time = load::each(scale.of(2000), || number = pool.spawn(number, |number| number + 1).join().unwrap());
    assert_eq!(number as usize, scale.of(2000) + 1);
    pool.shutdown();
    time
}

/// Starts a process that gets `task` and the name of a server to which it sends where to receive from.
fn sender<T: Serialize + DeserializeOwned>(
    task: (usize, usize),
    send: fn((String, usize, usize)),
) -> (IpcReceiver<T>, procspawn::JoinHandle<()>) {
    let (server, name) = IpcOneShotServer::<IpcReceiver<T>>::new().unwrap();
    let child = start((name, task.0, task.1), send);
    let (_, receiver) = server.accept().unwrap();
    (receiver, child)
}

fn connect<T: Serialize + DeserializeOwned>(name: String) -> IpcSender<T> {
    let (sender, receiver) = ipc::channel().unwrap();
    IpcSender::connect(name).unwrap().send(receiver).unwrap();
    sender
}

pub fn numbers(scale: Scale) -> f64 {
    let count = scale.of(200_000);
    let (receiver, child) = sender((count, 0), |(name, count, _)| {
        let sender = connect(name);
        (0..count as u64).for_each(|number| sender.send(number).unwrap());
    });
    let rate = load::receive_numbers(count as u64, || receiver.recv().unwrap());
    child.join().unwrap();
    rate
}

/// As a value: `Vec<u8>`.
pub fn messages(scale: Scale, size: usize) -> f64 {
    let count = scale.of((128 << 20) / size);
    let (receiver, child) = sender::<Vec<u8>>((count, size), |(name, count, size)| {
        let sender = connect(name);
        let message = vec![BYTE; size];
        (0..count).for_each(|_| sender.send(message.clone()).unwrap());
    });
    let rate = load::receive_all(count, size, || load::read_slice(&receiver.recv().unwrap()));
    child.join().unwrap();
    rate
}

/// As shared memory, made anew for each message.
pub fn shared_messages(scale: Scale, size: usize) -> f64 {
    let count = scale.of((512 << 20) / size);
    let (receiver, child) = sender::<IpcSharedMemory>((count, size), |(name, count, size)| {
        let sender = connect(name);
        let message = vec![BYTE; size];
        (0..count).for_each(|_| sender.send(IpcSharedMemory::from_bytes(&message)).unwrap());
    });
    let rate = load::receive_all(count, size, || load::read_slice(&receiver.recv().unwrap()));
    child.join().unwrap();
    rate
}

//! iceoryx2: publish and subscribe without overwriting. It starts no processes: procspawn does. The subscriber asks again and
//! again, which is the fastest that it offers.

use crate::load::{self, BYTE, Scale};
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::PortFactory as _;
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;
use std::path::{Path, PathBuf};
use std::time::Duration;

type Service = ipc::Service;

fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("beside-peers-{}", std::process::id()))
}

/// Its files, as long as a measurement runs.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        // One of its shared memories stays where it is.
        for file in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            if file.file_name().to_string_lossy().starts_with(&prefix(&self.0)) {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }
}

fn prefix(folder: &Path) -> String {
    format!("{}-", folder.file_name().unwrap().to_str().unwrap())
}

fn node(folder: &Path) -> Node<Service> {
    set_log_level(LogLevel::Error);
    let mut config = Config::default();
    config.global.set_root_path(&folder.to_str().unwrap().try_into().unwrap());
    config.global.prefix = prefix(folder).as_str().try_into().unwrap();
    NodeBuilder::new().config(&config).create::<Service>().unwrap()
}

fn service(node: &Node<Service>, depth: usize) -> PortFactory<Service, [u8], ()> {
    node.service_builder(&"messages".try_into().unwrap())
        .publish_subscribe::<[u8]>()
        .enable_safe_overflow(false)
        .subscriber_max_buffer_size(depth)
        .open_or_create()
        .unwrap()
}

/// Publishes `count` messages; gone once the subscriber is.
fn publish((folder, count, size, depth): (PathBuf, usize, usize, usize)) {
    let node = node(&folder);
    let service = service(&node, depth);
    let publisher: Publisher<Service, [u8], ()> = service
        .publisher_builder()
        .initial_max_slice_len(size)
        .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
        .create()
        .unwrap();
    let message = vec![BYTE; size];
    // What is sent before the subscriber has seen the publisher is not held back when its buffer is full: one, to be seen.
    publisher.loan_slice_uninit(size).unwrap().write_from_slice(&message).send().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    for number in 0..count {
        let sample = publisher.loan_slice_uninit(size).unwrap();
        if size == 8 {
            sample.write_from_slice(&(number as u64).to_ne_bytes()).send().unwrap();
        } else {
            sample.write_from_slice(&message).send().unwrap();
        }
    }
    while service.dynamic_config().number_of_subscribers() > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn subscribed(count: usize, size: usize, depth: usize, receive: impl FnOnce(&mut dyn FnMut() -> u64) -> f64) -> f64 {
    let folder = Folder(folder());
    let node = node(&folder.0);
    let service = service(&node, depth);
    let subscriber: Subscriber<Service, [u8], ()> = service.subscriber_builder().create().unwrap();
    let child = procspawn::spawn((folder.0.clone(), count, size, depth), publish);
    let mut next = || {
        loop {
            if let Some(sample) = subscriber.receive().unwrap() {
                return load::read_slice(&sample);
            }
            std::thread::yield_now();
        }
    };
    next();
    let rate = receive(&mut next);
    drop(subscriber);
    child.join().unwrap();
    rate
}

pub fn numbers(scale: Scale) -> f64 {
    let count = scale.of(500_000);
    subscribed(count, 8, 16, |receive| load::receive_numbers(count as u64, receive))
}

pub fn messages(scale: Scale, size: usize) -> f64 {
    let count = scale.of((512 << 20) / size);
    subscribed(count, size, 4, |receive| load::receive_all(count, size, receive))
}

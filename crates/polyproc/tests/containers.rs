//! Vectors and maps that several processes change.
#![allow(clippy::unwrap_used, reason = "tests")]

use polyproc::{Plain, Process, Queue, SharedMap, SharedVec};
use std::collections::HashMap;

#[derive(Clone, Copy, Debug, PartialEq, Plain)]
#[repr(C)]
struct Point {
    x: f64,
    y: f64,
    id: u64,
}

fn add_points(points: SharedVec<Point>, id: u64) {
    for n in 0..100 {
        points.push(Point { x: n as f64, y: -(n as f64), id }).unwrap();
    }
}

#[test]
fn what_several_push_is_all_there() {
    let points = SharedVec::with_capacity(300).unwrap();
    let children: Vec<_> = (0..3).map(|id| Process::spawn(add_points, (points.clone(), id)).unwrap()).collect();
    children.into_iter().for_each(|child| child.join().unwrap());
    let all = points.to_vec();
    assert_eq!(all.len(), 300);
    for id in 0..3 {
        let xs: Vec<f64> = all.iter().filter(|point| point.id == id).map(|point| point.x).collect();
        assert!(xs.iter().copied().eq((0..100).map(f64::from)));
    }
    assert!(points.push(all[0]).unwrap_err().to_string().contains("full"));
}

#[test]
fn a_vector_does_what_a_vector_does() {
    let shared = SharedVec::with_capacity(64).unwrap();
    let mut own: Vec<u32> = Vec::new();
    let mut random = 12345u32;
    for _ in 0..3000 {
        random = random.wrapping_mul(1_103_515_245).wrapping_add(12345);
        let (value, index) = (random >> 8, (random >> 4) as usize % (own.len() + 1));
        match random >> 28 {
            0..=4 if own.len() < 64 => {
                assert_eq!(shared.push(value).unwrap(), own.len());
                own.push(value);
            }
            5..=7 if own.len() < 64 => {
                shared.insert(index, value).unwrap();
                own.insert(index, value);
            }
            8 | 9 if index < own.len() => assert_eq!(shared.remove(index), Some(own.remove(index))),
            10 | 11 if index < own.len() => assert_eq!(shared.swap_remove(index), Some(own.swap_remove(index))),
            12 if index < own.len() => {
                assert_eq!(shared.set(index, value), Some(std::mem::replace(&mut own[index], value)));
            }
            13 => assert_eq!(shared.pop(), own.pop()),
            14 => {
                shared.truncate(50);
                own.truncate(50);
            }
            _ => assert_eq!(shared.get(index), own.get(index).copied()),
        }
        assert_eq!(shared.len(), own.len());
    }
    assert_eq!(shared.to_vec(), own);
    assert_eq!((shared.get(64), shared.set(64, 1), shared.remove(64)), (None, None, None));
}

#[test]
fn a_map_does_what_a_map_does() {
    let shared = SharedMap::with_capacity(50).unwrap();
    let mut own: HashMap<u64, [u8; 3]> = HashMap::new();
    let mut random = 99u64;
    for round in 0..5000u32 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (key, value) = ((random >> 33) % 60, round.to_le_bytes());
        let value = [value[0], value[1], value[2]];
        if random >> 62 != 0 && (own.len() < 50 || own.contains_key(&key)) {
            assert_eq!(shared.insert(key, value).unwrap(), own.insert(key, value));
        } else {
            assert_eq!(shared.remove(&key), own.remove(&key));
        }
        assert_eq!((shared.len(), shared.get(&key)), (own.len(), own.get(&key).copied()));
    }
    assert_eq!(shared.to_vec().into_iter().collect::<HashMap<_, _>>(), own);
    shared.clear();
    assert!(shared.is_empty() && shared.to_vec().is_empty());
    (0..50).for_each(|key| assert_eq!(shared.insert(key, [0; 3]).unwrap(), None));
    assert!(shared.insert(50, [0; 3]).unwrap_err().to_string().contains("made for 50"));
}

fn count(counts: SharedMap<u32, u64>, rounds: u32) {
    for round in 0..rounds {
        counts.update(round % 7, |count| Some(count.unwrap_or(0) + 1)).unwrap();
    }
}

#[test]
fn updates_of_several_processes_all_count() {
    let counts = SharedMap::with_capacity(7).unwrap();
    let children: Vec<_> = (0..3).map(|_| Process::spawn(count, (counts.clone(), 700)).unwrap()).collect();
    children.into_iter().for_each(|child| child.join().unwrap());
    assert_eq!((counts.len(), counts.to_vec().iter().map(|(_, count)| count).sum::<u64>()), (7, 2100));
    assert_eq!(counts.update(3, |_| None).unwrap(), None);
    assert!(!counts.contains_key(&3));
}

fn use_what_came(vectors: Queue<(SharedVec<u8>, SharedMap<u8, u8>)>) {
    let (vector, map) = vectors.get().unwrap();
    map.insert(vector.get(0).unwrap(), 2).unwrap();
}

#[test]
fn they_are_sent_to_a_process_that_runs() {
    let queue = Queue::unbounded().unwrap();
    let child = Process::spawn(use_what_came, (queue.clone(),)).unwrap();
    let (vector, map) = (SharedVec::with_capacity(1).unwrap(), SharedMap::with_capacity(1).unwrap());
    vector.push(1).unwrap();
    queue.put(&(vector, map.clone())).unwrap();
    child.join().unwrap();
    assert_eq!(map.get(&1), Some(2));
}

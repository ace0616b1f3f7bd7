//! What the ledger writes down: which task is in which lane, and which wait to be sent again. The ledger's lock is held for
//! everything here.
//!
//! Tasks that come back (their worker ended before it began them, or they were in the way of more urgent ones) wait in the
//! order of their priority, then of their numbers, which is the order in which they were submitted.

use super::place::{Flight, Place};
use super::settled::{Outcome, Room, Settled};
use super::{number_of, record};
use crate::channel::Envelope;
use crate::sys::clock::{self, Deadline};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How much work a lane may hold, in nanoseconds at the pace so far.
const AHEAD: u64 = 2_000_000;
/// Tasks that take longer than this are handed out one by one.
pub(super) const LONG: u64 = 1_000_000;
/// The most tasks in a lane.
const DEEPEST: u64 = 1024;
/// The same where they travel in bundles.
const DEEPEST_BUNDLED: u64 = 1 << 16;
/// The most tasks that are handed out to one worker before the next one gets some.
const ROUND: usize = 64;

#[derive(Debug)]
pub(super) struct Again {
    pub(super) envelope: Envelope,
    pub(super) flight: Flight,
}

#[derive(Debug)]
pub(super) struct Book {
    pub(super) places: Vec<Place>,
    /// By priority, the highest first, and number.
    pub(super) again: BTreeMap<(Reverse<i32>, u64), Again>,
    pub(super) next: u32,
    /// Nanoseconds that a task takes; zero while nobody knows.
    pub(super) pace: u64,
    pub(super) envelope: Envelope,
    /// Nothing less urgent is sent again: the face has something of this priority.
    pub(super) pressing: i32,
}

impl Default for Book {
    fn default() -> Book {
        Book {
            places: Vec::new(),
            again: BTreeMap::new(),
            next: 0,
            pace: 0,
            envelope: Envelope::new(),
            pressing: i32::MIN,
        }
    }
}

impl Book {
    pub(super) fn depth(&self) -> usize {
        match self.pace {
            0 => 1,
            pace if pace >= LONG => 1,
            pace => (AHEAD / pace).clamp(2, DEEPEST) as usize,
        }
    }

    /// How many tasks a lane may hold that come in bundles.
    fn bundled_depth(&self) -> usize {
        match self.pace {
            0 => 1,
            pace => (AHEAD / pace).clamp(1, DEEPEST_BUNDLED) as usize,
        }
    }

    /// The seat with the least to do, if it may get more.
    pub(super) fn shortest(&self) -> Option<usize> {
        let shortest = self.places.iter().enumerate().filter(|(_, place)| place.is_open());
        let (at, place) = shortest.min_by_key(|(_, place)| place.load)?;
        let deep = if place.is_bundled() { self.bundled_depth() } else { self.depth() };
        (place.load < deep).then_some(at)
    }

    /// See [`super::Ledger::room_for`].
    pub(super) fn room(&mut self, priority: i32) -> Option<Room> {
        self.pressing = priority;
        for at in 0..self.places.len() {
            let place = &self.places[at];
            if place.least < priority && place.flight.len() > 1 && place.is_open() {
                // What is less urgent and has not begun goes behind.
                self.take_back(at, usize::MAX);
            }
        }
        if !self.again.is_empty() {
            self.dispatch_again();
        }
        let place = &self.places[self.shortest()?];
        let depth = self.depth();
        let tasks = depth.saturating_sub(place.load).min(ROUND).min(place.left as usize);
        Some(Room {
            seat: place.number,
            tasks,
            ahead: place.flight.len(),
            depth: self.bundled_depth().saturating_sub(place.load),
            pace: self.pace,
            workers: self.places.iter().filter(|place| place.is_open()).count() as u32,
        })
    }

    /// Sends again what is urgent enough and there is room for.
    pub(super) fn dispatch_again(&mut self) {
        while let Some(at) = self.shortest() {
            let Some(first) = self.again.first_entry() else { return };
            if first.key().0.0 < self.pressing {
                return;
            }
            let (key, Again { mut envelope, flight }) = first.remove_entry();
            let place = &mut self.places[at];
            let mut parcel = envelope.as_parcel();
            if let Err((_, flight)) = place.put(flight, &mut parcel, true) {
                // No memory for its lane now: it waits for another time.
                let (blocks, body_in_block) = (std::mem::take(&mut parcel.blocks), parcel.body_in_block);
                envelope.take_back(blocks, body_in_block);
                self.again.insert(key, Again { envelope, flight });
                return;
            }
            place.lane.tasks.tell();
            place.stop_if_spent();
        }
    }

    fn wait_again(&mut self, envelope: Envelope, flight: Flight) {
        self.again.insert((Reverse(flight.priority), flight.id), Again { envelope, flight });
    }

    /// Takes a task out of those that wait to be sent again.
    pub(super) fn take_again(&mut self, id: u64) -> Option<Again> {
        let key = *self.again.keys().find(|(_, other)| *other == id)?;
        self.again.remove(&key)
    }

    /// Deals with the workers that have ended. True if there are results of theirs left to drain first.
    pub(super) fn bury(&mut self, envelope: &mut Envelope, settled: &mut Vec<Settled>, most: usize) -> bool {
        let mut more = false;
        let mut at = 0;
        while at < self.places.len() {
            if self.places[at].ended.is_none() {
                at += 1;
                continue;
            }
            if self.places[at].drain(envelope, settled, most) {
                more = true;
                at += 1;
                continue;
            }
            let mut place = self.places.swap_remove(at);
            let Some(ended) = place.ended.take() else { continue };
            let mut envelope = Envelope::new();
            // What lies in its lane never began.
            while let Ok(true) = place.lane.tasks.try_get(&mut envelope, Deadline::Never) {
                if envelope.kind == record::TASK
                    && let Some(id) = number_of(&envelope.inline)
                    && let Some(flight) = place.take(id)
                {
                    self.wait_again(std::mem::take(&mut envelope), flight);
                }
            }
            // What is in neither ring, it died in. There is at most one.
            let running = place.running().map_or(0, |(id, _)| id);
            for flight in std::mem::take(&mut place.flight) {
                if flight.weight > 1 && flight.id == running {
                    settled.push(Settled { id: flight.id, outcome: place.added(), kept: None, weight: 0 });
                }
                let Flight { id, kept, weight, .. } = flight;
                settled.push(Settled { id, outcome: Outcome::Died(Arc::clone(&ended)), kept, weight });
            }
            settled.push(Settled { id: 0, outcome: Outcome::Left(ended), kept: None, weight: 0 });
        }
        more
    }

    pub(super) fn balance(&mut self) {
        self.pressing = i32::MIN;
        if !self.again.is_empty() {
            return self.dispatch_again();
        }
        let Some(idle) = self.shortest() else { return };
        if !self.places[idle].flight.is_empty() {
            return;
        }
        let now = clock::now();
        let stuck = |place: &Place| {
            let state = place.lane.state();
            place.load > 1
                && !place.stopped
                && place.ended.is_none()
                && state.running.load(Ordering::Acquire) != 0
                && now.saturating_sub(state.since.load(Ordering::Relaxed)) > LONG
        };
        let busiest = self.places.iter().filter(|place| stuck(place)).max_by_key(|place| place.flight.len());
        let Some(number) = busiest.map(|place| place.number) else { return };
        let Some(at) = self.places.iter().position(|place| place.number == number) else { return };
        match self.places[at].flight.len() {
            1 => self.places[at].ask_back(),
            many => {
                self.take_back(at, many.div_ceil(2));
                self.dispatch_again();
            }
        }
    }

    /// Takes tasks that have not begun out of a lane, to be sent again.
    pub(super) fn take_back(&mut self, at: usize, most: usize) {
        let place = &mut self.places[at];
        let (mut envelope, mut back) = (Envelope::new(), Vec::new());
        for _ in 0..most {
            // With Deadline::Now: the worker itself may be at it, even stopped there.
            if !matches!(place.lane.tasks.try_get(&mut envelope, Deadline::Now), Ok(true)) {
                break;
            }
            if envelope.kind == record::STOP {
                place.stopped = false;
                if place.retired {
                    place.stop();
                }
                break;
            }
            let id = number_of(&envelope.inline).unwrap_or(0);
            if let Some(flight) = place.take(id) {
                place.left = place.left.saturating_add(1);
                back.push(Again { envelope: std::mem::take(&mut envelope), flight });
            }
        }
        place.least = place.flight.iter().map(|flight| flight.priority).min().unwrap_or(i32::MAX);
        for Again { envelope, flight } in back {
            self.wait_again(envelope, flight);
        }
    }
}

//! The jobs of a pool that are not settled, by their numbers.
//!
//! Numbers are given in order, and most jobs are over in about that order: so they lie in a row, where one is found without
//! searching and a million need no table that is larger than the memory's caches. The few that stay long are moved out of
//! the row, which would otherwise keep a place for every job since.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use super::function::Spread;
use super::job::Job;

/// A row of this length may be mostly empty.
const SHORT: usize = 1024;

pub struct Row<T> {
    row: VecDeque<Option<T>>,
    /// The number of the first in the row.
    first: u32,
    /// How many there are in the row.
    live: usize,
    old: HashMap<u32, T, BuildHasherDefault<Spread>>,
}

pub type Jobs = Row<Arc<Job>>;

impl<T> Default for Row<T> {
    fn default() -> Row<T> {
        Row { row: VecDeque::new(), first: 0, live: 0, old: HashMap::default() }
    }
}

impl<T> Row<T> {
    /// Adds the next one. Numbers may be left out, but do not go back.
    pub fn insert(&mut self, number: u32, job: T) {
        if self.row.is_empty() {
            self.first = number;
        }
        while self.first.wrapping_add(self.row.len() as u32) != number {
            self.row.push_back(None);
        }
        self.row.push_back(Some(job));
        self.live += 1;
    }

    #[inline]
    pub fn get(&self, number: u32) -> Option<&T> {
        let place = self.row.get(number.wrapping_sub(self.first) as usize);
        place.and_then(Option::as_ref).or_else(|| if self.old.is_empty() { None } else { self.old.get(&number) })
    }

    pub fn remove(&mut self, number: u32) -> Option<T> {
        let place = self.row.get_mut(number.wrapping_sub(self.first) as usize);
        let Some(job) = place.and_then(Option::take) else { return self.old.remove(&number) };
        self.live -= 1;
        let sparse = |row: &VecDeque<_>, live| row.len() > SHORT && row.len() / 4 > live;
        while matches!(self.row.front(), Some(None)) || sparse(&self.row, self.live) {
            if let Some(Some(job)) = self.row.pop_front() {
                self.old.insert(self.first, job);
                self.live -= 1;
            }
            self.first = self.first.wrapping_add(1);
        }
        Some(job)
    }

    pub fn is_empty(&self) -> bool {
        self.live == 0 && self.old.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let row = self.row.iter().enumerate();
        let row = row.filter_map(|(at, job)| Some((self.first.wrapping_add(at as u32), job.as_ref()?)));
        row.chain(self.old.iter().map(|(number, job)| (*number, job)))
    }
}

#[cfg(test)]
mod tests {
    use super::Row;

    #[test]
    fn one_that_stays_does_not_keep_places_for_all_that_come_after() {
        let mut row = Row::default();
        row.insert(7, "stays");
        for number in 8..100_000 {
            row.insert(number, "goes");
            assert_eq!(row.get(number), Some(&"goes"));
            assert_eq!(row.remove(number), Some("goes"));
            assert_eq!(row.remove(number), None);
        }
        assert!(row.row.len() <= 2 * super::SHORT);
        assert_eq!(row.get(7), Some(&"stays"));
        assert_eq!(row.iter().collect::<Vec<_>>(), [(7, &"stays")]);
        assert_eq!(row.remove(7), Some("stays"));
        assert!(row.is_empty());
    }

    #[test]
    fn numbers_begin_again() {
        let mut row = Row::default();
        for number in [u32::MAX - 1, u32::MAX, 1, 2, 5] {
            row.insert(number, number);
        }
        assert_eq!(row.remove(u32::MAX - 1), Some(u32::MAX - 1));
        assert_eq!(row.remove(1), Some(1));
        assert_eq!(row.get(0), None);
        assert_eq!(row.iter().map(|(number, _)| number).collect::<Vec<_>>(), [u32::MAX, 2, 5]);
    }
}

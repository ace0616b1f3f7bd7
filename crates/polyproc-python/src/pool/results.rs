//! What has come of the tasks of a list, as it came.
//!
//! ```text
//!  runs    3 ─▶ 512 results in one piece of memory, 515 ─▶ …     what travelled in bundles
//!  pages   256 places each, made when the first of them is filled     what travelled alone
//! ```
//!
//! So a million results of bundles cost their bytes and little else, and nothing is made for tasks that are not done.

use std::collections::BTreeMap;
use std::ops::Range;

use super::job::Raw;

const PAGE: u32 = 256;

type Page = Box<[Option<Raw>]>;

/// Results that came together: entries of [`super::cargo`], from `at` on.
pub struct Run {
    pub count: u32,
    pub bytes: Box<[u8]>,
    pub at: usize,
}

/// A part of the results, in the order of the tasks.
pub enum Piece {
    One(Option<Raw>),
    Run(Run),
}

/// The results of a list of tasks.
#[derive(Default)]
pub struct Results {
    count: u32,
    runs: BTreeMap<u32, Run>,
    pages: Vec<Option<Page>>,
}

impl Results {
    pub fn new(count: u32) -> Results {
        let mut pages = Vec::new();
        pages.resize_with(count.div_ceil(PAGE) as usize, || None);
        Results { count, runs: BTreeMap::new(), pages }
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    fn run_of(&self, index: u32) -> Option<(u32, &Run)> {
        let (&first, run) = self.runs.range(..=index).next_back()?;
        (index - first < run.count).then_some((first, run))
    }

    pub fn has(&self, index: u32) -> bool {
        let page = self.pages.get((index / PAGE) as usize).and_then(Option::as_ref);
        page.is_some_and(|page| page.get((index % PAGE) as usize).is_some_and(Option::is_some))
            || self.run_of(index).is_some()
    }

    /// Fills a place. Gives the result back if there is one already, or no such task.
    pub fn put(&mut self, index: u32, raw: Raw) -> Result<(), Raw> {
        if index >= self.count || (!self.runs.is_empty() && self.run_of(index).is_some()) {
            return Err(raw);
        }
        let Some(page) = self.pages.get_mut((index / PAGE) as usize) else { return Err(raw) };
        let page = page.get_or_insert_with(|| (0..PAGE).map(|_| None).collect());
        match page.get_mut((index % PAGE) as usize) {
            Some(place @ None) => {
                *place = Some(raw);
                Ok(())
            }
            _ => Err(raw),
        }
    }

    /// Fills the places from `first` on. False if any of them is filled already (what a worker sent just before its death is
    /// found twice), or there are no such tasks.
    pub fn put_run(&mut self, first: u32, run: Run) -> bool {
        let end = first.saturating_add(run.count);
        if run.count == 0 || end > self.count || self.runs.range(first..end).next().is_some() {
            return false;
        }
        let pages = self.pages.get((first / PAGE) as usize..end.div_ceil(PAGE) as usize).unwrap_or_default();
        if self.run_of(first).is_some() || (pages.iter().any(Option::is_some) && (first..end).any(|at| self.has(at))) {
            return false;
        }
        self.runs.insert(first, run);
        true
    }

    /// Fills whatever is not filled.
    pub fn fill(&mut self, raw: impl Fn() -> Raw) {
        for index in self.missing(0..self.count) {
            let _ = self.put(index, raw());
        }
    }

    /// The tasks of these that have no result.
    pub fn missing(&self, tasks: Range<u32>) -> Vec<u32> {
        tasks.filter(|&index| !self.has(index)).collect()
    }

    /// The first task of these that has no result.
    pub fn first_missing(&self, mut tasks: Range<u32>) -> Option<u32> {
        tasks.find(|&index| !self.has(index))
    }

    /// All of them, in the order of the tasks.
    pub fn into_pieces(mut self) -> impl Iterator<Item = (u32, Piece)> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let index = next;
            if index >= self.count {
                return None;
            }
            if let Some(run) = self.runs.remove(&index) {
                next += run.count;
                return Some((index, Piece::Run(run)));
            }
            next += 1;
            let page = self.pages.get_mut((index / PAGE) as usize).and_then(Option::as_mut);
            let raw = page.and_then(|page| page.get_mut((index % PAGE) as usize)).and_then(Option::take);
            if next % PAGE == 0 {
                self.pages[(index / PAGE) as usize] = None;
            }
            Some((index, Piece::One(raw)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Piece, Raw, Results, Run};

    fn run(count: u32) -> Run {
        Run { count, bytes: Box::default(), at: 0 }
    }

    #[test]
    fn what_comes_twice_counts_once() {
        let mut results = Results::new(1000);
        assert!(results.put_run(10, run(300)));
        assert!(!results.put_run(10, run(300)));
        assert!(!results.put_run(300, run(20)));
        assert!(!results.put_run(0, run(11)));
        assert!(!results.put_run(990, run(11)));
        assert!(results.put(309, Raw::Cancelled).is_err());
        assert!(results.put(310, Raw::Cancelled).is_ok());
        assert!(results.put(310, Raw::Cancelled).is_err());
        assert!(results.put(1000, Raw::Cancelled).is_err());
        assert!(!results.put_run(310, run(2)));
        assert_eq!(results.first_missing(10..1000), Some(311));
        assert_eq!(results.missing(0..1000).len(), 699);
    }

    #[test]
    fn pieces_come_in_the_order_of_the_tasks() {
        let mut results = Results::new(600);
        assert!(results.put_run(300, run(299)));
        assert!(results.put(0, Raw::Broken).is_ok());
        results.fill(|| Raw::Terminated);
        let mut seen = Vec::new();
        for (index, piece) in results.into_pieces() {
            match piece {
                Piece::One(raw) => {
                    assert_eq!(matches!(raw, Some(Raw::Broken)), index == 0);
                    assert!(raw.is_some());
                    seen.push(index);
                }
                Piece::Run(run) => seen.extend(index..index + run.count),
            }
        }
        assert_eq!(seen, (0..600).collect::<Vec<_>>());
    }
}

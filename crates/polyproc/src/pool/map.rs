//! The results of many tasks, in their order or as they come.

use super::desk::{self, Group};
use super::{Pool, Ticket};
use crate::task::Place;
use crate::{Result, TaskError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::iter::Fuse;
use std::marker::PhantomData;
use std::sync::Arc;

/// How many tasks may be ahead of the result that is asked for.
const AHEAD: usize = 4096;

/// The results of [`Pool::map`], in order.
pub struct Map<'a, T, R, I: Iterator<Item = T>> {
    pool: &'a Pool,
    place: Place,
    items: Fuse<I>,
    ahead: VecDeque<Result<Ticket<R>>>,
    item: PhantomData<fn(T)>,
}

impl<'a, T, R, I: Iterator<Item = T>> Map<'a, T, R, I> {
    pub(super) fn new(pool: &'a Pool, place: Place, items: I) -> Map<'a, T, R, I> {
        Map { pool, place, items: items.fuse(), ahead: VecDeque::new(), item: PhantomData }
    }

    /// The results as they come, each with the index of its item: for when the slowest must not hold up the others.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(2).build()?;
    /// let mut sum = 0;
    /// for (index, square) in pool.map(|x: usize| x * x, 0..10)?.unordered() {
    ///     let square = square.unwrap();
    ///     assert_eq!(square, index * index);
    ///     sum += square;
    /// }
    /// assert_eq!(sum, 285);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn unordered(self) -> Unordered<'a, T, R, I> {
        let Map { pool, place, items, .. } = self;
        Unordered {
            pool,
            place,
            items,
            next: 0,
            group: Arc::default(),
            out: HashMap::new(),
            refused: VecDeque::new(),
            item: PhantomData,
        }
    }
}

impl<T: Serialize, R: DeserializeOwned, I: Iterator<Item = T>> Iterator for Map<'_, T, R, I> {
    type Item = Result<R, TaskError>;

    fn next(&mut self) -> Option<Result<R, TaskError>> {
        // Refilled when a quarter is gone, so that filling and waiting do not alternate.
        if self.ahead.len() < AHEAD / 4 * 3 {
            while self.ahead.len() < AHEAD
                && let Some(item) = self.items.next()
            {
                self.ahead.push_back(self.pool.submit_at(self.place, &(item,), None));
            }
        }
        match self.ahead.pop_front()? {
            Ok(ticket) => Some(ticket.join()),
            Err(error) => Some(Err(refused(&error))),
        }
    }
}

fn refused(error: &crate::Error) -> TaskError {
    TaskError::Codec { process: desk::this_process(), detail: error.to_string() }
}

impl<T, R, I: Iterator<Item = T>> fmt::Debug for Map<'_, T, R, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map").field("ahead", &self.ahead.len()).finish_non_exhaustive()
    }
}

/// The results of [`Map::unordered`], as they come.
pub struct Unordered<'a, T, R, I: Iterator<Item = T>> {
    pool: &'a Pool,
    place: Place,
    items: Fuse<I>,
    next: usize,
    group: Arc<Group>,
    /// By the number of the task: the index of its item.
    out: HashMap<u64, (usize, Ticket<R>)>,
    /// Items that could not be sent.
    refused: VecDeque<(usize, TaskError)>,
    item: PhantomData<fn(T)>,
}

impl<T: Serialize, R: DeserializeOwned, I: Iterator<Item = T>> Iterator for Unordered<'_, T, R, I> {
    type Item = (usize, Result<R, TaskError>);

    fn next(&mut self) -> Option<(usize, Result<R, TaskError>)> {
        if self.out.len() < AHEAD / 4 * 3 {
            while self.out.len() < AHEAD
                && let Some(item) = self.items.next()
            {
                let index = self.next;
                self.next += 1;
                match self.pool.submit_at(self.place, &(item,), Some(&self.group)) {
                    Ok(ticket) => drop(self.out.insert(ticket.id, (index, ticket))),
                    Err(error) => self.refused.push_back((index, refused(&error))),
                }
            }
        }
        if let Some((index, error)) = self.refused.pop_front() {
            return Some((index, Err(error)));
        }
        while !self.out.is_empty() {
            let id = self.pool.desk.wait_any(&self.group);
            if let Some((index, ticket)) = self.out.remove(&id) {
                return Some((index, ticket.join()));
            }
        }
        None
    }
}

impl<T, R, I: Iterator<Item = T>> fmt::Debug for Unordered<'_, T, R, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unordered").field("out", &self.out.len()).finish_non_exhaustive()
    }
}

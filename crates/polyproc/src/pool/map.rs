//! The results of many tasks, in their order or as they come.

use super::books::{Group, Policy};
use super::outcome::this_process;
use super::progress::{Bar, Progress, Watched};
use super::terms::submit_at;
use super::{Pool, Ticket};
use crate::TaskError;
use crate::task::{Place, Task};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::iter::Fuse;
use std::sync::Arc;

/// While the tasks that wait weigh more than so many bytes, a map takes no more items than its workers need.
const HEAVY: usize = 64 << 20;

/// The items of an iterator, each as the only argument of a task.
#[doc(hidden)]
#[derive(Debug)]
pub struct Single<I>(pub(super) I);

impl<I: Iterator> Iterator for Single<I> {
    type Item = (I::Item,);

    fn next(&mut self) -> Option<(I::Item,)> {
        self.0.next().map(|item| (item,))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

/// Where tasks come from.
pub(super) struct Source<'a, I: Iterator> {
    pub(super) pool: &'a Pool,
    place: Result<Place, String>,
    policy: Policy,
    most: usize,
    items: Fuse<I>,
}

impl<'a, I: Iterator> Source<'a, I> {
    pub(super) fn new(
        pool: &'a Pool,
        place: Result<Place, String>,
        policy: Policy,
        most: usize,
        items: I,
    ) -> Source<'a, I> {
        Source { pool, place, policy, most, items: items.fuse() }
    }

    /// True if it is time to submit more: when a quarter is gone, so that filling and waiting do not alternate.
    fn is_low(&self, out: usize) -> bool {
        out < self.most - self.most / 4
    }

    fn has_room(&self, out: usize) -> bool {
        out < self.most && (out < 2 * self.pool.workers() || self.pool.desk.weight() < HEAVY)
    }

    /// Submits the next item; an error if that cannot be sent.
    fn submit<R>(&mut self, group: Option<&Arc<Group>>) -> Option<Result<Ticket<R>, TaskError>>
    where
        I::Item: Serialize,
    {
        let item = self.items.next()?;
        let desk = &self.pool.desk;
        let submitted = match &self.place {
            Ok(place) => submit_at(desk, *place, &item, self.policy, group).map_err(|error| error.to_string()),
            Err(why) => Err(why.clone()),
        };
        Some(submitted.map_err(|detail| TaskError::Codec { process: this_process(), detail }))
    }

    fn size_hint(&self, out: usize) -> (usize, Option<usize>) {
        let (least, most) = self.items.size_hint();
        (least.saturating_add(out), most.and_then(|most| most.checked_add(out)))
    }
}

/// The results of [`Pool::map`], in order. Dropping it gives up what no worker was sent yet.
///
/// # Examples
/// ```
/// use polyproc::Pool;
/// let pool = Pool::builder().workers(2).build()?;
/// let squares = pool.map(|x: u32| x * x, 1..=3)?;
/// assert_eq!(squares.map(Result::unwrap).sum::<u32>(), 14);
/// # Ok::<(), polyproc::Error>(())
/// ```
#[must_use = "items are taken as results are asked for"]
pub struct Map<'a, R, I: Iterator> {
    source: Source<'a, I>,
    pub(super) ahead: VecDeque<Result<Ticket<R>, TaskError>>,
}

impl<'a, R, I: Iterator> Map<'a, R, I> {
    pub(super) fn new(source: Source<'a, I>) -> Map<'a, R, I> {
        Map { source, ahead: VecDeque::new() }
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
    pub fn unordered(self) -> Unordered<'a, R, I> {
        Unordered { source: self.source, next: 0, group: Arc::default(), out: HashMap::new(), refused: VecDeque::new() }
    }

    /// Tells `tell` how far it is, with each result.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(2).build()?;
    /// let mut seen = Vec::new();
    /// let tell = |progress: &polyproc::pool::Progress| seen.push((progress.done, progress.failed));
    /// pool.map(|x: u32| 1 / x, [1, 0, 2])?.progress(tell).for_each(drop);
    /// assert_eq!(seen, [(1, 0), (2, 1), (3, 1)]);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn progress<F: FnMut(&Progress)>(self, tell: F) -> Watched<Self, F>
    where
        Self: Iterator,
    {
        Watched::new(self, tell)
    }

    /// Draws a bar on standard error, if that is a terminal.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(2).build()?;
    /// let total: u64 = pool.map(|x: u64| x, 0..100)?.progress_bar("adding").map(Result::unwrap).sum();
    /// assert_eq!(total, 4950);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn progress_bar(self, label: &str) -> Watched<Self, impl FnMut(&Progress)>
    where
        Self: Iterator,
    {
        let mut bar = Bar::new(label);
        Watched::new(self, move |progress| bar.draw(progress))
    }
}

impl<R, I: Iterator<Item: Serialize>> Map<'_, R, I> {
    /// Submits what there is room for.
    pub(super) fn fill(&mut self) {
        if self.source.is_low(self.ahead.len()) {
            while self.source.has_room(self.ahead.len())
                && let Some(submitted) = self.source.submit(None)
            {
                self.ahead.push_back(submitted);
            }
        }
    }
}

impl<R: DeserializeOwned, I: Iterator<Item: Serialize>> Iterator for Map<'_, R, I> {
    type Item = Result<R, TaskError>;

    fn next(&mut self) -> Option<Result<R, TaskError>> {
        self.fill();
        Some(self.ahead.pop_front()?.and_then(Ticket::join))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.source.size_hint(self.ahead.len())
    }
}

impl<R, I: Iterator> fmt::Debug for Map<'_, R, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map").field("ahead", &self.ahead.len()).finish_non_exhaustive()
    }
}

/// The results of [`Map::unordered`], as they come. Dropping it gives up what no worker was sent yet.
///
/// # Examples
/// ```
/// use polyproc::Pool;
/// let pool = Pool::builder().workers(2).build()?;
/// let squares = pool.map(|x: u32| x * x, 1..=3)?.unordered();
/// assert_eq!(squares.map(|(_, square)| square.unwrap()).sum::<u32>(), 14);
/// # Ok::<(), polyproc::Error>(())
/// ```
#[must_use = "items are taken as results are asked for"]
pub struct Unordered<'a, R, I: Iterator> {
    pub(super) source: Source<'a, I>,
    next: usize,
    pub(super) group: Arc<Group>,
    /// By the number of the task: the index of its item.
    pub(super) out: HashMap<u64, (usize, Ticket<R>)>,
    /// Items that could not be sent.
    pub(super) refused: VecDeque<(usize, TaskError)>,
}

impl<R, I: Iterator> Unordered<'_, R, I> {
    /// As [`Map::progress`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(2).build()?;
    /// let mut done = 0;
    /// pool.map(|x: u32| x, 0..4)?.unordered().progress(|progress| done = progress.done).for_each(drop);
    /// assert_eq!(done, 4);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn progress<F: FnMut(&Progress)>(self, tell: F) -> Watched<Self, F>
    where
        Self: Iterator,
    {
        Watched::new(self, tell)
    }

    /// As [`Map::progress_bar`].
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// let pool = Pool::builder().workers(2).build()?;
    /// assert_eq!(pool.map(|x: u32| x, 0..4)?.unordered().progress_bar("four").count(), 4);
    /// # Ok::<(), polyproc::Error>(())
    /// ```
    pub fn progress_bar(self, label: &str) -> Watched<Self, impl FnMut(&Progress)>
    where
        Self: Iterator,
    {
        let mut bar = Bar::new(label);
        Watched::new(self, move |progress| bar.draw(progress))
    }
}

impl<R, I: Iterator<Item: Serialize>> Unordered<'_, R, I> {
    /// Submits what there is room for.
    pub(super) fn fill(&mut self) {
        if self.source.is_low(self.out.len()) {
            while self.source.has_room(self.out.len())
                && let Some(submitted) = self.source.submit(Some(&self.group))
            {
                let index = self.next;
                self.next += 1;
                match submitted {
                    Ok(ticket) => drop(self.out.insert(ticket.id(), (index, ticket))),
                    Err(error) => self.refused.push_back((index, error)),
                }
            }
        }
    }
}

impl<R: DeserializeOwned, I: Iterator<Item: Serialize>> Iterator for Unordered<'_, R, I> {
    type Item = (usize, Result<R, TaskError>);

    fn next(&mut self) -> Option<(usize, Result<R, TaskError>)> {
        self.fill();
        if let Some((index, error)) = self.refused.pop_front() {
            return Some((index, Err(error)));
        }
        while !self.out.is_empty() {
            let id = self.source.pool.desk.wait_any(&self.group);
            if let Some((index, ticket)) = self.out.remove(&id) {
                return Some((index, ticket.join()));
            }
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.source.size_hint(self.out.len() + self.refused.len())
    }
}

impl<R, I: Iterator> fmt::Debug for Unordered<'_, R, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unordered").field("out", &self.out.len()).finish_non_exhaustive()
    }
}

/// Mapping over any iterator, as [rayon](https://docs.rs/rayon)'s `par_iter().map(…)` does it, in processes.
///
/// # Examples
/// ```
/// use polyproc::prelude::*;
///
/// fn heavy(n: u64) -> u64 {
///     (1..=n).product()
/// }
///
/// let pool = Pool::new()?;
/// let results = (1..=20).par_map(&pool, heavy).collect::<Result<Vec<u64>, _>>();
/// assert_eq!(results.unwrap()[19], 2_432_902_008_176_640_000);
/// # Ok::<(), polyproc::Error>(())
/// ```
pub trait ParMap: IntoIterator + Sized {
    /// Runs `function` over the items in the workers of `pool`; gives the results in order, each a [`Result`], since each task
    /// may die alone. As [`Pool::map`], but a function that cannot run there is an error of each item.
    fn par_map<F>(self, pool: &Pool, function: F) -> Map<'_, F::Output, Single<Self::IntoIter>>
    where
        F: Task<(Self::Item,)>,
        Self::Item: Serialize,
    {
        let _ = function;
        let place = Place::of::<F, (Self::Item,)>().map_err(|error| error.to_string());
        Map::new(pool.with().source(place, Single(self.into_iter())))
    }
}

impl<I: IntoIterator> ParMap for I {}

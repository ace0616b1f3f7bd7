//! The results of a map, for those who have no thread to wait with.

use super::map::{Map, Unordered};
use crate::TaskError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

/// What can be polled for results.
mod source {
    use super::{Context, Poll};

    pub trait Source: Unpin {
        type Outcome;
        fn poll_outcome(&mut self, context: &mut Context<'_>) -> Poll<Option<Self::Outcome>>;
        fn left(&self) -> (usize, Option<usize>);
    }
}

use source::Source;

impl<R: DeserializeOwned, I: Iterator<Item: Serialize> + Unpin> Source for Map<'_, R, I> {
    type Outcome = Result<R, TaskError>;

    fn poll_outcome(&mut self, context: &mut Context<'_>) -> Poll<Option<Self::Outcome>> {
        self.fill();
        if let Some(Ok(ticket)) = self.ahead.front_mut() {
            let outcome = std::task::ready!(Pin::new(ticket).poll(context));
            self.ahead.pop_front();
            return Poll::Ready(Some(outcome));
        }
        // One that could not be sent, or the end.
        Poll::Ready(self.ahead.pop_front().map(|refused| refused.and_then(super::Ticket::join)))
    }

    fn left(&self) -> (usize, Option<usize>) {
        self.size_hint()
    }
}

impl<R: DeserializeOwned, I: Iterator<Item: Serialize> + Unpin> Source for Unordered<'_, R, I> {
    type Outcome = (usize, Result<R, TaskError>);

    fn poll_outcome(&mut self, context: &mut Context<'_>) -> Poll<Option<Self::Outcome>> {
        self.fill();
        if let Some((index, error)) = self.refused.pop_front() {
            return Poll::Ready(Some((index, Err(error))));
        }
        while !self.out.is_empty() {
            let id = std::task::ready!(self.source.pool.desk.poll_any(&self.group, context.waker()));
            if let Some((index, ticket)) = self.out.remove(&id) {
                return Poll::Ready(Some((index, ticket.join())));
            }
        }
        Poll::Ready(None)
    }

    fn left(&self) -> (usize, Option<usize>) {
        self.size_hint()
    }
}

/// The results of a [`Map`] or an [`Unordered`], as they come: a [`futures_core::Stream`]. Made by [`Map::into_stream`] and
/// [`Unordered::into_stream`]. Dropping it gives up what no worker was sent yet.
///
/// # Examples
/// ```
/// use polyproc::Pool;
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let pool = Pool::builder().workers(2).build()?;
/// let mut squares = pool.map(|x: u32| x * x, 1..=3)?.into_stream();
/// let mut sum = 0;
/// while let Some(square) = squares.next().await {
///     sum += square.unwrap();
/// }
/// assert_eq!(sum, 14);
/// # Ok::<(), polyproc::Error>(())
/// # }).unwrap();
/// ```
#[must_use = "items are taken as results are asked for"]
pub struct Results<M> {
    map: M,
}

impl<M: Source> Results<M> {
    /// The next result; `None` at the end.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let pool = Pool::builder().workers(1).build()?;
    /// let mut halves = pool.map(|x: u32| x / 2, [8])?.into_stream();
    /// assert_eq!(halves.next().await.unwrap().unwrap(), 4);
    /// assert!(halves.next().await.is_none());
    /// # Ok::<(), polyproc::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn next(&mut self) -> Option<M::Outcome> {
        poll_fn(|context| self.map.poll_outcome(context)).await
    }
}

impl<M: Source> futures_core::Stream for Results<M> {
    type Item = M::Outcome;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<M::Outcome>> {
        self.map.poll_outcome(context)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.map.left()
    }
}

impl<M> fmt::Debug for Results<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Results").finish_non_exhaustive()
    }
}

impl<'a, R, I: Iterator> Map<'a, R, I> {
    /// The results, in order, without a thread that waits. With the feature `async`.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let pool = Pool::builder().workers(2).build()?;
    /// let mut lengths = pool.map(|word: String| word.len(), ["a", "bb"].map(String::from))?.into_stream();
    /// assert_eq!(lengths.next().await.unwrap().unwrap(), 1);
    /// assert_eq!(lengths.next().await.unwrap().unwrap(), 2);
    /// # Ok::<(), polyproc::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn into_stream(self) -> Results<Map<'a, R, I>> {
        Results { map: self }
    }
}

impl<'a, R, I: Iterator> Unordered<'a, R, I> {
    /// The results as they come, each with the index of its item, without a thread that waits. With the feature `async`.
    ///
    /// # Examples
    /// ```
    /// use polyproc::Pool;
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let pool = Pool::builder().workers(2).build()?;
    /// let mut squares = pool.map(|x: usize| x * x, 0..10)?.unordered().into_stream();
    /// while let Some((index, square)) = squares.next().await {
    ///     assert_eq!(square.unwrap(), index * index);
    /// }
    /// # Ok::<(), polyproc::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn into_stream(self) -> Results<Unordered<'a, R, I>> {
        Results { map: self }
    }
}

//! How far a map is: told to a function, or drawn as a line on the terminal.

use crate::TaskError;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How far a map is. See [`Map::progress`](super::Map::progress).
///
/// # Examples
/// ```
/// use polyproc::{Pool, pool::Progress};
/// let pool = Pool::builder().workers(2).build()?;
/// let mut last = Progress::default();
/// pool.map(|x: u32| 1 / x, [1, 0, 2])?.progress(|progress| last = *progress).for_each(drop);
/// assert_eq!((last.done, last.failed, last.total), (3, 1, Some(3)));
/// # Ok::<(), polyproc::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// How many results have been given.
    pub done: usize,
    /// How many of them were errors.
    pub failed: usize,
    /// How many there will be, if the iterator knows how many items it has.
    pub total: Option<usize>,
}

/// What a map gives: a result, or one with the index of its item.
#[doc(hidden)]
pub trait Outcome {
    /// It is an error.
    fn has_failed(&self) -> bool;
}

impl<R> Outcome for Result<R, TaskError> {
    fn has_failed(&self) -> bool {
        self.is_err()
    }
}

impl<R> Outcome for (usize, Result<R, TaskError>) {
    fn has_failed(&self) -> bool {
        self.1.is_err()
    }
}

/// The results of a map, with somebody told of each. Made by [`Map::progress`](super::Map::progress) and
/// [`Map::progress_bar`](super::Map::progress_bar).
///
/// # Examples
/// ```
/// use polyproc::Pool;
/// let pool = Pool::builder().workers(2).build()?;
/// let watched = pool.map(|x: u32| x + 1, [1, 2])?.progress(|progress| assert!(progress.done <= 2));
/// assert_eq!(watched.map(Result::unwrap).collect::<Vec<_>>(), [2, 3]);
/// # Ok::<(), polyproc::Error>(())
/// ```
#[must_use = "items are taken as results are asked for"]
pub struct Watched<I, F> {
    results: I,
    tell: F,
    progress: Progress,
}

impl<I: Iterator, F: FnMut(&Progress)> Watched<I, F> {
    pub(super) fn new(results: I, tell: F) -> Watched<I, F> {
        let (least, most) = results.size_hint();
        let progress = Progress { total: most.filter(|&most| most == least), ..Progress::default() };
        Watched { results, tell, progress }
    }
}

impl<I, F> Iterator for Watched<I, F>
where
    I: Iterator<Item: Outcome>,
    F: FnMut(&Progress),
{
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        let result = self.results.next()?;
        self.progress.done += 1;
        self.progress.failed += usize::from(result.has_failed());
        (self.tell)(&self.progress);
        Some(result)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.results.size_hint()
    }
}

impl<I, F> fmt::Debug for Watched<I, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("progress", &self.progress).finish_non_exhaustive()
    }
}

/// How often a bar is drawn anew.
const REDRAWN: Duration = Duration::from_millis(100);
const WIDTH: usize = 30;

/// A line on standard error, if that is a terminal; ended, and left there, when it goes.
pub(super) struct Bar {
    label: String,
    since: Instant,
    drawn: Option<Instant>,
    last: Progress,
    shown: bool,
}

impl Bar {
    pub(super) fn new(label: &str) -> Bar {
        let shown = std::io::stderr().is_terminal();
        Bar { label: label.to_owned(), since: Instant::now(), drawn: None, last: Progress::default(), shown }
    }

    pub(super) fn draw(&mut self, progress: &Progress) {
        self.last = *progress;
        let now = Instant::now();
        if self.shown && self.drawn.is_none_or(|drawn| now - drawn >= REDRAWN) {
            self.drawn = Some(now);
            self.write("");
        }
    }

    fn write(&self, end: &str) {
        let line = line(&self.label, &self.last, self.since.elapsed());
        // A terminal that is gone must not end the work.
        let _ = write!(std::io::stderr().lock(), "\r\x1b[K{line}{end}");
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            self.write("\n");
        }
    }
}

/// What the line says after some time.
fn line(label: &str, progress: &Progress, elapsed: Duration) -> String {
    let Progress { done, failed, total } = *progress;
    let mut line = match total {
        Some(total) => {
            let filled = (done * WIDTH).checked_div(total).unwrap_or(WIDTH).min(WIDTH);
            format!("{label} [{}{}] {done}/{total}", "=".repeat(filled), " ".repeat(WIDTH - filled))
        }
        None => format!("{label} {done} done"),
    };
    if failed > 0 {
        line.push_str(&format!(", {failed} failed"));
    }
    let rest = total.map_or(0, |total| total.saturating_sub(done));
    if rest > 0 && done > 0 {
        line.push_str(&format!(", {:.0} s left", elapsed.as_secs_f64() / done as f64 * rest as f64));
    } else {
        line.push_str(&format!(", {:.1} s", elapsed.as_secs_f64()));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_says_how_far_it_is_and_how_long_it_will_take() {
        let progress = Progress { done: 5, failed: 1, total: Some(20) };
        let bar = line("thumbnails", &progress, Duration::from_secs(10));
        assert_eq!(bar, "thumbnails [=======                       ] 5/20, 1 failed, 30 s left");
        let all = Progress { done: 20, failed: 0, total: Some(20) };
        assert!(line("", &all, Duration::from_millis(1500)).ends_with("] 20/20, 1.5 s"));
        let endless = Progress { done: 7, failed: 0, total: None };
        assert_eq!(line("items", &endless, Duration::from_secs(2)), "items 7 done, 2.0 s");
        assert!(line("none", &Progress { total: Some(0), ..endless }, Duration::ZERO).contains("7/0"));
    }
}

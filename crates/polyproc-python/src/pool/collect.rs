//! From what the ledger has settled to the jobs: results, deaths, second attempts, and how often workers end unready.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use polyproc_engine::pool::{self, Ended, Settled};

use super::cargo::{self, RESULT_HEAD, verdict};
use super::desk::{Books, Desk, Pending};
use super::feed::AUTOMATIC;
use super::job::{Job, Raw};
use super::results::Run;

impl Desk {
    /// Collects what came from the workers. Needs no interpreter.
    pub fn collect(&self) -> bool {
        let mut settled = Vec::new();
        let mut any = false;
        loop {
            let more = self.ledger.drain(&mut settled);
            any |= !settled.is_empty();
            if !settled.is_empty() {
                self.book(&mut settled);
            }
            if !more {
                return any;
            }
        }
    }

    fn book(&self, settled: &mut Vec<Settled>) {
        let mut over = false;
        let mut dropped = Vec::new();
        let mut books = self.books();
        let mut last: Option<Arc<Job>> = None;
        for Settled { id, outcome, mut kept, weight } in settled.drain(..) {
            let outcome = match outcome {
                pool::Outcome::Done(bytes) if bytes.first() == Some(&verdict::ENTRIES) => pool::Outcome::Part(bytes),
                other => other,
            };
            let raw = match outcome {
                pool::Outcome::Part(bytes) => {
                    let (first, count) = (cargo::number(&bytes, 1).unwrap_or(0), cargo::number(&bytes, 5).unwrap_or(0));
                    let run = Run { count, bytes, at: 9 };
                    over |= self.book_run(&mut books, id, first, run, weight);
                    continue;
                }
                pool::Outcome::Added(first, count, bytes) => {
                    over |= self.book_run(&mut books, id, first, Run { count, bytes, at: 0 }, 0);
                    continue;
                }
                pool::Outcome::LargePart(mut envelope) => {
                    let place = cargo::number(&envelope.inline, RESULT_HEAD).unwrap_or(0);
                    if envelope.inline.len() >= RESULT_HEAD + 4 {
                        envelope.inline.drain(RESULT_HEAD - 1..RESULT_HEAD + 4);
                    }
                    if let Some(job) = books.jobs.get((id >> 32) as u32).cloned()
                        && job.settle((id as u32).wrapping_add(place), Raw::Large(Box::new(envelope)))
                    {
                        over = true;
                        self.close_job(&mut books, &job);
                    }
                    continue;
                }
                pool::Outcome::Died(ended) if weight > 1 => {
                    over |= self.book_bundle_death(&mut books, id, &ended, weight);
                    continue;
                }
                pool::Outcome::Done(bytes) => Raw::Small(bytes),
                pool::Outcome::Large(envelope) => Raw::Large(Box::new(envelope)),
                pool::Outcome::Died(ended) => Raw::Died(ended, kept.take()),
                pool::Outcome::Note(note) => {
                    books.note = Some(note);
                    continue;
                }
                pool::Outcome::Left(ended) => {
                    self.vacant.store(true, Ordering::SeqCst);
                    books.ends.push(ended);
                    over = true;
                    continue;
                }
            };
            let (number, index) = ((id >> 32) as u32, id as u32);
            let known = last.take().filter(|job| job.number == number);
            let Some(job) = known.or_else(|| books.jobs.get(number).cloned()) else {
                dropped.push(raw);
                continue;
            };
            let (raw, again) = once_more(&job, index, raw, kept);
            if let Some(again) = again {
                books.put_back(again);
                dropped.push(raw);
            } else if job.settle(index, raw) {
                over = true;
                self.close_job(&mut books, &job);
            }
            last = Some(job);
        }
        drop(books);
        drop(dropped);
        if over {
            self.wake_followers();
        }
    }

    /// Results of a bundle; of `weight` tasks, if no more will come of it. True if its job is over.
    fn book_run(&self, books: &mut Books, id: u64, first: u32, run: Run, weight: u32) -> bool {
        let Some(job) = books.jobs.get((id >> 32) as u32).cloned() else { return false };
        let (begin, done) = (id as u32, first.saturating_add(run.count));
        let over = job.settle_run(begin.wrapping_add(first), run);
        if over {
            self.close_job(books, &job);
        } else if done < weight {
            // The worker was asked to leave the rest to others.
            rest(books, job, begin + done..begin + weight);
        }
        over
    }

    /// A worker died in a bundle: one of its tasks died, those before it are settled, those behind it are done by others.
    fn book_bundle_death(&self, books: &mut Books, id: u64, ended: &Arc<Ended>, weight: u32) -> bool {
        let Some(job) = books.jobs.get((id >> 32) as u32).cloned() else { return false };
        let end = (id as u32).saturating_add(weight);
        let Some(culprit) = job.first_unsettled(id as u32..end) else { return false };
        let cancelled = ended.because.is_some();
        let last = if cancelled { end } else { culprit + 1 };
        let mut over = false;
        for index in culprit..last {
            over |= job.settle(index, Raw::Died(Arc::clone(ended), None));
        }
        if over {
            self.close_job(books, &job);
        } else if last < end {
            rest(books, job, last..end);
        }
        over
    }
}

/// These tasks of a list are to be sent again, first of all.
fn rest(books: &mut Books, job: Arc<Job>, tasks: std::ops::Range<u32>) {
    let (style, chunk) = (job.style, AUTOMATIC);
    let pending = Pending::Items { job, items: None, style, next: tasks.start, count: tasks.end, chunk };
    books.put_back(pending);
}

/// The task again, if it failed in a way in which it may be done again.
fn once_more(job: &Arc<Job>, index: u32, mut raw: Raw, kept: Option<Box<[u8]>>) -> (Raw, Option<Pending>) {
    if job.policy.retries == 0 && job.policy.error_retries == 0 {
        return (raw, None);
    }
    let (after_death, record) = match &mut raw {
        Raw::Died(ended, kept) if ended.because.is_none() => (true, kept.take()),
        Raw::Small(bytes) if bytes.first() == Some(&verdict::ERROR) => (false, kept),
        _ => return (raw, None),
    };
    if !job.may_retry(after_death, index, record.is_some()) {
        if let Raw::Died(_, kept) = &mut raw {
            *kept = record;
        }
        return (raw, None);
    }
    let job = Arc::clone(job);
    let again = match record {
        Some(record) => Pending::Ready { job, index, record },
        None => Pending::Again { job, index },
    };
    (raw, Some(again))
}

//! What a ledger tells: where tasks should go, and what became of them.

use crate::channel::Envelope;
use crate::process::Status;
use crate::shm::Handle;
use std::sync::Arc;

/// A worker's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its number, never used twice by one ledger.
    pub number: u32,
    /// The lane, for [`super::Worker::attach`].
    pub handle: Handle,
}

/// How a worker ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The seat that it had.
    pub seat: u32,
    /// Its pid.
    pub pid: i32,
    /// How it ended.
    pub status: Status,
    /// It had said that it was ready for tasks.
    pub was_ready: bool,
    /// It was ended for the sake of the task that it ran.
    pub because: Option<Because>,
    /// It was killed, and so often had the kernel killed for want of memory in our cgroup, before and after: more often
    /// after. A kill is told of once.
    pub kills: Option<(u64, u64)>,
}

/// Why a ledger ends a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// The task took too long.
    TimedOut,
    /// Nobody wants the task's result any more.
    Cancelled,
    /// The task took this much more memory than it found, in bytes, which is more than it may.
    TookTooMuch(u64),
}

/// When a worker is to be replaced.
#[derive(Clone, Copy, Debug, Default)]
pub struct Life {
    /// After so many units.
    pub tasks: Option<u32>,
    /// After the first task at whose end it has more memory of its own than this, in bytes: see
    /// [`crate::sys::memory::own`].
    pub memory: Option<u64>,
}

/// How a task is to be treated.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// It counts against what the worker may be sent.
    pub begins_unit: bool,
    /// How many tasks it is: more than one for a bundle.
    pub weight: u32,
    /// The higher goes first, among those that have not begun.
    pub priority: i32,
    /// How much more memory than it found it may take, in bytes: see [`Because::TookTooMuch`].
    pub memory: Option<u64>,
}

impl Default for Terms {
    fn default() -> Terms {
        Terms { begins_unit: true, weight: 1, priority: 0, memory: None }
    }
}

/// What could be done about a task that nobody wants any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    /// It had not begun, and will not: it counts as settled.
    Unbegun,
    /// It runs; its worker is being ended, and it will be settled by that.
    Running,
    /// The ledger does not have it, or could not stop its worker in it.
    Unknown,
}

/// What became of a task.
#[derive(Debug)]
pub enum Outcome {
    /// Its result, small: the face's bytes.
    Done(Box<[u8]>),
    /// Its result, with blocks: the record, which begins with the task's number.
    Large(Envelope),
    /// It is a bundle: results of some of its tasks, the face's bytes. The rest comes later.
    Part(Box<[u8]>),
    /// The same, with blocks: the record.
    LargePart(Envelope),
    /// It is a bundle that its worker died in: the entries that were added and not sent, the place of the first, and how
    /// many they are.
    Added(u32, u32, Box<[u8]>),
    /// Its worker died in it.
    Died(Arc<Ended>),
    /// Not a task: a worker's word that belongs to none.
    Note(Box<[u8]>),
    /// Not a task: a worker ended. Its own tasks are settled or will be done by others.
    Left(Arc<Ended>),
}

/// A task that is over.
#[derive(Debug)]
pub struct Settled {
    /// Its number; zero for what belongs to no task.
    pub id: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// What was given to [`Ledger::send`](super::Ledger::send) to be kept.
    pub kept: Option<Box<[u8]>>,
    /// How many tasks it is: more than one for a bundle.
    pub weight: u32,
}

/// Where the next tasks should go.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// The seat.
    pub seat: u32,
    /// How many tasks it should get.
    pub tasks: usize,
    /// How many it has.
    pub ahead: usize,
    /// How many it may have beside those, all in all.
    pub depth: usize,
    /// Nanoseconds that a task takes; zero while nobody knows.
    pub pace: u64,
    /// How many workers share what is left.
    pub workers: u32,
}

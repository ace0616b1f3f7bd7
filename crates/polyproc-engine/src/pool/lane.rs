//! A lane: one ring each way between a ledger and one worker, and what the worker says of itself beside them.
//!
//! ```text
//!  cell of the lane:  worker │ ready │ running │ since │ base │ busy │ done │ handles: hub, tasks, results
//!  cell of the hub:   news
//! ```
//!
//! The ledger makes it and keeps it to itself (a fork does not pass its hold on); the worker takes hold of it by its handle.
//! So a lane ends with its ledger and its worker, whatever other children the program has.
//!
//! DEATH of the worker: its lane is nobody's but the ledger's, which reads what is left in it. Nobody else is concerned.

use crate::Result;
use crate::channel::ring::Ring;
use crate::shm::{self, CellState, Death, Handle, Hold, Kind, Memory};
use crate::sync::signal;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bytes of a lane's scratch memory.
pub(super) const SCRATCH: usize = 32 * 1024;

/// How far a worker is in a bundle of tasks: from `first` on, `count` results lie in the first `bytes` bytes of the scratch
/// memory; what came before was sent. One word, so that a death finds it whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) bytes: u32,
}

impl Progress {
    const BITS: u32 = 20;
    const MASK: u64 = (1 << Progress::BITS) - 1;

    pub(super) fn of(bits: u64) -> Progress {
        let part = |at: u32| ((bits >> (at * Progress::BITS)) & Progress::MASK) as u32;
        Progress { first: part(2), count: part(1), bytes: part(0) }
    }

    pub(super) fn bits(self) -> u64 {
        (u64::from(self.first) << (2 * Progress::BITS))
            | (u64::from(self.count) << Progress::BITS)
            | u64::from(self.bytes)
    }
}

/// | field | written by | order |
/// | --- | --- | --- |
/// | news | workers, and who wakes the ledger; only in the hub's cell | see [`crate::sync::signal`] |
/// | worker | the worker, when it attaches | Release, after nothing |
/// | ready | the worker, when it is about to take its first task | Release |
/// | running | the worker: before a task counts as taken, and after its result is committed | Release; read after its death |
/// | since | the worker, before `running`: when it began, in nanoseconds of the monotonic clock | Relaxed |
/// | busy, done | the worker: nanoseconds in tasks, and how many | Relaxed: an estimate |
/// | weighs | the ledger, before it puts in a task whose memory is limited: the worker is to write `base` from now on | Release; Acquire |
/// | base | the worker, before `running`, if it is to: how much memory of its own it had when the task began | Relaxed, as `since` |
/// | limit | the ledger, once: with more memory of its own than this the worker takes no further task; zero for none | |
/// | progress | the worker, in a bundle: how many results lie in the scratch memory, [`Progress`] | Release, after they do |
/// | asked | the ledger: the bundle of which it wants back what has not begun | Relaxed: sooner or later |
/// | hub, tasks, results, scratch | the ledger, once, before anybody has the handle | |
#[repr(C)]
pub(super) struct LaneState {
    pub(super) news: AtomicU32,
    pub(super) worker: AtomicU32,
    pub(super) running: AtomicU64,
    pub(super) since: AtomicU64,
    pub(super) busy: AtomicU64,
    pub(super) done: AtomicU64,
    pub(super) progress: AtomicU64,
    pub(super) base: AtomicU64,
    pub(super) limit: AtomicU64,
    pub(super) asked: AtomicU64,
    pub(super) ready: AtomicU32,
    pub(super) weighs: AtomicU32,
    hub: [AtomicU32; 2],
    tasks: [AtomicU32; 2],
    results: [AtomicU32; 2],
    scratch: [AtomicU32; 2],
}

// SAFETY: plain atomics, 112 bytes, aligned to 8.
unsafe impl CellState for LaneState {
    const KIND: Kind = Kind::Lane;
}

fn write(words: &[AtomicU32; 2], handle: Handle) {
    words[0].store(handle.cell, Ordering::Relaxed);
    words[1].store(handle.generation, Ordering::Relaxed);
}

fn read(words: &[AtomicU32; 2]) -> Handle {
    Handle { cell: words[0].load(Ordering::Relaxed), generation: words[1].load(Ordering::Relaxed) }
}

/// The word that all workers of a ledger ring.
pub(super) fn new_hub() -> Result<Hold> {
    let hub = shm::create::<LaneState>(|_| {})?;
    hub.keep_to_ourselves();
    Ok(hub)
}

/// One end of a lane.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) hold: Hold,
    pub(super) hub: Hold,
    pub(super) tasks: Ring,
    pub(super) results: Ring,
    pub(super) scratch: Memory,
}

impl Lane {
    /// A new lane of this hub, kept to this process.
    pub(super) fn new(hub: &Hold, limit: u64) -> Result<Lane> {
        let (tasks, results) = (Ring::new(0, false)?, Ring::new(0, false)?);
        let scratch = Memory::allocate(SCRATCH)?;
        let hold = shm::create::<LaneState>(|state| {
            state.limit.store(limit, Ordering::Relaxed);
            write(&state.scratch, scratch.handle());
            write(&state.hub, hub.handle());
            write(&state.tasks, tasks.hold().handle());
            write(&state.results, results.hold().handle());
        })?;
        for hold in [&hold, tasks.hold(), results.hold(), scratch.hold()] {
            hold.keep_to_ourselves();
        }
        Ok(Lane { hold, hub: hub.clone(), tasks, results, scratch })
    }

    /// The lane of a handle.
    pub(super) fn open(handle: Handle) -> Result<Lane> {
        let hold = Hold::take(handle, Kind::Lane)?;
        let state = hold.state::<LaneState>();
        let hub = Hold::take(read(&state.hub), Kind::Lane)?;
        let tasks = Ring::from_handle(read(&state.tasks))?;
        let results = Ring::from_handle(read(&state.results))?;
        let scratch = Memory::from_handle(read(&state.scratch))?;
        Ok(Lane { hold, hub, tasks, results, scratch })
    }

    /// Lets a child that will be exec'd find it.
    pub(super) fn share_with(&self, child: shm::Participant) {
        for hold in [&self.hold, &self.hub, self.tasks.hold(), self.results.hold(), self.scratch.hold()] {
            hold.share_with(child);
        }
    }

    #[inline]
    pub(super) fn state(&self) -> &'static LaneState {
        self.hold.state()
    }

    /// Wakes all who wait for news of this hub.
    #[inline]
    pub(super) fn tell_hub(&self) {
        signal::notify(&self.hub.state::<LaneState>().news, u32::MAX);
    }
}

/// Whoever waits for news looks again.
pub(crate) fn on_death(cell: u32, _death: &Death) {
    let state = shm::cell(cell).state::<LaneState>();
    let hub = shm::cell(read(&state.hub).cell);
    if hub.kind() == Kind::Lane {
        signal::wake_all(&hub.state::<LaneState>().news);
    }
}

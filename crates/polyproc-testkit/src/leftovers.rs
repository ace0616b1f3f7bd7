//! What there is of objects, memory, descriptors and children: before and after it must be the same.

use polyproc_engine::Error;
use polyproc_engine::shm::{self, Census, Lease};

/// What there is at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leftovers {
    /// Objects that are alive.
    pub objects: u32,
    /// Blocks among them.
    pub blocks: u32,
    /// Cells that are lost.
    pub lost: u32,
    /// Processes that have a slot.
    pub participants: u32,
    /// Bytes that are reserved, by the session's own count, when no idle block keeps any.
    pub reserved: u64,
    /// The same, by the blocks.
    pub reserved_by_blocks: u64,
    /// Open descriptors of this process.
    pub descriptors: usize,
    /// Children of this process, the dead ones included.
    pub children: usize,
}

/// Sweeps the dead, gives idle memory back, and looks.
pub fn look() -> Leftovers {
    shm::sweep_dead();
    empty_idle_blocks();
    let Census { objects, blocks, idle: _, lost, participants, reserved: reserved_by_blocks } = shm::census();
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let children = std::fs::read_to_string("/proc/thread-self/children").map_or(0, |t| t.split_whitespace().count());
    let reserved = shm::reserved().expect("a session");
    Leftovers { objects, blocks, lost, participants, reserved, reserved_by_blocks, descriptors, children }
}

/// A session whose budget is used up gives the pages of all its idle blocks back, at once.
fn empty_idle_blocks() {
    let budget = shm::budget().expect("a session");
    shm::set_budget(0).expect("a session");
    let outcome = Lease::allocate(1 << 36);
    shm::set_budget(budget).expect("a session");
    assert!(matches!(outcome, Err(Error::BudgetExhausted { .. })), "an allocation beyond the budget: {outcome:?}");
}

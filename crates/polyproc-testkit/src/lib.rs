//! polyproc-testkit: what tests of death need.
//!
//! * [`child`]: forked processes that are waited for with a deadline, and killed by their pid.
//! * [`item`]: numbered, checksummed messages, which show what is lost, doubled or torn.
//! * [`ledger`]: a shared memory in which processes write down what they have done, so that it survives them.
//! * [`leftovers`]: what there is of objects, memory, descriptors and children, to be the same before and after.
//! * [`trial`]: one process dies at one kill point, and the others go on.
//!
//! The drivers are this crate's tests: `tests/kill_points` kills a process at every point in turn, `tests/kill_storm.rs` at
//! random moments, `tests/zygote_points.rs` at the points between a program, its zygote and their child.

pub mod child;
pub mod item;
pub mod ledger;
pub mod leftovers;
pub mod trial;

/// True for a kill point that only a birth from a zygote passes: a program of its own has to die there.
pub fn at_birth(point: &str) -> bool {
    ["request.", "zygote.", "newborn."].iter().any(|layer| point.starts_with(layer))
}

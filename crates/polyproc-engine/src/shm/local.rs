//! What this process knows of itself: its name in the session, how many of its objects use each hold, and its leases.
//!
//! All of it is private memory. A fork copies it; the handlers in [`super::fork`] take the lock first and put the child's
//! own name in place.

use super::participant::Participant;
use crate::Result;
use crate::sys::memfd;
use std::collections::{HashMap, HashSet, hash_map};
use std::hash::BuildHasherDefault;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lease as this process has it.
pub(super) struct LocalLease {
    /// Where its bytes are mapped, and how many they are.
    pub address: usize,
    pub offset: u64,
    pub length: u64,
    /// Mapped privately since a fork: what is written here nobody else sees.
    pub private: bool,
}

/// Hashes numbers of cells, which nobody outside chooses: random keys would cost every new process a system call.
type Hasher = BuildHasherDefault<hash_map::DefaultHasher>;

#[derive(Default)]
pub(super) struct Local {
    /// How many objects of this process use its hold on a cell.
    pub holds: HashMap<u32, u32, Hasher>,
    /// Cells that this process holds for itself: a fork does not pass them on.
    pub kept: HashSet<u32, Hasher>,
    pub leases: HashMap<u32, LocalLease, Hasher>,
    /// Blocks whose pages stand in this process's page tables: how often they had been emptied by then, and how many bytes.
    pub populated: HashMap<u32, (u32, u64), Hasher>,
    /// Keeps the lock on this process's life byte.
    pub life: Option<OwnedFd>,
    /// While a fork is under way: the child's name and life descriptor.
    pub newborn: Option<(Participant, OwnedFd)>,
}

static LOCAL: Mutex<Option<Local>> = Mutex::new(None);

/// This process's name stands on a page that a fork wipes, so that a child that was cloned past all handlers finds out on
/// its first operation, for the price of one load.
static NAME: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());

pub(super) fn lock() -> MutexGuard<'static, Option<Local>> {
    LOCAL.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with<R>(f: impl FnOnce(&mut Local) -> R) -> R {
    f(lock().get_or_insert_default())
}

/// Makes the page for the name of this process, or of those that it will fork.
pub(super) fn prepare() -> Result<()> {
    if NAME.load(Ordering::Relaxed).is_null() {
        let page = memfd::page_wiped_on_fork()?;
        NAME.store(page.cast(), Ordering::Release);
    }
    Ok(())
}

/// Makes this process `me`.
pub(super) fn adopt(me: Participant, life: OwnedFd) -> Result<()> {
    prepare()?;
    with(|local| local.life = Some(life));
    rename(me);
    Ok(())
}

pub(super) fn rename(me: Participant) {
    // SAFETY: NAME points to a page that is never unmapped.
    unsafe { &*NAME.load(Ordering::Acquire) }.store(me.bits(), Ordering::Release);
}

/// This process's name in the session. There must be a session.
#[inline]
pub(crate) fn me() -> Participant {
    let name = NAME.load(Ordering::Acquire);
    debug_assert!(!name.is_null());
    // SAFETY: there is a session, so the page was made, and it is never unmapped.
    let bits = unsafe { &*name }.load(Ordering::Relaxed);
    if bits != 0 { Participant::from_bits(bits) } else { super::fork::sign_in_late() }
}

/// One more object of this process uses its hold on the cell. True if it already held it.
pub(super) fn adopt_hold(cell: u32) -> bool {
    with(|local| {
        let count = local.holds.entry(cell).or_insert(0);
        *count += 1;
        *count > 1
    })
}

/// From now on a fork does not pass this hold on.
pub(super) fn keep_hold(cell: u32) {
    with(|local| local.kept.insert(cell));
}

/// One object fewer uses the hold; `last` runs if it was the last one, before anybody here can take hold again.
pub(super) fn drop_hold(cell: u32, last: impl FnOnce()) {
    with(|local| {
        if let Some(count) = local.holds.get_mut(&cell) {
            *count -= 1;
            if *count == 0 {
                local.holds.remove(&cell);
                local.kept.remove(&cell);
                last();
            }
        }
    });
}

pub(super) fn adopt_lease(cell: u32, lease: LocalLease) {
    with(|local| local.leases.insert(cell, lease));
}

/// Forgets a lease; `last` gets it and gives the block back.
pub(super) fn drop_lease(cell: u32, last: impl FnOnce(LocalLease)) {
    with(|local| {
        if let Some(lease) = local.leases.remove(&cell) {
            if lease.private {
                local.populated.remove(&cell);
            }
            last(lease);
        }
    });
}

/// True if the first `length` bytes of a block were mapped into this process's page tables, and not emptied since.
pub(super) fn is_populated(cell: u32, emptied: u32, length: u64) -> bool {
    with(|local| local.populated.get(&cell).is_some_and(|&(then, bytes)| then == emptied && bytes >= length))
}

pub(super) fn note_populated(cell: u32, emptied: u32, length: u64) {
    with(|local| local.populated.insert(cell, (emptied, length)));
}

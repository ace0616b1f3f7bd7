//! The session: one memory for a program and all its children.
//!
//! The first process that makes a shared object creates it. A forked child finds the mapping where its parent had it; an
//! exec'd child gets two descriptors (the memfd, and the life descriptor of the slot that its parent reserved for it) and
//! maps the memory at a place of its own. Nothing has a name, so nothing is left when the last process ends.

use super::directory::Cell;
use super::layout::{Header, Layout, MAGIC, VERSION};
use super::participant::{FREE, LIVE, Participant, STATE, Slot};
use super::{fork, local};
use crate::sys::{clock, descriptor, life, memfd, memory, proc};
use crate::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

const LARGEST: u64 = 1 << 40;
const SMALLEST: u64 = 1 << 26;

/// This process's view of the session.
pub(crate) struct Session {
    base: *mut u8,
    layout: Layout,
    memfd: OwnedFd,
    inode: (u64, u64),
}

// SAFETY: the mapping is shared memory that is only touched through atomics and raw pointers.
unsafe impl Send for Session {}
// SAFETY: as above.
unsafe impl Sync for Session {}

static CURRENT: AtomicPtr<Session> = AtomicPtr::new(std::ptr::null_mut());
static OPENING: Mutex<()> = Mutex::new(());

/// The session of this process; the first call creates it.
///
/// # Errors
/// [`Error::Unsupported`] where the system refuses memfd_create, [`Error::Os`] where there is no memory or descriptor.
pub(crate) fn session() -> Result<&'static Session> {
    // ORDER: Acquire, partner of the Release in `publish`.
    let known = CURRENT.load(Ordering::Acquire);
    if !known.is_null() {
        // SAFETY: a published session lives as long as the program.
        return Ok(unsafe { &*known });
    }
    let _opening = OPENING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let known = CURRENT.load(Ordering::Acquire);
    if !known.is_null() {
        // SAFETY: as above.
        return Ok(unsafe { &*known });
    }
    let session = create()?;
    let (birth, descriptor) = session.reserve_slot(Participant::NOBODY)?;
    publish(session, birth, descriptor)
}

/// The session, where the caller knows that there is one because it holds one of its objects.
#[inline]
pub(crate) fn known() -> &'static Session {
    let known = CURRENT.load(Ordering::Acquire);
    assert!(!known.is_null(), "an object of the session outlived the session");
    // SAFETY: a published session lives as long as the program.
    unsafe { &*known }
}

/// Makes sure that this process has a session, creating one if need be: to be called before the first child is started.
pub fn current() -> Result<()> {
    session().map(drop)
}

/// True if this process has a session.
pub fn exists() -> bool {
    !CURRENT.load(Ordering::Acquire).is_null()
}

fn publish(session: Session, me: Participant, life: OwnedFd) -> Result<&'static Session> {
    let session = Box::leak(Box::new(session));
    local::adopt(me, life)?;
    fork::watch()?;
    CURRENT.store(session, Ordering::Release);
    session.sign(me);
    Ok(session)
}

/// Does now, once, what each process would do when it joins a session: for a process that will fork those that do.
///
/// # Errors
/// [`Error::Os`] where there is no memory.
pub fn prepare() -> Result<()> {
    memory::page_size();
    local::prepare()?;
    fork::watch()
}

fn create() -> Result<Session> {
    let budget = default_budget()?;
    let mut size = LARGEST;
    if let Some(limit) = memory::limit() {
        while size > limit / 2 && size > SMALLEST {
            size /= 2;
        }
    }
    let (memfd, base) = loop {
        let made = memfd::create(size).and_then(|fd| Ok((memfd::map(fd.as_fd(), size)?, fd)));
        match made {
            Ok((base, fd)) => break (fd, base),
            Err(e)
                if size > SMALLEST && matches!(e.raw_os_error(), Some(libc::ENOMEM | libc::EFBIG | libc::EINVAL)) =>
            {
                size /= 2;
            }
            Err(e) => return Err(e),
        }
    };
    let layout = Layout::of(size);
    let header = Header {
        magic: MAGIC,
        version: VERSION,
        slots: layout.slots,
        cells: layout.cells,
        padding: 0,
        id: proc::random(),
        size,
        blocks: layout.blocks_at,
        slots_top: AtomicU32::new(1),
        cells_top: AtomicU32::new(1),
        budget: budget.into(),
        reserved: 0.into(),
        blocks_top: layout.blocks_at.into(),
        free_cell: AtomicU32::new(0),
        free_blocks: [const { AtomicU32::new(0) }; super::layout::CLASSES],
        directory: super::layout::Line(AtomicU32::new(0)),
        sweep: super::layout::Line(AtomicU32::new(0)),
    };
    // SAFETY: the mapping starts with at least a page, and nobody else has it yet.
    unsafe { base.cast::<Header>().write(header) };
    // A program that closed its standard streams must not find the session memory in their place.
    let memfd = descriptor::above_standard_streams(memfd)?;
    let inode = descriptor::file_of(memfd.as_fd())?;
    Ok(Session { base, layout, memfd, inode })
}

fn default_budget() -> Result<u64> {
    const NAME: &str = "POLYPROC_MEMORY_BUDGET";
    let Ok(value) = std::env::var(NAME) else { return Ok(memory::available() / 2) };
    parse_bytes(&value).ok_or(Error::Setting { name: NAME, value, wanted: "a number of bytes, or one with K, M or G" })
}

/// "123", "64K", "512M", "2G".
fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, unit) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (&text[..at], 1 << 10),
        (at, 'm' | 'M') => (&text[..at], 1 << 20),
        (at, 'g' | 'G') => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(unit)
}

/// What a parent hands to an exec'd child: two descriptors and its name.
#[derive(Clone, Copy, Debug)]
pub struct Descriptors {
    /// The session memory.
    pub memfd: RawFd,
}

/// The descriptors of this process's session.
pub fn descriptors() -> Result<Descriptors> {
    Ok(Descriptors { memfd: session()?.memfd()?.as_raw_fd() })
}

/// Joins the session of the parent, in an exec'd child that was handed its descriptors. Both then belong to the engine
/// and are closed on exec.
///
/// A process that is of that session already (the copy of a server, forked at the request of another member) moves to the
/// place that was prepared for it, with all that it holds.
///
/// # Errors
/// [`Error::Foreign`] if this process already has another session; [`Error::Damaged`] if the memory is not a session's, or
/// was made by another version of the engine.
///
/// # Safety
/// The two descriptors must be open, and belong to the caller.
pub unsafe fn attach(memfd: RawFd, life: RawFd, me: Participant) -> Result<()> {
    // SAFETY: the caller owns both descriptors.
    let (memfd, life) = unsafe { (OwnedFd::from_raw_fd(memfd), OwnedFd::from_raw_fd(life)) };
    let _opening = OPENING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if exists() {
        return if descriptor::file_of(memfd.as_fd())? == known().inode {
            fork::move_to(me, life);
            Ok(())
        } else {
            Err(Error::Foreign { what: "session" })
        };
    }
    for fd in [&memfd, &life] {
        descriptor::close_on_exec(fd)?;
    }
    let size = memfd::size(memfd.as_fd())?;
    let damaged = |detail| Error::Damaged { what: "session", detail };
    if size < SMALLEST {
        return Err(damaged("its memory is too small"));
    }
    let base = memfd::map(memfd.as_fd(), size)?;
    // SAFETY: the mapping has at least a header's bytes, and any bytes are a valid Header.
    let header = unsafe { &*base.cast::<Header>() };
    if header.magic != MAGIC || header.size != size {
        return Err(damaged("it does not begin as one"));
    }
    if header.version != VERSION {
        return Err(damaged("it was made by another version of polyproc"));
    }
    let layout = Layout::of(size);
    let inode = descriptor::file_of(memfd.as_fd())?;
    publish(Session { base, layout, memfd, inode }, me, life).map(drop)
}

/// The number that tells this session from all others.
pub fn id() -> Result<u64> {
    Ok(session()?.header().id)
}

/// Bytes that blocks may reserve in all.
pub fn budget() -> Result<u64> {
    Ok(session()?.header().budget.load(Ordering::Relaxed))
}

/// Sets the bytes that blocks may reserve in all, for every process of the session.
pub fn set_budget(bytes: u64) -> Result<()> {
    session()?.header().budget.store(bytes, Ordering::Relaxed);
    Ok(())
}

/// Bytes that blocks have reserved now, idle ones included.
pub fn reserved() -> Result<u64> {
    Ok(session()?.header().reserved.load(Ordering::Relaxed))
}

/// Says that this process ends of its own will: permits of semaphores that it took stay taken, as they would with a
/// counting semaphore that nobody owns.
pub fn leave() {
    if exists() {
        let session = known();
        session.slot(local::me().index()).clean.store(1, Ordering::Release);
    }
}

impl Session {
    #[inline]
    pub(super) fn header(&self) -> &Header {
        // SAFETY: the mapping starts with a Header; all that changes in it is atomic.
        unsafe { &*self.base.cast::<Header>() }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The slot of this index (any index is brought into range).
    pub(super) fn slot(&self, index: u32) -> &Slot {
        let index = u64::from(index % self.layout.slots);
        // SAFETY: the table of slots lies within the mapping, and a Slot is all atomics.
        unsafe {
            &*self.base.add((self.layout.slots_at + index * std::mem::size_of::<Slot>() as u64) as usize).cast::<Slot>()
        }
    }

    /// The cell of this index (any index is brought into range: the number may come from a damaged message).
    #[inline]
    pub(super) fn cell(&self, index: u32) -> &Cell {
        let index = u64::from(index & (self.layout.cells - 1));
        // SAFETY: the table of cells lies within the mapping, and a Cell is all atomics.
        unsafe {
            &*self.base.add((self.layout.cells_at + index * std::mem::size_of::<Cell>() as u64) as usize).cast::<Cell>()
        }
    }

    /// What the process of slot `slot` holds of the object in `cell`.
    #[inline]
    pub(super) fn holding(&self, slot: u32, cell: u32) -> &AtomicU32 {
        let slot = u64::from(slot % self.layout.slots);
        let cell = u64::from(cell & (self.layout.cells - 1));
        let at = self.layout.holdings_at + (slot * u64::from(self.layout.cells) + cell) * 4;
        // SAFETY: the table of holdings lies within the mapping.
        unsafe { &*self.base.add(at as usize).cast::<AtomicU32>() }
    }

    /// The address of a place in the block area; `None` if the range is not wholly in it.
    #[inline]
    pub(super) fn block(&self, offset: u64, length: u64) -> Option<*mut u8> {
        let end = offset.checked_add(length)?;
        // SAFETY: checked: the range lies within the mapping.
        (offset >= self.layout.blocks_at && end <= self.layout.size).then(|| unsafe { self.base.add(offset as usize) })
    }

    /// The memfd, if this program has not closed it or put another file in its place.
    pub(super) fn memfd(&self) -> Result<BorrowedFd<'_>> {
        match descriptor::file_of(self.memfd.as_fd()) {
            Ok(inode) if inode == self.inode => Ok(self.memfd.as_fd()),
            _ => Err(Error::Damaged {
                what: "session",
                detail: "this process has closed its descriptor; daemonising code should spare it",
            }),
        }
    }

    /// True if this descriptor is of the session's memory.
    pub(super) fn is_memory(&self, fd: &OwnedFd) -> bool {
        descriptor::file_of(fd.as_fd()).is_ok_and(|inode| inode == self.inode)
    }

    /// Reserves a slot for a child (or, with no parent, for this process), and opens its life descriptor.
    pub(super) fn reserve_slot(&self, parent: Participant) -> Result<(Participant, OwnedFd)> {
        let memfd = self.memfd()?;
        let header = self.header();
        let mut from = 1;
        loop {
            let top = header.slots_top.load(Ordering::Relaxed).min(self.layout.slots);
            let free = (from..top).find(|&i| self.slot(i).identity.load(Ordering::Relaxed) & STATE == FREE);
            let index = match free {
                Some(index) => index,
                None if top < self.layout.slots => {
                    // ORDER: Relaxed; whoever races here meets again at the life descriptor's lock below.
                    let _ = header.slots_top.compare_exchange(top, top + 1, Ordering::Relaxed, Ordering::Relaxed);
                    continue;
                }
                None if super::sweep::sweep_dead() > 0 => continue,
                None => return Err(Error::TooMany { what: "processes", limit: u64::from(self.layout.slots) - 1 }),
            };
            let slot = self.slot(index);
            let identity = slot.identity.load(Ordering::Acquire);
            if identity & STATE != FREE {
                continue;
            }
            // The lock on the life byte decides between two that want the same slot.
            let life = match life::open(memfd, u64::from(index)) {
                Ok(life) => descriptor::above_standard_streams(life)?,
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                    // Somebody else is taking this slot right now, or a process that was cloned past all our handlers
                    // still has the descriptor of its last life. Let it have the slot.
                    from = index + 1;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let participant = match Participant::from_bits(identity) {
                Participant::NOBODY => Participant::new(index, 0),
                next => next,
            };
            if slot
                .identity
                .compare_exchange(
                    identity,
                    super::participant::NEWBORN | participant.bits(),
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                )
                .is_err()
            {
                continue;
            }
            slot.pid.store(0, Ordering::Relaxed);
            slot.clean.store(0, Ordering::Relaxed);
            slot.signed_at.store(0, Ordering::Relaxed);
            slot.parent.store(parent.bits(), Ordering::Release);
            return Ok((participant, life));
        }
    }

    /// Reserves and signs a slot for this process, whose program has closed the session's descriptor. It gets no life
    /// descriptor: others tell by its pid, and when it signed, whether it lives.
    pub(super) fn sign_without_life(&self) -> Result<Participant> {
        let pid = proc::pid();
        // Before the slot is taken: until it is signed it looks like that of a child which never came to be.
        let signed = clock::since_boot();
        let header = self.header();
        loop {
            let top = self.slots_top();
            let free = (1..top).find(|&i| self.slot(i).identity.load(Ordering::Relaxed) & STATE == FREE);
            let Some(index) = free else {
                if top < self.layout.slots {
                    let _ = header.slots_top.compare_exchange(top, top + 1, Ordering::Relaxed, Ordering::Relaxed);
                    continue;
                }
                return Err(Error::TooMany { what: "processes", limit: u64::from(self.layout.slots) - 1 });
            };
            let slot = self.slot(index);
            let identity = slot.identity.load(Ordering::Acquire);
            let me = match Participant::from_bits(identity) {
                Participant::NOBODY => Participant::new(index, 0),
                next => next,
            };
            let reserved = super::participant::NEWBORN | me.bits();
            let taken = identity & STATE == FREE
                && slot.identity.compare_exchange(identity, reserved, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            if taken {
                slot.signed_at.store(signed, Ordering::Relaxed);
                slot.pid.store(pid, Ordering::Relaxed);
                slot.clean.store(0, Ordering::Relaxed);
                slot.parent.store(Participant::NOBODY.bits(), Ordering::Relaxed);
                // ORDER: Release: whoever sees LIVE sees the pid.
                slot.identity.store(LIVE | me.bits(), Ordering::Release);
                return Ok(me);
            }
        }
    }

    /// Writes this process's pid into its slot. Async-signal-safe.
    pub(super) fn sign(&self, me: Participant) {
        let slot = self.slot(me.index());
        let pid = proc::pid();
        slot.signed_at.store(clock::since_boot(), Ordering::Relaxed);
        slot.pid.store(pid, Ordering::Relaxed);
        // ORDER: Release: whoever sees LIVE sees the pid.
        slot.identity.store(LIVE | me.bits(), Ordering::Release);
    }

    pub(super) fn slots_top(&self) -> u32 {
        self.header().slots_top.load(Ordering::Acquire).min(self.layout.slots)
    }

    pub(super) fn cells_top(&self) -> u32 {
        self.header().cells_top.load(Ordering::Acquire).min(self.layout.cells)
    }
}

#[cfg(test)]
mod tests {
    use super::parse_bytes;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(parse_bytes("123"), Some(123));
        assert_eq!(parse_bytes(" 64K "), Some(65536));
        assert_eq!(parse_bytes("2G"), Some(2 << 30));
        assert_eq!(parse_bytes("G"), None);
        assert_eq!(parse_bytes("-1"), None);
        assert_eq!(parse_bytes(""), None);
    }
}

//! A pipe between two ends: rings for the messages, a socket pair as bell, for the end of file, and for descriptors.
//!
//! ```text
//!   end A                                                    end B
//!   reads  ◀── ring ◀───────────────────────────────────────  writes
//!   writes ────────────────────────────────────────▶ ring ──▶ reads
//!   socket ◀═══════════ bells, descriptors, hang-up ═════════▶ socket
//! ```
//!
//! **A reader** sleeps on the ring, as a queue's does. Sleeping on the socket instead would draw both ends to one processor
//! (the kernel takes a write to a socket as a hand-over), where neither can spin for the other; a round trip then costs 8 µs,
//! not 0.5. The end of the other side wakes it; an end that only the kernel sees is found by a look at the socket now and then.
//!
//! **Bells** are for those who wait for the descriptor, among several perhaps. A writer rings (one byte) if every bell that was
//! rung has been taken away (`rung == hushed`). Bells are taken away only when somebody is about to sleep on it, or, once somebody has asked for the descriptor
//! ([`PipeEnd::fd`]), when it has emptied the ring. So *not empty* means *readable*, always, and a steady stream makes no
//! system call; and for those who asked, *readable* means *not empty* too.
//!
//! To take bells away, a reader first says so (`hushed`), then looks into the ring once more, and only if it is still empty
//! reads the bytes; otherwise it takes back what it said. Writers commit first and look at `hushed` then. So one of the two
//! sees the other, and no message lies in a ring whose socket is silent.
//!
//! A bell is counted before it is sent, so what a reader takes was counted. DEATH of a writer between the two: the bell is
//! missing, and readers that sleep look again within a second; the sweep counts it out, so that the next writer rings again. The
//! death of an end's last process is told by the kernel (hang-up) and by the sweep (`gone`), whichever comes first.

mod descriptors;

use super::parcel::{Envelope, Parcel};
use super::ring::Ring;
use crate::shm::{self, CellState, Death, Directory, Handle, Hold, Kind, Participant};
use crate::sync::signal;
use crate::sys::clock::Deadline;
use crate::sys::poll::{self, Polled};
use crate::sys::socket::{self, Heard};
use crate::{Error, Result, fault, sys};
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// The most bytes in blocks that a pipe carries, unless one message alone has more.
const CARRIED_MOST: u64 = 64 << 20;
/// How long a reader sleeps on the ring before it asks the socket whether the other end is still there.
const FIRST_SLICE: u64 = 50_000_000;
const LAST_SLICE: u64 = 400_000_000;
/// The record that accompanies a descriptor.
const DESCRIPTOR: u8 = Parcel::MOST_KIND;

/// | field | written by |
/// | --- | --- |
/// | peer, reads, writes (cell and generation) | the creator, once |
/// | gone | who ends the peer: nobody holds it any more |
/// | armed | who asks for this end's descriptor; only ever set |
/// | ringing | who counts a bell and sends it: its participant from before the one until after the other |
#[repr(C)]
struct EndState {
    peer: [AtomicU32; 2],
    reads: [AtomicU32; 2],
    writes: [AtomicU32; 2],
    gone: AtomicU32,
    armed: AtomicU32,
    ringing: AtomicU32,
}

// SAFETY: plain atomics, 36 bytes.
unsafe impl CellState for EndState {
    const KIND: Kind = Kind::PipeEnd;
}

fn store(place: &[AtomicU32; 2], handle: Option<Handle>) {
    let handle = handle.unwrap_or(Handle { cell: 0, generation: 0 });
    place[0].store(handle.cell, Ordering::Relaxed);
    place[1].store(handle.generation, Ordering::Release);
}

fn load(place: &[AtomicU32; 2]) -> Option<Handle> {
    let cell = place[0].load(Ordering::Acquire);
    (cell != 0).then(|| Handle { cell, generation: place[1].load(Ordering::Relaxed) })
}

/// What an end consists of when it travels to another process: its socket, and its name.
#[derive(Debug)]
pub struct Transport {
    /// The socket; it must be sent as a descriptor.
    pub socket: OwnedFd,
    /// The end's name in the session.
    pub handle: Handle,
}

/// One end of a pipe.
#[derive(Debug)]
pub struct PipeEnd {
    end: Hold,
    socket: OwnedFd,
    reads: Option<Ring>,
    writes: Option<Ring>,
    /// Descriptors that came with bytes which were taken for bells.
    descriptors: Mutex<VecDeque<OwnedFd>>,
}

/// A new pipe. With `duplex` both ends read and write; without, the first reads and the second writes.
///
/// # Errors
/// [`Error::Os`] where there are no descriptors left.
pub fn pipe(duplex: bool) -> Result<(PipeEnd, PipeEnd)> {
    let (first, second) = socket::pair()?;
    let to_first = Ring::new(0, true)?;
    let to_second = if duplex { Some(Ring::new(0, true)?) } else { None };
    let end = |reads: Option<&Ring>, writes: Option<&Ring>| {
        shm::create::<EndState>(|state| {
            store(&state.reads, reads.map(|ring| ring.hold().handle()));
            store(&state.writes, writes.map(|ring| ring.hold().handle()));
        })
    };
    let a = end(Some(&to_first), to_second.as_ref())?;
    let b = end(to_second.as_ref(), Some(&to_first))?;
    store(&a.state::<EndState>().peer, Some(b.handle()));
    store(&b.state::<EndState>().peer, Some(a.handle()));
    Ok((PipeEnd::of(a, first)?, PipeEnd::of(b, second)?))
}

impl PipeEnd {
    fn of(end: Hold, socket: OwnedFd) -> Result<PipeEnd> {
        let state = end.state::<EndState>();
        let ring = |place| load(place).map(Ring::from_handle).transpose();
        let (reads, writes) = (ring(&state.reads)?, ring(&state.writes)?);
        Ok(PipeEnd { end, socket, reads, writes, descriptors: Mutex::default() })
    }

    /// Builds an end from what came from another process of the session.
    ///
    /// # Errors
    /// [`Error::Stale`] if the pipe is gone.
    pub fn from_transport(transport: Transport) -> Result<PipeEnd> {
        PipeEnd::of(Hold::take(transport.handle, Kind::PipeEnd)?, transport.socket)
    }

    /// The end's name in the session.
    pub fn handle(&self) -> Handle {
        self.end.handle()
    }

    /// Everything that a message must name so that the end lives until the message has been read: itself, which comes
    /// first, and its rings.
    pub fn handles(&self) -> impl Iterator<Item = Handle> {
        let rings = self.reads.iter().chain(&self.writes);
        std::iter::once(self.end.handle()).chain(rings.map(|ring| ring.hold().handle()))
    }

    /// This process's hold on the end.
    pub fn hold(&self) -> &Hold {
        &self.end
    }

    /// What must also live while the end is on its way to another process: its rings.
    pub fn rings(&self) -> Vec<Hold> {
        self.reads.iter().chain(&self.writes).map(|ring| ring.hold().clone()).collect()
    }

    /// Also lets a child hold this end that will be exec'd.
    pub fn share_with(&self, child: Participant) {
        self.end.share_with(child);
        for ring in self.reads.iter().chain(&self.writes) {
            ring.hold().share_with(child);
        }
    }

    /// True if it can receive.
    pub fn readable(&self) -> bool {
        self.reads.is_some()
    }

    /// True if it can send.
    pub fn writable(&self) -> bool {
        self.writes.is_some()
    }

    /// The socket, without a promise about when it is readable.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The socket, for poll, epoll and the like: from now on it is readable exactly while there is something to receive, or
    /// the other end is closed.
    pub fn fd(&self) -> RawFd {
        let state = self.end.state::<EndState>();
        if state.armed.swap(1, Ordering::SeqCst) == 0 {
            let _ = self.settle();
            if let Some(ring) = &self.reads {
                signal::notify(&ring.state().space, u32::MAX);
            }
        }
        self.socket.as_raw_fd()
    }

    fn reading(&self) -> Result<&Ring> {
        let error = || std::io::Error::from_raw_os_error(libc::EBADF);
        self.reads.as_ref().ok_or_else(|| Error::Os { call: "this end of the pipe cannot receive", source: error() })
    }

    fn writing(&self) -> Result<&Ring> {
        let error = || std::io::Error::from_raw_os_error(libc::EBADF);
        self.writes.as_ref().ok_or_else(|| Error::Os { call: "this end of the pipe cannot send", source: error() })
    }

    fn is_gone(&self) -> bool {
        self.end.state::<EndState>().gone.load(Ordering::SeqCst) != 0
    }

    /// Sends a message, waiting for room if the reader is far behind.
    ///
    /// # Errors
    /// [`Error::BrokenPipe`] if nobody has the other end, [`Error::TimedOut`], [`Error::Interrupted`].
    pub fn send(&self, parcel: &mut Parcel<'_>, deadline: Deadline) -> Result<()> {
        let ring = self.writing()?;
        if self.is_gone() {
            return Err(Error::BrokenPipe);
        }
        let weight = parcel.weight();
        // What is waited for is waited for in short slices: a reader that dies outside of the session's sight (it was cloned
        // past all handlers, say) is told of only by the socket.
        let mut admitted = weight == 0;
        let mut slices = 0u32;
        let outcome = loop {
            let slice = deadline.within(50_000_000);
            let attempt = if admitted {
                ring.put(parcel, slice, &|| self.is_gone()).map(|()| true)
            } else {
                self.admit(ring, weight, slice).map(|()| false)
            };
            match attempt {
                Ok(true) => break Ok(()),
                Ok(false) => admitted = true,
                Err(Error::TimedOut) if !deadline.passed() => match self.is_hung_up() {
                    Ok(false) => {
                        slices += 1;
                        if slices.is_multiple_of(16)
                            && let Err(interrupted) = sys::signal::look_up()
                        {
                            break Err(interrupted);
                        }
                    }
                    Ok(true) => break Err(Error::BrokenPipe),
                    Err(error) => break Err(error),
                },
                Err(error) => break Err(error),
            }
        };
        if weight != 0 {
            match &outcome {
                Err(_) if admitted => discount(ring, weight),
                _ => {}
            }
        }
        outcome?;
        self.ring_bell(ring)
    }

    /// Waits until the pipe may carry `weight` bytes more, and counts them in.
    fn admit(&self, ring: &Ring, weight: u64, deadline: Deadline) -> Result<()> {
        let state = ring.state();
        // ORDER: SeqCst: the look of a sleeper, see `sync::signal`.
        let may = || {
            let carried = if ring.is_empty() { 0 } else { state.carried.load(Ordering::SeqCst) };
            carried.saturating_add(weight) <= CARRIED_MOST || (carried == 0 && self.reader_asks(ring)) || self.is_gone()
        };
        signal::wait(&state.space, deadline, may)?;
        if self.is_gone() {
            return Err(Error::BrokenPipe);
        }
        if ring.is_empty() {
            state.carried.store(weight, Ordering::SeqCst);
        } else {
            state.carried.fetch_add(weight, Ordering::SeqCst);
        }
        Ok(())
    }

    /// True if the reader wants a message that the pipe does not carry yet.
    fn reader_asks(&self, ring: &Ring) -> bool {
        ring.state().asked.load(Ordering::SeqCst) != 0
            || load(&self.end.state::<EndState>().peer).is_some_and(|peer| {
                let peer = shm::cell(peer.cell);
                peer.kind() == Kind::PipeEnd && peer.state::<EndState>().armed.load(Ordering::SeqCst) != 0
            })
    }

    /// Lets a sender know that what it has is wanted, however large.
    fn ask(&self, ring: &Ring) {
        let state = ring.state();
        if state.asked.load(Ordering::Relaxed) == 0 {
            state.asked.store(1, Ordering::SeqCst);
            signal::notify(&state.space, u32::MAX);
        }
    }

    fn is_hung_up(&self) -> Result<bool> {
        let mut polled = [Polled::new(self.socket.as_raw_fd())];
        poll::wait(&mut polled, Deadline::Now)?;
        Ok(polled[0].hung_up)
    }

    fn ring_bell(&self, ring: &Ring) -> Result<()> {
        let state = ring.state();
        // ORDER: SeqCst: the commit comes before this look. Partner of the fence in `settle`.
        std::sync::atomic::fence(Ordering::SeqCst);
        let rung = state.rung.load(Ordering::SeqCst);
        if rung != state.hushed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let ringing = &self.end.state::<EndState>().ringing;
        ringing.store(shm::me().bits(), Ordering::SeqCst);
        if state.rung.compare_exchange(rung, rung.wrapping_add(1), Ordering::SeqCst, Ordering::Relaxed).is_ok() {
            fault!("pipe.counted");
            let rang = socket::ring(&self.socket);
            ringing.store(0, Ordering::SeqCst);
            return match rang {
                // The reader took the message before its bell came, and closed: it was sent, as with any pipe.
                Err(Error::BrokenPipe) if ring.is_empty() => Ok(()),
                rang => rang,
            };
        }
        ringing.store(0, Ordering::SeqCst);
        Ok(())
    }

    /// Takes the bells away if there is nothing to receive. True if there is something after all (or the end): then the
    /// descriptor may or may not be readable; false: it will be as soon as there is.
    pub fn settle(&self) -> Result<bool> {
        let Ok(ring) = self.reading() else { return Ok(false) };
        if !ring.is_empty() || self.is_gone() {
            return Ok(true);
        }
        self.ask(ring);
        let state = ring.state();
        let (rung, hushed) = (state.rung.load(Ordering::SeqCst), state.hushed.load(Ordering::SeqCst));
        let count = rung.wrapping_sub(hushed);
        if count == 0 {
            return Ok(!ring.is_empty());
        }
        if state.hushed.compare_exchange(hushed, rung, Ordering::SeqCst, Ordering::Relaxed).is_err() {
            return Ok(!ring.is_empty());
        }
        fault!("pipe.hushed");
        std::sync::atomic::fence(Ordering::SeqCst);
        if !ring.is_empty() {
            // A message has come since; its writer may have counted on the bells that are still there.
            let _ = state.hushed.compare_exchange(rung, hushed, Ordering::SeqCst, Ordering::Relaxed);
            return Ok(true);
        }
        self.take_bells(count.min(256) as usize)?;
        Ok(!ring.is_empty())
    }

    /// Takes `count` bells out of the socket. One that is counted but not yet sent is waited for, for a moment: if its writer
    /// died there, it never comes.
    fn take_bells(&self, count: usize) -> Result<()> {
        let mut left = count;
        for _ in 0..32 {
            let before = left;
            let (heard, taken) = self.hush(left)?;
            left -= taken;
            if left == 0 || heard == Heard::End {
                break;
            }
            if left == before {
                crate::sys::cpu::give_way();
            }
        }
        Ok(())
    }

    /// Takes at most `count` bytes out of the socket, keeping descriptors that come with them.
    fn hush(&self, count: usize) -> Result<(Heard, usize)> {
        let hushed = socket::hush(&self.socket, count)?;
        if !hushed.descriptors.is_empty() {
            self.descriptors.lock().unwrap_or_else(PoisonError::into_inner).extend(hushed.descriptors);
        }
        Ok((hushed.heard, hushed.bytes))
    }

    /// Takes all bells out of the socket. Whoever rings later sees that (`hushed`), or has committed before we look again.
    fn hush_all(&self, ring: &Ring) -> Result<Heard> {
        let (heard, _) = self.hush(256)?;
        let state = ring.state();
        // Bells are counted before they are sent: what was read is counted. One that is counted and not yet sent will come
        // as one too many.
        state.hushed.store(state.rung.load(Ordering::SeqCst), Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
        Ok(heard)
    }

    /// Receives a message, waiting for one.
    ///
    /// # Errors
    /// [`Error::EndOfFile`] if the other end is closed and all is received, [`Error::TimedOut`], [`Error::Interrupted`].
    pub fn receive(&self, envelope: &mut Envelope, deadline: Deadline) -> Result<()> {
        let ring = self.reading()?;
        loop {
            if ring.try_get(envelope, deadline)? {
                self.taken(ring, envelope);
                if self.end.state::<EndState>().armed.load(Ordering::Relaxed) != 0 && ring.is_empty() {
                    self.settle()?;
                }
                return Ok(());
            }
            if !self.wait_for_message(ring, deadline)? {
                return Err(Error::EndOfFile);
            }
        }
    }

    /// Receives a message if there is one now, without a system call.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if there is none, also at the end of file; [`Error::Busy`], [`Error::Damaged`].
    #[inline]
    pub fn try_receive(&self, envelope: &mut Envelope) -> Result<()> {
        let ring = self.reading()?;
        if !ring.try_get(envelope, Deadline::Now)? {
            return Err(Error::TimedOut);
        }
        self.taken(ring, envelope);
        if self.end.state::<EndState>().armed.load(Ordering::Relaxed) != 0 && ring.is_empty() {
            self.settle()?;
        }
        Ok(())
    }

    /// Counts out what was received.
    #[inline]
    fn taken(&self, ring: &Ring, envelope: &Envelope) {
        let state = ring.state();
        if state.asked.load(Ordering::Relaxed) != 0 {
            // What was asked for has come; what is larger than a pipe carries waits for the next reader who asks.
            state.asked.store(0, Ordering::SeqCst);
        }
        let weight = envelope.weight();
        if weight != 0 {
            discount(ring, weight);
            signal::notify(&ring.state().space, u32::MAX);
        }
    }

    /// Waits until there is something to receive, or the other end is closed.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn poll(&self, deadline: Deadline) -> Result<bool> {
        match self.wait_for_message(self.reading()?, deadline) {
            Ok(_) => Ok(true),
            Err(Error::TimedOut) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// True once there is a message; false at the end of file.
    fn wait_for_message(&self, ring: &Ring, deadline: Deadline) -> Result<bool> {
        let mut spun = false;
        let mut slice = FIRST_SLICE;
        loop {
            // First whether the peer is gone, then whether it has left something.
            let gone = self.is_gone();
            if !ring.is_empty() {
                return Ok(true);
            }
            if gone {
                return Ok(false);
            }
            self.ask(ring);
            if deadline == Deadline::Now {
                // Whoever only looks must also learn of an end that only the kernel knows.
                return self.look_at_socket(ring, Deadline::Now);
            }
            if !spun {
                spun = true;
                if ring.spin_for_item(|| self.is_gone()) {
                    continue;
                }
            }
            let come = || !ring.is_empty() || self.is_gone();
            match signal::wait(&ring.state().items, deadline.within(slice), come) {
                Ok(()) => {}
                Err(Error::TimedOut) => {
                    match self.look_at_socket(ring, Deadline::Now) {
                        Err(Error::TimedOut) if !deadline.passed() => {}
                        other => return other,
                    }
                    if slice == LAST_SLICE {
                        sys::signal::look_up()?;
                    }
                    slice = (slice * 2).min(LAST_SLICE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Looks at the socket, or sleeps on it. True: there is a message; false: the end.
    fn look_at_socket(&self, ring: &Ring, deadline: Deadline) -> Result<bool> {
        loop {
            let mut polled = [Polled::new(self.socket.as_raw_fd())];
            let ready = poll::wait(&mut polled, deadline)?;
            if !ring.is_empty() {
                return Ok(true);
            }
            if ready == 0 {
                return if self.is_gone() { Ok(!ring.is_empty()) } else { Err(Error::TimedOut) };
            }
            // Readable, but nothing in the ring: a bell from before, or the end. All bells may go: a message that comes
            // meanwhile was committed before its bell, and is looked for below.
            let heard = self.hush_all(ring)?;
            if !ring.is_empty() {
                return Ok(true);
            }
            if heard == Heard::End {
                return Ok(false);
            }
            if deadline == Deadline::Now {
                return Err(Error::TimedOut);
            }
        }
    }
}

fn discount(ring: &Ring, weight: u64) {
    let carried = &ring.state().carried;
    let _ = carried.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |bytes| Some(bytes.saturating_sub(weight)));
}

/// A bell that the dead had counted may never have been sent: the next writer would rely on it. So it is counted out; if it
/// was sent, it is one too many, and a reader looks in vain, once.
pub(crate) fn on_death(cell: u32, death: &Death) {
    let end = shm::cell(cell).state::<EndState>();
    if end.ringing.load(Ordering::SeqCst) != death.participant.bits() {
        return;
    }
    if let Some(ring) = load(&end.writes) {
        let ring = shm::cell(ring.cell).state::<super::ring::RingState>();
        let hushed = ring.hushed.load(Ordering::SeqCst);
        let _ = ring
            .rung
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |rung| (rung != hushed).then(|| rung.wrapping_sub(1)));
    }
    end.ringing.store(0, Ordering::SeqCst);
}

/// Tells the peer of an end that nobody holds any more. Under the directory's lock.
pub(crate) fn destroy(_directory: &Directory, cell: u32) {
    let state = shm::cell(cell).state::<EndState>();
    let Some(peer) = load(&state.peer) else { return };
    let other = shm::cell(peer.cell);
    if other.kind() == Kind::PipeEnd && shm::generation(peer.cell) == peer.generation {
        let other = other.state::<EndState>();
        other.gone.store(1, Ordering::SeqCst);
        if let Some(ring) = load(&other.writes) {
            signal::wake_all(&shm::cell(ring.cell).state::<super::ring::RingState>().space);
        }
        if let Some(ring) = load(&other.reads) {
            signal::wake_all(&shm::cell(ring.cell).state::<super::ring::RingState>().items);
        }
    }
}

//! Descriptors in a pipe: each goes through the socket, and a record in the ring says when it is its turn.

use super::{DESCRIPTOR, EndState, PipeEnd};
use crate::channel::parcel::{Envelope, Parcel};
use crate::sys::clock::Deadline;
use crate::sys::poll::{self, Polled};
use crate::sys::socket::{self, Heard};
use crate::{Error, Result, shm, sys};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

const LONGEST_SLEEP: u64 = 1_000_000_000;

impl PipeEnd {
    /// Sends a descriptor, in order with the messages.
    ///
    /// # Errors
    /// As [`PipeEnd::send`].
    pub fn send_descriptor(&self, descriptor: BorrowedFd<'_>) -> Result<()> {
        let ring = self.writing()?;
        if self.is_gone() {
            return Err(Error::BrokenPipe);
        }
        let ringing = &self.end.state::<EndState>().ringing;
        ringing.store(shm::me().bits(), Ordering::SeqCst);
        ring.state().rung.fetch_add(1, Ordering::SeqCst);
        socket::send_descriptor(&self.socket, descriptor)?;
        ringing.store(0, Ordering::SeqCst);
        self.send(&mut Parcel { kind: DESCRIPTOR, ..Parcel::default() }, Deadline::Never)
    }

    /// Receives a descriptor that was sent with [`PipeEnd::send_descriptor`].
    ///
    /// # Errors
    /// [`Error::Damaged`] if what came is not a descriptor; otherwise as [`PipeEnd::receive`].
    pub fn receive_descriptor(&self, deadline: Deadline) -> Result<OwnedFd> {
        let missing = Error::Damaged { what: "pipe", detail: "what came is not a descriptor" };
        let ring = self.reading()?;
        let mut envelope = Envelope::new();
        loop {
            if ring.try_get(&mut envelope, deadline)? {
                if envelope.kind != DESCRIPTOR {
                    return Err(missing);
                }
                break;
            }
            let mut polled = [Polled::new(self.socket.as_raw_fd())];
            if poll::wait(&mut polled, deadline.within(LONGEST_SLEEP))? == 0 {
                if deadline.passed() {
                    return Err(Error::TimedOut);
                }
                sys::signal::look_up()?;
                continue;
            }
            if ring.is_empty() {
                let state = ring.state();
                let bells = state.rung.load(Ordering::SeqCst).wrapping_sub(state.hushed.load(Ordering::SeqCst));
                match self.hush_all(ring)? {
                    Heard::End if ring.is_empty() => return Err(Error::EndOfFile),
                    // A byte that no writer of ours has sent.
                    Heard::Ring if bells == 0 && ring.is_empty() && self.kept() == 0 => return Err(missing),
                    _ => {}
                }
            }
        }
        // Its byte was sent before its record.
        for _ in 0..64 {
            let kept = self.descriptors.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match kept {
                Some(descriptor) => return Ok(descriptor),
                None => {
                    self.hush_all(ring)?;
                }
            }
        }
        Err(missing)
    }

    fn kept(&self) -> usize {
        self.descriptors.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

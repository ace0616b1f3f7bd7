//! Socket pairs: bells between processes, and the way for descriptors.

use crate::{Error, Result};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A pair of connected stream sockets, closed on exec, in blocking mode.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| Error::os("socketpair", e))
}

/// Rings: sends one byte without waiting. A full buffer is as good as a ring.
pub fn ring(fd: impl AsFd) -> Result<()> {
    match rustix::net::send(fd, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Err(Error::BrokenPipe),
        Err(e) => Err(Error::os("send", e)),
    }
}

/// What [`hush`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing was in the buffer.
    Silence,
    /// Bytes were taken out.
    Ring,
    /// The other end is closed.
    End,
}

/// What [`hush`] took out.
#[derive(Debug)]
pub struct Hushed {
    /// What came last.
    pub heard: Heard,
    /// How many bytes.
    pub bytes: usize,
    /// The descriptors that came with them.
    pub descriptors: Vec<OwnedFd>,
}

/// Takes at most `most` waiting bytes out of the socket, without waiting, with the descriptors that came with them.
pub fn hush(fd: impl AsFd, most: usize) -> Result<Hushed> {
    let mut bytes = [0u8; 256];
    let mut descriptors = Vec::new();
    let mut heard = Heard::Silence;
    let mut left = most;
    while left > 0 {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let length = left.min(bytes.len());
        let got = rustix::net::recvmsg(
            &fd,
            &mut [IoSliceMut::new(&mut bytes[..length])],
            &mut ancillary,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        );
        match got {
            Ok(got) => {
                for message in ancillary.drain() {
                    if let RecvAncillaryMessage::ScmRights(came) = message {
                        descriptors.extend(came);
                    }
                }
                if got.bytes == 0 {
                    heard = Heard::End;
                    break;
                }
                heard = Heard::Ring;
                left -= got.bytes;
            }
            Err(rustix::io::Errno::AGAIN) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET | rustix::io::Errno::PIPE) => {
                heard = Heard::End;
                break;
            }
            Err(e) => return Err(Error::os("recvmsg", e)),
        }
    }
    Ok(Hushed { heard, bytes: most - left, descriptors })
}

/// Sends one byte with a descriptor.
pub fn send_descriptor(fd: impl AsFd, descriptor: BorrowedFd<'_>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(fd, &[IoSlice::new(&[2])], &mut ancillary, SendFlags::NOSIGNAL).map(drop).map_err(
        |e| match e {
            rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET => Error::BrokenPipe,
            e => Error::os("sendmsg", e),
        },
    )
}

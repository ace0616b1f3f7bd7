//! Packets between processes: a message of bytes and descriptors that comes whole or not at all (SOCK_SEQPACKET, unix(7)).

use crate::{Error, Result};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The largest packet, in bytes: well under what a socket buffer holds.
pub const LARGEST: usize = 64 * 1024;
/// The most descriptors in one packet; the kernel takes 253.
pub const MOST_DESCRIPTORS: usize = 64;

/// A pair of connected packet sockets, closed on exec.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|e| Error::os("socketpair", e))
}

/// The packet socket that was handed down to this process under a number, in text; `None` if there is none. It is closed on
/// exec from now on.
pub fn adopt(number: &str) -> Option<OwnedFd> {
    use std::os::fd::FromRawFd;
    let number: i32 = number.parse().ok().filter(|&number| number > 2)?;
    // SAFETY: only asks what is behind the number.
    let kind = rustix::net::sockopt::socket_type(unsafe { BorrowedFd::borrow_raw(number) }).ok()?;
    if kind != SocketType::SEQPACKET {
        return None;
    }
    // SAFETY: it is a packet socket that our parent has put there for us.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC).ok()?;
    Some(socket)
}

/// Sends a packet made of `parts`, with descriptors, waiting for room.
///
/// # Errors
/// [`Error::BrokenPipe`] if nobody has the other end; [`Error::TooLarge`].
pub fn send(fd: impl AsFd, parts: &[IoSlice<'_>], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let size: usize = parts.iter().map(|part| part.len()).sum();
    if size > LARGEST {
        return Err(Error::TooLarge { size: size as u64, limit: LARGEST as u64 });
    }
    if descriptors.len() > MOST_DESCRIPTORS {
        return Err(Error::TooMany { what: "descriptors in one message", limit: MOST_DESCRIPTORS as u64 });
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    loop {
        return match rustix::net::sendmsg(&fd, parts, &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET | rustix::io::Errno::NOTCONN) => {
                Err(Error::BrokenPipe)
            }
            Err(e) => Err(Error::os("sendmsg", e)),
        };
    }
}

/// Receives a packet into `bytes`, waiting for one; gives its length and the descriptors, which are closed on exec. What
/// does not fit is an error.
///
/// # Errors
/// [`Error::EndOfFile`] if nobody has the other end any more; [`Error::Interrupted`].
pub fn receive(fd: impl AsFd, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(fd, &mut [IoSliceMut::new(bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
    let got = match got {
        Ok(got) => got,
        Err(rustix::io::Errno::CONNRESET) => return Err(Error::EndOfFile),
        Err(e) => return Err(Error::os("recvmsg", e)),
    };
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            descriptors.extend(came);
        }
    }
    if got.bytes == 0 {
        return Err(Error::EndOfFile);
    }
    if got.flags.contains(ReturnFlags::TRUNC) || got.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Error::Damaged { what: "packet", detail: "it is larger than any that is sent here" });
    }
    Ok((got.bytes, descriptors))
}

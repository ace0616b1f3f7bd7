//! Local sockets whose name is no file (unix(7), "abstract"): for processes of one user that have no descriptor in common. The
//! name is gone with the last descriptor of the socket, so nothing is left behind.

use crate::{Error, Result};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

/// A socket of this name, for others to connect to.
pub fn listen(name: &str) -> Result<UnixListener> {
    let address = SocketAddr::from_abstract_name(name).map_err(|error| Error::os("bind", error))?;
    UnixListener::bind_addr(&address).map_err(|error| Error::os("bind", error))
}

/// A connection to the socket of this name. `None` if nobody listens there.
pub fn connect(name: &str) -> Result<Option<UnixStream>> {
    let address = SocketAddr::from_abstract_name(name).map_err(|error| Error::os("connect", error))?;
    match UnixStream::connect_addr(&address) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(None),
        Err(error) => Err(Error::os("connect", error)),
    }
}

/// True if a process of this process's user, or of root, is at the other end.
pub fn is_ours(stream: impl AsFd) -> bool {
    rustix::net::sockopt::socket_peercred(stream)
        .is_ok_and(|peer| peer.uid == rustix::process::geteuid() || peer.uid.is_root())
}

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

use super::DATAGRAM;

/// Asked of the kernel for the receive buffer; it gives at most net.core.rmem_max.
const RECEIVE_BUFFER: i32 = 4 * 1024 * 1024;
const ENOBUFS: i32 = 105;

/// A socket that only listens to multicast groups.
pub(crate) struct Multicast {
    protocol: isize,
    groups: &'static [u32],
    socket: TokioSocket,
    datagram: Vec<u8>,
}

pub(crate) enum Received<'a> {
    /// One or more whole messages; see [`super::messages`].
    Datagram(&'a [u8]),
    /// The receive buffer was full and messages are lost. What happens from now on is received again.
    Overrun,
}

impl Multicast {
    /// Joins groups of a netlink protocol in the calling thread's network namespace.
    pub(crate) fn join(protocol: isize, groups: &'static [u32]) -> io::Result<Self> {
        Ok(Multicast { protocol, groups, socket: open(protocol, groups)?, datagram: Vec::with_capacity(DATAGRAM) })
    }

    /// A second handle of the socket, for what is set on it. It stands for this socket only until the next overrun.
    pub(crate) fn handle(&self) -> io::Result<OwnedFd> {
        self.socket.socket_ref().as_fd().try_clone_to_owned()
    }

    /// The next datagram. Cancel safe: a datagram is either taken whole or still there.
    pub(crate) async fn receive(&mut self) -> io::Result<Received<'_>> {
        self.datagram.clear();
        match self.socket.recv(&mut self.datagram).await {
            Ok(()) => Ok(Received::Datagram(&self.datagram)),
            Err(error) if error.raw_os_error() == Some(ENOBUFS) => {
                // A congested socket reports no second loss until its queue is empty: what is lost meanwhile is lost silently.
                // A new one begins with an empty queue.
                self.socket = open(self.protocol, self.groups)?;
                Ok(Received::Overrun)
            }
            Err(error) => Err(error),
        }
    }
}

fn open(protocol: isize, groups: &[u32]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    // A smaller buffer than asked for only means that losses come sooner.
    socket.socket_mut().set_rx_buf_sz(RECEIVE_BUFFER)?;
    socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.socket_mut().add_membership(*group)?;
    }
    Ok(socket)
}

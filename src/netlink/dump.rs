//! A dump: one question, and the kernel's answers until it says that there are no more.

use std::io;

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

use super::{DATAGRAM, messages};

// linux/netlink.h
pub(super) const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Asks on a socket of its own, and gives each answer to `take`: its type and its body.
pub(super) async fn dump(protocol: isize, request: &[u8], mut take: impl FnMut(u16, &[u8])) -> io::Result<()> {
    let mut socket = TokioSocket::new(protocol)?;
    socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
    socket.send(request).await?;
    let mut datagram = Vec::with_capacity(DATAGRAM);
    loop {
        datagram.clear();
        socket.recv(&mut datagram).await?;
        for message in messages(&datagram) {
            let message = NetlinkBuffer::new(message);
            match message.message_type() {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return Err(refusal(message.payload())),
                kind => take(kind, message.payload()),
            }
        }
    }
}

/// What NLMSG_ERROR says: an errno below 0.
pub(super) fn refusal(payload: &[u8]) -> io::Error {
    let code = payload.get(..4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
    io::Error::from_raw_os_error(-code)
}

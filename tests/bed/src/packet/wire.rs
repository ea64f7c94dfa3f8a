use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    self, AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, sockopt,
};

use super::{Mac, Seen};

/// PACKET_OUTGOING (linux/if_packet.h).
const OUTGOING: u8 = 4;

/// One network interface, below IP: what is sent meets no rule of the sender's kernel, what passes is seen whatever its address.
pub struct Wire {
    fd: OwnedFd,
    /// Of the interface; carries index and hardware address.
    link: LinkAddr,
}

impl Wire {
    /// Opens an interface of the calling thread's namespace.
    pub fn open(interface: &str) -> io::Result<Wire> {
        let link = getifaddrs()?
            .filter(|i| i.interface_name == interface)
            .find_map(|i| i.address?.as_link_addr().copied())
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no interface {interface} here")))?;
        let protocol = SockProtocol::EthAll;
        let fd = socket::socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        // Room for a burst that the reader, on a busy machine, sees late.
        socket::setsockopt(&fd, sockopt::RcvBufForce, &(64 << 20))?;
        Ok(Wire { fd, link })
    }

    /// The interface's own address.
    pub fn mac(&self) -> Mac {
        Mac(self.link.addr().unwrap_or_default())
    }

    /// Sends a whole Ethernet frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        socket::sendto(self.fd.as_raw_fd(), frame, &self.link, MsgFlags::empty())?;
        Ok(())
    }

    /// The next frame on this interface, `None` after the timeout. A timeout of zero reads what has come already.
    pub fn receive(&self, timeout: Duration) -> io::Result<Option<Seen>> {
        let end = Instant::now() + timeout;
        let mut buffer = [0; 2048];
        loop {
            // Frames of other interfaces wake it too, and must not keep it. What is there already is read even when no time is left.
            let left = end.saturating_duration_since(Instant::now());
            let limit = PollTimeout::try_from(left).map_err(io::Error::other)?;
            if poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], limit)? == 0 {
                return Ok(None);
            }
            let (n, from) = socket::recvfrom::<LinkAddr>(self.fd.as_raw_fd(), &mut buffer)?;
            // The socket hears every interface of the namespace.
            if let Some(from) = from.filter(|f| f.family() == Some(AddressFamily::Packet))
                && from.ifindex() == self.link.ifindex()
                && let Some(seen) = Seen::parse(&buffer[..n], from.pkttype() == OUTGOING)
            {
                return Ok(Some(seen));
            }
        }
    }
}

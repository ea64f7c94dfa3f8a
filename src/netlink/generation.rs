//! The number that nf_tables gives to each of its states.

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkBuffer, NlasIterator};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::dump::{NLMSG_ERROR, refusal};
use super::nf_tables::{NFGENMSG, NFNL_SUBSYS_NFTABLES, message};
use super::{DATAGRAM, messages};

// linux/netfilter/nf_tables.h
pub(crate) const NEW_GENERATION: u16 = NFNL_SUBSYS_NFTABLES << 8 | 15;
const GET_GENERATION: u16 = NFNL_SUBSYS_NFTABLES << 8 | 16;
const NFTA_GEN_ID: u16 = 1;

/// The number of what the kernel holds now, in the calling thread's network namespace. The kernel answers at once.
pub(crate) fn generation() -> io::Result<u32> {
    let socket = Socket::new(NETLINK_NETFILTER)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    socket.send(&message(GET_GENERATION, NLM_F_REQUEST, 0, 0, &[]), 0)?;
    let mut datagram = Vec::with_capacity(DATAGRAM);
    socket.recv(&mut datagram, 0)?;
    for message in messages(&datagram) {
        let message = NetlinkBuffer::new(message);
        match message.message_type() {
            NLMSG_ERROR => return Err(refusal(message.payload())),
            NEW_GENERATION => {
                let attributes = message.payload().get(NFGENMSG..).unwrap_or_default();
                let number = NlasIterator::new(attributes).flatten().find(|a| a.kind() == NFTA_GEN_ID);
                if let Some(Ok(bytes)) = number.map(|a| <[u8; 4]>::try_from(a.value())) {
                    return Ok(u32::from_be_bytes(bytes));
                }
            }
            _ => {}
        }
    }
    Err(io::Error::other("the kernel gave no number"))
}

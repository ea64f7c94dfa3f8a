//! Netlink sockets as the sources and drivers need them: multicast listening that admits its losses, and rtnetlink conversations that
//! know whether an answer was complete.

mod dump;
mod generation;
mod ipset;
mod message;
mod multicast;
mod nexthops;
mod nf_tables;
mod route_socket;

pub(crate) use generation::{NEW_GENERATION, generation};
pub(crate) use ipset::sets_digest;
pub(crate) use message::numbers;
pub(crate) use multicast::{Multicast, Received};
pub(crate) use nexthops::{Nexthops, Way};
pub(crate) use nf_tables::{NatHold, nf_chains, nf_tables};
pub(crate) use route_socket::{RouteSocket, RouteSocketError};

use netlink_packet_core::NetlinkBuffer;

/// Room for one datagram: the kernel builds at most 32 KiB into one (NLMSG_GOODSIZE and the dump's own limit).
pub(crate) const DATAGRAM: usize = 64 * 1024;

/// The messages of one datagram, each with its header; ends at the first that does not fit.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = NetlinkBuffer::new_checked(rest).ok()?.length() as usize;
        let message = rest.get(..length)?;
        // NLMSG_ALIGN: the next one begins at a multiple of four.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32, padding: usize) -> Vec<u8> {
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.resize(length as usize + padding, 0);
        bytes
    }

    #[test]
    fn a_datagram_is_cut_at_aligned_message_boundaries() {
        let datagram = [message(17, 3), message(16, 0), message(20, 0)].concat();
        let lengths: Vec<_> = messages(&datagram).map(<[u8]>::len).collect();
        assert_eq!(lengths, [17, 16, 20]);
    }

    #[test]
    fn a_cut_off_message_ends_the_datagram() {
        let mut datagram = [message(16, 0), message(20, 0)].concat();
        datagram.pop();
        assert_eq!(messages(&datagram).count(), 1);
        assert_eq!(messages(&[0; 64]).count(), 0);
    }
}

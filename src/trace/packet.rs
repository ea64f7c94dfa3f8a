use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::model::{InterfaceName, Protocol};
use crate::ruleset::CtDirection;

/// A packet as it arrives by an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub kind: PacketKind,
    /// Where it arrives; the host need not know the interface.
    pub interface: InterfaceName,
    /// TTL or hop limit on arrival.
    pub hop_limit: u8,
    pub state: PacketState,
}

/// What the IP header carries. The family of the addresses says whether `Icmp` is ICMP or ICMPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PacketKind {
    Tcp {
        source_port: u16,
        destination_port: u16,
    },
    Udp {
        source_port: u16,
        destination_port: u16,
    },
    Icmp {
        kind: u8,
        code: u8,
    },
    /// Any other IP protocol, by its number.
    Other(u8),
}

/// What connection tracking says of the packet on arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PacketState {
    /// Begins a connection.
    New,
    /// A TCP segment without SYN, taken for the middle of a connection that began elsewhere (nf_conntrack_tcp_loose): NEW too.
    PickedUp,
    /// Belongs to no connection and cannot begin one, e.g. SYN+ACK out of nowhere.
    Invalid,
    /// Not tracked, e.g. IPv6 neighbour discovery.
    Untracked,
    /// Belongs to a connection that has seen packets both ways.
    Established {
        direction: CtDirection,
        connmark: u32,
        /// The connection's destination was translated (`--ctstate DNAT`).
        dnat: bool,
        /// What connection tracking puts into the packet's destination before it is routed: the pod in the original direction of a
        /// mapped connection, the client in the reply direction of one whose source was translated. `None` leaves it as it is.
        destination: Option<SocketAddr>,
    },
}

impl Packet {
    /// The first packet of a connection, with the usual hop limit of 64.
    pub fn first(interface: &str, source: IpAddr, destination: IpAddr, kind: PacketKind) -> Self {
        Packet { source, destination, kind, interface: interface.to_owned(), hop_limit: 64, state: PacketState::New }
    }
}

impl PacketKind {
    /// Source and destination port of a TCP or UDP packet.
    pub fn ports(self) -> Option<(Protocol, u16, u16)> {
        match self {
            PacketKind::Tcp { source_port, destination_port } => Some((Protocol::Tcp, source_port, destination_port)),
            PacketKind::Udp { source_port, destination_port } => Some((Protocol::Udp, source_port, destination_port)),
            PacketKind::Icmp { .. } | PacketKind::Other(_) => None,
        }
    }

    /// The port that an address is completed with; 0 where the protocol has none.
    pub(super) fn destination_port(self) -> u16 {
        self.ports().map_or(0, |(_, _, port)| port)
    }

    /// The same with another destination port, where there is one.
    pub(super) fn to_port(self, port: u16) -> Self {
        match self {
            PacketKind::Tcp { source_port, .. } => PacketKind::Tcp { source_port, destination_port: port },
            PacketKind::Udp { source_port, .. } => PacketKind::Udp { source_port, destination_port: port },
            other => other,
        }
    }
}

/// An address and its port; port 0 stands for a protocol without ports and is not shown.
pub(super) struct Shown(pub IpAddr, pub u16);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Shown(address, 0) => write!(f, "{address}"),
            Shown(address, port) => write!(f, "{}", SocketAddr::new(address, port)),
        }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let icmp = if self.source.is_ipv4() { "icmp" } else { "icmpv6" };
        let (name, source_port) = match self.kind {
            PacketKind::Tcp { source_port, .. } => ("tcp".to_owned(), source_port),
            PacketKind::Udp { source_port, .. } => ("udp".to_owned(), source_port),
            PacketKind::Icmp { kind, code } => (format!("{icmp} type {kind} code {code}"), 0),
            PacketKind::Other(protocol) => (format!("protocol {protocol}"), 0),
        };
        let from = Shown(self.source, source_port);
        let to = Shown(self.destination, self.kind.destination_port());
        write!(f, "{name} {from} -> {to}, arriving by {}, {}", self.interface, self.state)
    }
}

impl fmt::Display for PacketState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PacketState::New => f.write_str("first of a connection"),
            PacketState::PickedUp => f.write_str("of a connection that began unseen"),
            PacketState::Invalid => f.write_str("of no valid connection"),
            PacketState::Untracked => f.write_str("untracked"),
            PacketState::Established { direction: CtDirection::Original, .. } => f.write_str("of a connection"),
            PacketState::Established { direction: CtDirection::Reply, .. } => f.write_str("answer of a connection"),
        }
    }
}

//! Packets as bytes, and what became of them as far as a border's wires and its own ears can tell.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bed::Namespace;
use bed::packet::{self, Icmp, Ipv4, Ipv6, Seen, flags, number};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};
use nix::unistd::Pid;
use smartnat::model::{Family, Host, InterfaceAddress};
use smartnat::ruleset::RejectWith;
use smartnat::trace::{Outcome, Packet, PacketKind, SourceSeen};

/// Everything that a packet does happens on one processor, before the sending call returns or soon after.
pub const SOON: Duration = Duration::from_secs(60);

/// What was seen of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    Forwarded { to: SocketAddr, source: IpAddr, source_port: u16, out_interface: &'static str },
    Delivered { to: SocketAddr },
    Refused(RejectWith),
    Nothing,
}

impl Observed {
    /// What became of the packet that ends in `tag`, from the frames that left the border (each with its interface, in order) and from
    /// where the border delivered it to.
    pub fn judge(
        packet: &Packet,
        tag: &[u8],
        left: &[(&'static str, Seen)],
        delivered: Option<SocketAddr>,
    ) -> Observed {
        let carries_tag = |seen: &Seen| seen.payload.ends_with(tag);
        // An answer to an echo request brings the tag back.
        let is_itself = |seen: &Seen| match packet.kind {
            PacketKind::Icmp { kind, .. } => seen.icmp_type == Some(kind),
            _ => !is_icmp_error(seen),
        };
        let find = |wanted: &dyn Fn(&Seen) -> bool| left.iter().find(|(_, seen)| wanted(seen));
        // Behind the border others answer, too: what it did itself with the packet comes first.
        if let Some((out_interface, seen)) = find(&|s| carries_tag(s) && is_itself(s)) {
            return Observed::Forwarded {
                to: SocketAddr::new(seen.to.unwrap(), seen.to_port),
                source: seen.from.unwrap(),
                source_port: seen.from_port,
                out_interface,
            };
        }
        if let Some(to) = delivered {
            return Observed::Delivered { to };
        }
        let source_port = packet.kind.ports().map_or(0, |(_, port, _)| port);
        if find(&|s| s.is_tcp() && s.tcp_flags & flags::RST != 0 && s.to_port == source_port).is_some() {
            return Observed::Refused(RejectWith::TcpReset);
        }
        let unreachable = |s: &Seen, code| {
            carries_tag(s) && s.protocol == number::ICMP && (s.icmp_type, s.icmp_code) == (Some(3), code)
        };
        if find(&|s| unreachable(s, 3)).is_some() {
            return Observed::Refused(RejectWith::PortUnreachable);
        }
        // Nobody listens for other protocols; the answer to them says that they came through.
        if matches!(packet.kind, PacketKind::Other(_)) && find(&|s| unreachable(s, 2)).is_some() {
            return Observed::Delivered { to: SocketAddr::new(packet.destination, 0) };
        }
        Observed::Nothing
    }

    /// Whether this is what a traced outcome says.
    pub fn is(&self, outcome: &Outcome, packet: &Packet, host: &Host) -> bool {
        match (self, outcome) {
            (
                Observed::Forwarded { to, source, out_interface, .. },
                Outcome::Forwarded { to: t, source: s, out_interface: o },
            ) => {
                let first = |a: &&InterfaceAddress| a.address.is_ipv4();
                let expected = match s {
                    SourceSeen::Kept => Some(packet.source),
                    SourceSeen::Snat(address) => Some(*address),
                    SourceSeen::Masquerade => host.links[o].addresses.iter().find(first).map(|a| a.address),
                };
                to == t && out_interface == o && Some(*source) == expected
            }
            (Observed::Delivered { to }, Outcome::Delivered { to: t }) => to == t,
            (Observed::Refused(with), Outcome::Refused { with: w }) => with == w,
            (Observed::Nothing, Outcome::Dropped(_)) => true,
            _ => false,
        }
    }

    /// Forwarded, delivered, refused, nothing: 0 to 3.
    pub fn sort(&self) -> usize {
        match self {
            Observed::Forwarded { .. } => 0,
            Observed::Delivered { .. } => 1,
            Observed::Refused(_) => 2,
            Observed::Nothing => 3,
        }
    }
}

/// Hears copies of what the border delivers to itself.
pub struct Ears(Vec<(Family, SockProtocol, OwnedFd)>);

impl Ears {
    pub fn open(border: &Namespace) -> Ears {
        let ears = border.within(|| {
            [
                (Family::Ipv4, AddressFamily::Inet, SockProtocol::Tcp),
                (Family::Ipv4, AddressFamily::Inet, SockProtocol::Udp),
                (Family::Ipv4, AddressFamily::Inet, SockProtocol::Icmp),
                (Family::Ipv6, AddressFamily::Inet6, SockProtocol::Tcp),
                (Family::Ipv6, AddressFamily::Inet6, SockProtocol::Udp),
                (Family::Ipv6, AddressFamily::Inet6, SockProtocol::IcmpV6),
            ]
            .map(|(family, domain, protocol)| {
                let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
                (family, protocol, socket::socket(domain, SockType::Raw, flags, protocol).unwrap())
            })
        });
        Ears(ears.into())
    }

    /// Where the border delivered the packet to, if it did. Reads every ear empty.
    pub fn heard(&self, packet: &Packet, tag: &[u8]) -> Option<SocketAddr> {
        let mut to = None;
        let mut buffer = [0; 2048];
        for (family, protocol, ear) in &self.0 {
            loop {
                let n = match socket::recv(ear.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    Ok(n) => n,
                    Err(Errno::EAGAIN) => break,
                    Err(e) => panic!("raw socket: {e}"),
                };
                let bytes = &buffer[..n];
                if !bytes.ends_with(tag) {
                    continue;
                }
                // IPv4 comes with its header, IPv6 without.
                let (address, transport) = match family {
                    Family::Ipv4 => (Ipv4Addr::new(bytes[16], bytes[17], bytes[18], bytes[19]).into(), &bytes[20..]),
                    Family::Ipv6 => (packet.destination, bytes),
                };
                let port = match protocol {
                    SockProtocol::Tcp | SockProtocol::Udp => u16::from_be_bytes([transport[2], transport[3]]),
                    _ => 0,
                };
                // An error about a packet with a forged source comes back to the box, and ends with its tag too.
                let is_error = match packet.kind {
                    PacketKind::Icmp { kind, .. } => transport[0] != kind,
                    _ => matches!(protocol, SockProtocol::Icmp | SockProtocol::IcmpV6),
                };
                if !is_error {
                    to = Some(SocketAddr::new(address, port));
                }
            }
        }
        to
    }
}

/// Packets between veth ends queue on the processor that sends: on one alone they stay in order. Tests take turns among processors.
pub fn stay_on_one_processor() {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).unwrap();
    let all: Vec<usize> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap()).collect();
    let mut one = CpuSet::new();
    one.set(all[TURN.fetch_add(1, Ordering::Relaxed) % all.len()]).unwrap();
    sched_setaffinity(this, &one).unwrap();
}

fn is_icmp_error(seen: &Seen) -> bool {
    match (seen.protocol, seen.icmp_type) {
        (number::ICMP, Some(kind)) => matches!(kind, 3 | 5 | 11 | 12),
        (number::ICMPV6, Some(kind)) => kind < 128,
        _ => false,
    }
}

/// The packet on the wire, with `tag` as its payload.
pub fn ip_packet(packet: &Packet, tcp_flags: u8, tag: &[u8]) -> Vec<u8> {
    /// An IPv4 header without options.
    const HEADER: usize = 20;
    let (from, to) = match (packet.source, packet.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (from, to),
        // Nothing on the way looks at TCP's and UDP's checksum in IPv6, which covers the addresses.
        _ => (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED),
    };
    let (protocol, body) = match packet.kind {
        PacketKind::Tcp { source_port, destination_port } => {
            let (from, to) = (SocketAddrV4::new(from, source_port), SocketAddrV4::new(to, destination_port));
            (number::TCP, packet::tcp_packet(from, to, tcp_flags, tag).split_off(HEADER))
        }
        PacketKind::Udp { source_port, destination_port } => {
            let (from, to) = (SocketAddrV4::new(from, source_port), SocketAddrV4::new(to, destination_port));
            (number::UDP, packet::udp_packet(from, to, tag).split_off(HEADER))
        }
        PacketKind::Icmp { kind, code } => {
            let icmp = Icmp { kind, code, rest: 1 << 16 | 1 };
            match (packet.source, packet.destination) {
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    return packet::icmp6_packet(from, to, packet.hop_limit, icmp, tag);
                }
                _ => (number::ICMP, packet::icmp_packet(from, to, icmp, tag).split_off(HEADER)),
            }
        }
        PacketKind::Other(protocol) => (protocol, tag.to_vec()),
    };
    match (packet.source, packet.destination) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet::ip6(Ipv6 { from, to, next_header: protocol, hop_limit: packet.hop_limit }, &body)
        }
        _ => packet::ip(Ipv4 { ttl: packet.hop_limit, ..Ipv4::new(from, to, protocol) }, &body),
    }
}

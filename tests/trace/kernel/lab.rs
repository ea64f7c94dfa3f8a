//! A border in a network namespace of its own, with the far ends of its interfaces in another that has no addresses: what the border
//! sends is seen there as it left, and nothing answers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bed::Namespace;
use bed::packet::{self, Icmp, Ipv4, Ipv6, Mac, Seen, Wire, flags, number};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};
use nix::unistd::Pid;
use smartnat::model::{Family, Host};
use smartnat::ruleset::{Dataplane, RejectWith};
use smartnat::trace::{Outcome, Packet, PacketKind, SourceSeen};

use super::render;

/// The border's interfaces, each with the name of its far end; `eth9` is one that neither host nor rules know.
pub const INTERFACES: [(&str, &str); 4] = [("eth0", "far0"), ("eth1", "far1"), ("eth2", "far2"), ("eth9", "far9")];

/// On-link addresses whose MAC the border knows; nobody is there to answer ARP.
const NEIGHBOURS: [(&str, &[&str]); 3] = [
    ("eth0", &["10.0.0.1", "10.0.0.3", "10.0.0.9", "fd00::1", "fd00::9"]),
    ("eth1", &["203.0.113.1", "203.0.113.77", "2001:db8:1::1"]),
    ("eth2", &["198.51.100.1", "198.51.100.77"]),
];

/// Everything that a packet does happens on one processor, before the sending call returns or soon after.
const SOON: Duration = Duration::from_secs(10);

pub struct Lab {
    pub border: Namespace,
    /// Keeps the far ends.
    _far: Namespace,
    wires: Vec<(&'static str, Wire)>,
    /// Copies of what the border delivers to itself.
    ears: Vec<(Family, SockProtocol, OwnedFd)>,
    sent: u64,
}

/// What was seen of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    Forwarded { to: SocketAddr, source: IpAddr, source_port: u16, out_interface: &'static str },
    Delivered { to: SocketAddr },
    Refused(RejectWith),
    Nothing,
}

impl Lab {
    /// Makes the namespaces and loads the dataplane by the kernel's own tools.
    pub fn new(plane: &Dataplane, host: &Host) -> Lab {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        stay_on_one_processor();
        let prefix = format!("snt-{}-trace{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let border = Namespace::create(format!("{prefix}-border"));
        let far = Namespace::create(format!("{prefix}-far"));
        far.set_sysctl("net/ipv6/conf/all/disable_ipv6", "1");
        far.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        for (parameter, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
            // Every refusal is to be seen.
            ("ipv4/icmp_ratemask", "0"),
            ("ipv6/icmp/ratelimit", "0"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/addr_gen_mode", "1"),
            ("netfilter/nf_conntrack_tcp_be_liberal", "1"),
        ] {
            border.set_sysctl(&format!("net/{parameter}"), value);
        }
        for (n, (near, end)) in INTERFACES.iter().enumerate() {
            let mac = mac_of(n);
            border.ip(&format!("link add {near} address {mac} type veth peer name {end} netns {}", far.name()));
            border.ip(&format!("link set {near} up"));
            far.ip(&format!("link set {end} up"));
        }
        border.ip(&render::addresses_and_routing(plane, host));
        for (n, (interface, addresses)) in NEIGHBOURS.iter().enumerate() {
            for address in *addresses {
                border.ip(&format!("neigh add {address} lladdr {} nud permanent dev {interface}", far_mac_of(n)));
            }
        }
        border.feed("ipset restore", &render::sets(plane));
        border.feed("iptables-restore --noflush", &render::tables(plane, Family::Ipv4));
        border.feed("ip6tables-restore --noflush", &render::tables(plane, Family::Ipv6));
        let wires = far.within(|| INTERFACES.map(|(near, end)| (near, Wire::open(end).unwrap())));
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
        Lab { border, _far: far, wires: wires.into(), ears: ears.into(), sent: 0 }
    }

    /// Puts the IPv4 rules of another dataplane in place of those there, table by table.
    pub fn replace_tables(&self, plane: &Dataplane) {
        self.border.feed("iptables-restore", &render::tables(plane, Family::Ipv4));
    }

    /// Forgets all connections, so that the next packet is the first of its own.
    pub fn forget_connections(&self) {
        self.border.run("conntrack -F");
    }

    /// Sends a packet and says what became of it. `tcp_flags` counts for TCP only.
    pub fn send(&mut self, packet: &Packet, tcp_flags: u8) -> Observed {
        self.sent += 1;
        let tag = format!("packet {} ends", self.sent).into_bytes();
        let n = INTERFACES.iter().position(|(near, _)| *near == packet.interface).expect("an interface of the lab");
        self.transmit(n, &ip_packet(packet, tcp_flags, &tag), packet);
        let frames = self.frames_until_quiet();
        let heard = self.heard(packet, &tag);
        let find = |wanted: &dyn Fn(&Seen) -> bool| frames.iter().find(|(_, seen)| wanted(seen));
        let carries_tag = |seen: &Seen| seen.payload.windows(tag.len()).any(|w| w == tag);
        if let Some(to) = heard {
            return Observed::Delivered { to };
        }
        let source_port = packet.kind.ports().map_or(0, |(_, port, _)| port);
        if find(&|s| s.is_tcp() && s.tcp_flags & flags::RST != 0 && s.to_port == source_port && !carries_tag(s))
            .is_some()
        {
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
        match find(&|s| carries_tag(s) && !is_icmp_error(s)) {
            Some((out_interface, seen)) => Observed::Forwarded {
                to: SocketAddr::new(seen.to.unwrap(), seen.to_port),
                source: seen.from.unwrap(),
                source_port: seen.from_port,
                out_interface,
            },
            None => Observed::Nothing,
        }
    }

    fn transmit(&self, n: usize, ip: &[u8], packet: &Packet) {
        let ethertype = if packet.source.is_ipv4() { number::IPV4 } else { number::IPV6 };
        let frame = packet::ethernet(far_mac_of(n), mac_of(n), ethertype, ip);
        self.wires[n].1.send(&frame).unwrap_or_else(|e| panic!("{packet}: {e}"));
    }

    /// Everything that left the border, up to the appearance of a packet that no rule touches and that was sent last.
    fn frames_until_quiet(&mut self) -> Vec<(&'static str, Seen)> {
        self.sent += 1;
        let tag = format!("packet {} ends", self.sent).into_bytes();
        let kind = PacketKind::Udp { source_port: 9, destination_port: 9 };
        let last = Packet::first("eth0", [10, 244, 9, 99].into(), [10, 0, 0, 1].into(), kind);
        self.transmit(0, &ip_packet(&last, 0, &tag), &last);
        let mut frames = Vec::new();
        loop {
            let seen = self.wires[0].1.receive(SOON).unwrap();
            let seen = seen.unwrap_or_else(|| panic!("{last} did not come through: the lab is broken"));
            if seen.payload == tag {
                break;
            }
            frames.push((self.wires[0].0, seen));
        }
        for (near, wire) in &self.wires[1..] {
            while let Some(seen) = wire.receive(Duration::ZERO).unwrap() {
                frames.push((*near, seen));
            }
        }
        frames.retain(|(_, seen)| !seen.outgoing);
        frames
    }

    /// Where the border delivered the packet to, if it did. Reads every ear empty.
    fn heard(&self, packet: &Packet, tag: &[u8]) -> Option<SocketAddr> {
        let mut to = None;
        let mut buffer = [0; 2048];
        for (family, protocol, ear) in &self.ears {
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

impl Observed {
    /// Whether this is what a traced outcome says.
    pub fn is(&self, outcome: &Outcome, packet: &Packet, host: &Host) -> bool {
        match (self, outcome) {
            (
                Observed::Forwarded { to, source, out_interface, .. },
                Outcome::Forwarded { to: t, source: s, out_interface: o },
            ) => {
                let first = |a: &smartnat::model::InterfaceAddress| a.address.is_ipv4();
                let expected = match s {
                    SourceSeen::Kept => Some(packet.source),
                    SourceSeen::Snat(address) => Some(*address),
                    SourceSeen::Masquerade => host.links[o].addresses.iter().find(|a| first(a)).map(|a| a.address),
                };
                to == t && out_interface == o && Some(*source) == expected
            }
            (Observed::Delivered { to }, Outcome::Delivered { to: t }) => to == t,
            (Observed::Refused(with), Outcome::Refused { with: w }) => with == w,
            (Observed::Nothing, Outcome::Dropped(_)) => true,
            _ => false,
        }
    }
}

fn mac_of(n: usize) -> Mac {
    Mac([2, 0, 0, 0, 0, n as u8])
}

fn far_mac_of(n: usize) -> Mac {
    Mac([2, 0, 0, 0, 1, n as u8])
}

/// Packets between veth ends queue on the processor that sends: on one alone they stay in order.
fn stay_on_one_processor() {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).unwrap();
    let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap()).unwrap();
    let mut one = CpuSet::new();
    one.set(first).unwrap();
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
fn ip_packet(packet: &Packet, tcp_flags: u8, tag: &[u8]) -> Vec<u8> {
    /// An IPv4 header without options.
    const HEADER: usize = 20;
    let (from, to) = match (packet.source, packet.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (from, to),
        // Nothing on the way looks at TCP's and UDP's checksum in IPv6, which covers the addresses.
        _ => (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED),
    };
    let (protocol, body) = match packet.kind {
        PacketKind::Tcp { source_port, destination_port } => {
            let (from, to) =
                (std::net::SocketAddrV4::new(from, source_port), std::net::SocketAddrV4::new(to, destination_port));
            (number::TCP, packet::tcp_packet(from, to, tcp_flags, tag).split_off(HEADER))
        }
        PacketKind::Udp { source_port, destination_port } => {
            let (from, to) =
                (std::net::SocketAddrV4::new(from, source_port), std::net::SocketAddrV4::new(to, destination_port));
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

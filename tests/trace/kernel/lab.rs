//! A border in a network namespace of its own, with the far ends of its interfaces in another that has no addresses: what the border
//! sends is seen there as it left, and nothing answers.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bed::Namespace;
use bed::packet::{self, Mac, Seen, Wire, number};
use smartnat::model::{Family, Host};
use smartnat::ruleset::Dataplane;
use smartnat::trace::{Packet, PacketKind};

use super::observe::{Ears, Observed, SOON, ip_packet, stay_on_one_processor};
use super::render;

/// The border's interfaces, each with the name of its far end; `eth9` is one that neither host nor rules know.
pub const INTERFACES: [(&str, &str); 4] = [("eth0", "far0"), ("eth1", "far1"), ("eth2", "far2"), ("eth9", "far9")];

/// On-link addresses whose MAC the border knows; nobody is there to answer ARP.
const NEIGHBOURS: [(&str, &[&str]); 3] = [
    ("eth0", &["10.0.0.1", "10.0.0.3", "10.0.0.9", "fd00::1", "fd00::9", "fe80::10", "fe80::99"]),
    ("eth1", &["203.0.113.1", "203.0.113.77", "2001:db8:1::1"]),
    ("eth2", &["198.51.100.1", "198.51.100.77"]),
];

pub struct Lab {
    pub border: Namespace,
    /// Keeps the far ends.
    _far: Namespace,
    wires: Vec<(&'static str, Wire)>,
    ears: Ears,
    sent: u64,
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
        let ears = Ears::open(&border);
        Lab { border, _far: far, wires: wires.into(), ears, sent: 0 }
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
        Observed::judge(packet, &tag, &frames, self.ears.heard(packet, &tag))
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
}

fn mac_of(n: usize) -> Mac {
    Mac([2, 0, 0, 0, 0, n as u8])
}

fn far_mac_of(n: usize) -> Mac {
    Mac([2, 0, 0, 0, 1, n as u8])
}

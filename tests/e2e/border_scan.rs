//! The border under raw packets from outside: exactly the mapped endpoints answer, to allowed sources.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use bed::packet::{
    Icmp, Ipv4, Mac, Seen, Sniffer, Wire, ethernet, flags, icmp_packet, ip, number, tcp_packet, udp_packet,
};
use bed::peer::Proto;
use bed::{Bed, Manifests, Namespace};

use crate::support::{assert_served, daemon, heard, manifests, mapping, put_ears, try_port};

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Something that answers on every address of the box: ssh, an API server's port, kubelet's, a NodePort.
const LOCAL_PORTS: [u16; 4] = [22, 6443, 10250, 30080];
const LOCAL_UDP: u16 = 30053;
/// The only source allowed; nothing but markers claims to come from it.
const ALLOWED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

/// A box with open ports, a route to a Service range whose address answers, and one Mapping that no attacker may use.
fn fortress() -> (Bed, Manifests) {
    let bed = Bed::new();
    let any = |port| SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    bed.serve("border", "box", &LOCAL_PORTS.map(any), &[any(LOCAL_UDP)]);
    bed.border.ip("route add 10.96.0.0/16 via 10.0.0.1");
    bed.core.ip(&format!("address add {CLUSTER_IP}/32 dev lo"));
    bed.serve("core", "service", &[SocketAddrV4::new(CLUSTER_IP, 80)], &[SocketAddrV4::new(CLUSTER_IP, 53)]);
    // Nobody is there to answer the markers' answers, with an ICMP error for example, which would rightly pass.
    for router in [&bed.r1, &bed.r2] {
        router.ip(&format!("route add blackhole {ALLOWED}/32"));
    }
    put_ears(&bed);
    let manifests = manifests([mapping("web", &[Bed::EXT1, Bed::EXT2]).source(&ALLOWED.to_string())]);
    (bed, manifests)
}

/// An attacker's place on a wire with the border, and the ears around.
struct Siege<'a> {
    bed: &'a Bed,
    from: &'a Namespace,
    /// The border's interface on this wire, by its first address.
    nic: Ipv4Addr,
    cluster: Sniffer,
    wires: [Sniffer; 2],
    markers: u16,
}

impl<'a> Siege<'a> {
    fn lay(bed: &'a Bed, from: &'a Namespace, nic: Ipv4Addr) -> Siege<'a> {
        let wires = [Sniffer::start(&bed.attacker1, "eth0"), Sniffer::start(&bed.attacker2, "eth0")];
        bed.border.run("iptables -w -Z");
        Siege { bed, from, nic, cluster: Sniffer::start(&bed.core, "cluster"), wires, markers: 0 }
    }

    /// Sends IPv4 packets to the border's interface, then one that must get through, and waits for it: what was to pass has passed.
    fn assault(&mut self, packets: &[Vec<u8>]) {
        for wave in packets.chunks(1024) {
            self.markers += 1;
            let text = format!("marker {} of {}", self.markers, self.nic);
            let to = SocketAddrV4::new(self.nic, 53);
            let marker = udp_packet(SocketAddrV4::new(ALLOWED, 50_000 + self.markers), to, text.as_bytes());
            self.from.within(|| {
                let wire = Wire::open("eth0").unwrap();
                for packet in wave.iter().chain([&marker]) {
                    wire.send(&ethernet(wire.mac(), Mac::of(self.nic), number::IPV4, packet)).unwrap();
                }
            });
            self.cluster.await_seen("the marker", |s| s.payload == text.as_bytes());
        }
    }

    /// Nothing but markers and their answers got through, nothing was answered, nothing is remembered.
    #[track_caller]
    fn nothing_passed(&self) {
        let marker = |s: &Seen| s.payload.starts_with(b"marker ");
        let passed = |s: &Seen| s.from_mac == Mac::of(Bed::BORDER) && s.ethertype == number::IPV4 && !marker(s);
        assert_eq!(self.cluster.seen(passed), [], "went into the cluster");
        let border = [Mac::of(Bed::EXT1), Mac::of(Bed::EXT2)];
        let known = [Bed::R1, Bed::R2, Bed::ATTACKER1, Bed::ATTACKER2];
        for wire in &self.wires {
            // Asking for the MAC of a forged neighbour would be the beginning of an answer to it.
            let asks = |s: &Seen| s.ethertype == number::ARP && !known.iter().any(|k| s.is_to(*k));
            let answered = |s: &Seen| border.contains(&s.from_mac) && (s.ethertype == number::IPV4 || asks(s));
            let markers = |s: &Seen| s.is_udp() && s.is_to(ALLOWED);
            assert_eq!(wire.seen(|s| answered(s) && !markers(s)), [], "was answered");
        }
        assert_eq!(heard(self.bed, "iptables", "INPUT"), 0, "packets reached the box itself");
        assert_eq!(heard(self.bed, "iptables", "FORWARD"), u64::from(self.markers), "packets were forwarded");
        let entries = self.bed.conntrack();
        // The box's loopback has the tests' own questions to the daemon.
        let known = [&format!("src={ALLOWED} "), "src=127.0.0.1 dst=127.0.0.1 "];
        let strange: Vec<_> = entries.iter().filter(|e| !known.iter().any(|k| e.contains(*k))).collect();
        assert_eq!(strange, [""; 0], "is remembered");
    }
}

/// Addresses that an outsider might try.
fn targets() -> Vec<Ipv4Addr> {
    let more = [
        "10.0.0.1",
        "10.0.0.2",
        "10.244.1.1",
        "127.0.0.1",
        "255.255.255.255",
        "203.0.113.255",
        "224.0.0.1",
        "224.0.0.18",
    ];
    let more = more.map(|a| a.parse().unwrap());
    [Bed::EXT1, Bed::EXT1B, Bed::EXT2, Bed::POD1, Bed::POD2, CLUSTER_IP].into_iter().chain(more).collect()
}

const PORTS: [u16; 9] = [80, 53, 22, 6443, 10250, 30080, LOCAL_UDP, 8080, 9090];
const SCANS: [u8; 8] =
    [flags::SYN, flags::RST, flags::FIN, flags::NULL, flags::XMAS, flags::SYN_ACK, flags::ACK, flags::RST | flags::ACK];

/// Every kind of packet from one source to one target.
fn barrage(from: Ipv4Addr, to: Ipv4Addr) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for port in PORTS {
        let (source, target) = (SocketAddrV4::new(from, 40_000 + port % 1000), SocketAddrV4::new(to, port));
        packets.extend(SCANS.map(|scan| tcp_packet(source, target, scan, b"")));
        packets.push(tcp_packet(source, target, flags::SYN, b"data with the SYN"));
        packets.push(udp_packet(source, target, b"who are you?\n"));
        // As if it were the answer of a server to one of us.
        packets.push(udp_packet(SocketAddrV4::new(from, 53), SocketAddrV4::new(to, port), b"unsolicited"));
        packets.push(tcp_packet(SocketAddrV4::new(from, 80), SocketAddrV4::new(to, port), flags::SYN_ACK, b""));
    }
    packets.extend(fragments(from, to));
    // A datagram that the box is said to have sent, for errors to complain about.
    let sent = udp_packet(SocketAddrV4::new(to, 53), SocketAddrV4::new(from, 53), b"");
    for (kind, code) in
        [(0, 0), (3, 0), (3, 3), (3, 4), (4, 0), (5, 1), (8, 0), (11, 0), (12, 0), (13, 0), (15, 0), (17, 0)]
    {
        // Echo to the box's own external addresses is an opening, and has its own test.
        if kind == 8 && [Bed::EXT1, Bed::EXT1B, Bed::EXT2].contains(&to) {
            continue;
        }
        packets.push(icmp_packet(from, to, Icmp { kind, code, rest: 0x0001_0001 }, &sent[..28]));
    }
    // IP in IP, GRE, ESP, OSPF, VRRP, SCTP, UDP-Lite.
    packets.extend([4, 47, 50, 89, 112, 132, 136].map(|protocol| ip(Ipv4::new(from, to, protocol), &[0; 40])));
    packets
}

/// A TCP SYN cut inside its header, a UDP datagram in two halves in the wrong order, and a later fragment alone.
fn fragments(from: Ipv4Addr, to: Ipv4Addr) -> Vec<Vec<u8>> {
    let pieces = |whole: &[u8], id: u16, cut: usize| {
        let payload = &whole[20..];
        let header = Ipv4 { id, ..Ipv4::new(from, to, whole[9]) };
        let first = ip(Ipv4 { more_fragments: true, ..header }, &payload[..cut]);
        [first, ip(Ipv4 { offset: cut as u16 / 8, ..header }, &payload[cut..])]
    };
    let source = SocketAddrV4::new(from, 41_000);
    let syn = tcp_packet(source, SocketAddrV4::new(to, 8080), flags::SYN, b"");
    let datagram = udp_packet(source, SocketAddrV4::new(to, 9090), b"a datagram in halves");
    let [second, first] = pieces(&datagram, 101, 16);
    let [_, alone] = pieces(&datagram, 102, 16);
    pieces(&syn, 100, 8).into_iter().chain([first, second, alone]).collect()
}

#[test]
fn nothing_but_markers_passes_a_siege_from_the_wire_and_from_beyond_the_router() {
    let (bed, manifests) = fortress();
    let _daemon = daemon(&bed, &manifests).start();
    bed.border.run("conntrack -F");
    for (attacker, own, nic) in
        [(&bed.attacker1, Bed::ATTACKER1, Bed::EXT1), (&bed.attacker2, Bed::ATTACKER2, Bed::EXT2)]
    {
        let mut siege = Siege::lay(&bed, attacker, nic);
        for source in [own, Ipv4Addr::new(192, 0, 2, 99), Ipv4Addr::new(100, 64, 0, 1)] {
            let packets: Vec<_> = targets().into_iter().flat_map(|to| barrage(source, to)).collect();
            siege.assault(&packets);
        }
        siege.nothing_passed();
    }
    assert_eq!(bed.core.get(Proto::Tcp, Bed::BORDER, 22).unwrap().name, "box", "inside, the box answers");
    assert_eq!(bed.border.get(Proto::Tcp, CLUSTER_IP, 80).unwrap().name, "service");
}

#[test]
fn forged_sources_of_the_cluster_and_of_the_box_itself_pass_nowhere() {
    let (bed, mut manifests) = fortress();
    // Even where everyone is allowed, nobody outside is a pod; the marker's own Mapping stays as it is.
    manifests.put(mapping("open", &[Bed::EXT1B])).write();
    let _daemon = daemon(&bed, &manifests).start();
    bed.border.run("conntrack -F");
    let forged = [
        "10.244.1.2",
        "10.244.9.9",
        "10.96.0.10",
        "10.0.0.1",
        "10.0.0.2",
        "10.0.0.66",
        "203.0.113.10",
        "198.51.100.10",
        "127.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
    ];
    let mut siege = Siege::lay(&bed, &bed.attacker1, Bed::EXT1);
    for source in forged {
        let packets: Vec<_> = targets().into_iter().flat_map(|to| barrage(source.parse().unwrap(), to)).collect();
        siege.assault(&packets);
    }
    siege.nothing_passed();
}

/// Ports of an address that answer a SYN, or a datagram, of an allowed source.
fn answering(bed: &Bed, proto: Proto, address: Ipv4Addr, ports: impl Iterator<Item = u16>) -> BTreeSet<u16> {
    let sniffer = Sniffer::start(&bed.attacker1, "eth0");
    let marker = SocketAddrV4::new(Bed::EXT1, 53);
    let ports: Vec<u16> = ports.collect();
    let mut answered = BTreeSet::new();
    for (n, wave) in ports.chunks(4096).enumerate() {
        bed.attacker1.within(|| {
            let wire = Wire::open("eth0").unwrap();
            let send = |packet: Vec<u8>| {
                wire.send(&ethernet(wire.mac(), Mac::of(Bed::EXT1), number::IPV4, &packet)).unwrap();
            };
            for port in wave {
                let (from, to) = (SocketAddrV4::new(Bed::ATTACKER1, 40_000), SocketAddrV4::new(address, *port));
                send(match proto {
                    Proto::Tcp => tcp_packet(from, to, flags::SYN, b""),
                    Proto::Udp => udp_packet(from, to, b"who are you?\n"),
                });
            }
            send(udp_packet(SocketAddrV4::new(Bed::ATTACKER1, 45_000 + n as u16), marker, b"who are you?\n"));
        });
        sniffer.await_seen("the marker's answer", |s| s.is_from(Bed::EXT1) && s.to_port == 45_000 + n as u16);
        // Any answer counts, a reset too: an outsider learns nothing of what is not mapped.
        let answers = sniffer.seen(|s| s.from_mac == Mac::of(Bed::EXT1) && s.to_port == 40_000 && s.is_from(address));
        answered.extend(answers.iter().map(|s| s.from_port));
        sniffer.clear();
    }
    answered
}

#[test]
fn of_all_ports_exactly_the_mapped_ones_answer_an_allowed_source() {
    let (bed, mut manifests) = fortress();
    let web = mapping("web", &[Bed::EXT1]).port(Proto::Tcp, 65_535, 80).port(Proto::Udp, 1, 53);
    manifests.put(web.source(&Bed::ATTACKER1.to_string())).write();
    let _daemon = daemon(&bed, &manifests).start();
    assert_served(&bed.attacker1, Bed::EXT1);
    assert_eq!(answering(&bed, Proto::Tcp, Bed::EXT1, 1..=u16::MAX), [80, 65_535].into());
    assert_eq!(answering(&bed, Proto::Udp, Bed::EXT1, 1..=u16::MAX), [1, 53].into());
    let some = || (1..=1024).chain([6443, 8080, 9090, 10_250]).chain(30_000..32_768);
    for address in [Bed::EXT1B, Bed::EXT2, Bed::BORDER, Bed::POD1, CLUSTER_IP] {
        for proto in [Proto::Tcp, Proto::Udp] {
            assert_eq!(answering(&bed, proto, address, some()), BTreeSet::new(), "{proto} {address}");
        }
    }
}

#[test]
fn echo_is_answered_for_external_addresses_alone_and_not_at_all_when_closed() {
    for openings in ["icmp-echo,dhcp", ""] {
        let (bed, manifests) = fortress();
        let _daemon = daemon(&bed, &manifests).set("SNCTRLR_BORDER_OPENINGS", openings).start();
        let mut siege = Siege::lay(&bed, &bed.attacker1, Bed::EXT1);
        let asked = [Bed::EXT1, Bed::EXT1B, Bed::EXT2, Bed::BORDER, Bed::POD1, Bed::CORE, CLUSTER_IP];
        let echo = Icmp { kind: 8, code: 0, rest: 0x0007_0001 };
        siege.assault(&asked.map(|to| icmp_packet(Bed::ATTACKER1, to, echo, b"12345678")));
        let reply = |s: &Seen| s.protocol == number::ICMP && s.icmp_type == Some(0);
        let from: BTreeSet<_> = siege.wires[0].seen(reply).into_iter().filter_map(|s| s.from).collect();
        let expected: &[Ipv4Addr] = if openings.is_empty() { &[] } else { &[Bed::EXT1, Bed::EXT1B, Bed::EXT2] };
        assert_eq!(from, expected.iter().map(|a| (*a).into()).collect(), "with openings {openings:?}");
    }
}

#[test]
fn a_configured_opening_admits_its_port_from_its_network_alone() {
    let (bed, manifests) = fortress();
    let _daemon = daemon(&bed, &manifests).set("SNCTRLR_BORDER_OPENINGS", "tcp/22@192.0.2.0/25,udp/30053").start();
    assert_eq!(bed.client1.get(Proto::Tcp, Bed::EXT1, 22).unwrap().name, "box");
    assert!(try_port(&bed.client2, Proto::Tcp, Bed::EXT2, 22).is_err());
    assert!(try_port(&bed.client1, Proto::Tcp, Bed::EXT1, 6443).is_err());
    // The server listens on all addresses and answers from the one that the route back prefers: the reply's arrival is what counts.
    let wire = Sniffer::start(&bed.attacker1, "eth0");
    _ = try_port(&bed.attacker1, Proto::Udp, Bed::EXT1, LOCAL_UDP);
    wire.await_seen("an answer", |s| s.is_udp() && s.from_port == LOCAL_UDP && s.from_mac == Mac::of(Bed::EXT1));
}

#[test]
fn a_scan_from_the_inside_is_not_what_the_border_stops() {
    let (bed, manifests) = fortress();
    let _daemon = daemon(&bed, &manifests).start();
    for port in LOCAL_PORTS {
        assert_eq!(bed.core.get(Proto::Tcp, Bed::BORDER, port).unwrap().name, "box");
    }
    assert_eq!(bed.pod1.get(Proto::Tcp, Bed::POD2, 8080).unwrap().name, "pod2");
}

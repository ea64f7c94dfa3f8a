//! The border is closed in IPv6 too, though nothing is mapped there yet.

use std::net::{Ipv6Addr, SocketAddrV4};

use bed::packet::{Icmp, Ipv6, Mac, Seen, Sniffer, Wire, ethernet, icmp6_packet, ip6, number, udp_packet};
use bed::{Bed, Namespace};

use crate::support::{assert_served, daemon, heard, manifests, mapping, put_ears};

const ATTACKER: &str = "2001:db8:1::66";
const EXTERNAL: &str = "2001:db8:1::10";
const CORE: &str = "2001:db8:a::1";
/// MAC that the border is to learn from what it must not believe.
const ROGUE: Mac = Mac([2, 0, 0, 0, 0, 0x66]);

fn v6(address: &str) -> Ipv6Addr {
    address.parse().expect("an address of this file")
}

/// Sends IPv6 packets to the border's eth1, then an IPv4 marker, and waits for the pod to have got that.
fn send(bed: &Bed, cluster: &Sniffer, packets: &[Vec<u8>]) {
    bed.attacker1.within(|| {
        let wire = Wire::open("eth0").unwrap();
        for packet in packets {
            wire.send(&ethernet(wire.mac(), Mac::of(Bed::EXT1), number::IPV6, packet)).unwrap();
        }
        let (from, to) = (SocketAddrV4::new(Bed::ATTACKER1, 50_000), SocketAddrV4::new(Bed::EXT1, 53));
        wire.send(&ethernet(wire.mac(), Mac::of(Bed::EXT1), number::IPV4, &udp_packet(from, to, b"marker"))).unwrap();
    });
    cluster.await_seen("the marker", |s| s.payload == b"marker");
    cluster.clear();
}

fn neighbours(namespace: &Namespace) -> String {
    namespace.run("ip -6 neigh show dev eth1")
}

/// Neighbour solicitation for the border's address (RFC 4861, 4.3), claiming a MAC for the sender.
fn solicitation(hop_limit: u8) -> Vec<u8> {
    let body = [&v6(EXTERNAL).octets()[..], &[1, 1], &ROGUE.0].concat();
    icmp6_packet(v6(ATTACKER), v6(EXTERNAL), hop_limit, Icmp { kind: 135, code: 0, rest: 0 }, &body)
}

#[test]
fn router_advertisements_and_redirects_change_nothing() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).start();
    assert_served(&bed.attacker1, Bed::EXT1);
    put_ears(&bed);
    let cluster = Sniffer::start(&bed.core, "cluster");
    let looks = ["ip -6 route show table all", "ip -6 address show dev eth1"];
    let state = || looks.map(|command| bed.border.run(command));
    let before = state();
    let (link_local, all_nodes) = (v6("fe80::66"), v6("ff02::1"));
    // Lifetime 1800 s, a prefix to configure oneself from, a route (RFC 4861 4.2, RFC 4191).
    let prefix =
        [&[3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0][..], &v6("2001:db8:bad::").octets()].concat();
    let route = [&[24, 3, 64, 0, 0, 0, 14, 16][..], &v6("2001:db8:bee::").octets()].concat();
    let body = [&[0; 8][..], &[1, 1], &ROGUE.0, &prefix, &route].concat();
    let advertisement =
        |hop| icmp6_packet(link_local, all_nodes, hop, Icmp { kind: 134, code: 0, rest: 0x4000_0708 }, &body);
    // Redirect: the target is on-link (RFC 4861, 4.5), from the interface's gateway.
    let target = [v6(CORE).octets(), v6(CORE).octets()].concat();
    let redirect = icmp6_packet(v6("fe80::1"), v6(EXTERNAL), 255, Icmp { kind: 137, code: 0, rest: 0 }, &target);
    send(&bed, &cluster, &[advertisement(255), advertisement(64), redirect]);
    assert_eq!(state(), before);
    assert_eq!(heard(&bed, "ip6tables", "INPUT"), 0, "the kernel's own settings alone kept them off");
}

#[test]
fn neighbours_are_believed_and_answered_with_hop_limit_255_only() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).start();
    assert_served(&bed.attacker1, Bed::EXT1);
    put_ears(&bed);
    let cluster = Sniffer::start(&bed.core, "cluster");
    let wire = Sniffer::start(&bed.attacker1, "eth0");
    let advert = |s: &Seen| s.icmp_type == Some(136) && s.from_mac == Mac::of(Bed::EXT1);
    send(&bed, &cluster, &[1, 64, 254].map(solicitation));
    assert_eq!(wire.seen(advert), []);
    assert_eq!(heard(&bed, "ip6tables", "INPUT"), 0, "the kernel's own checks alone kept them off");
    assert!(!neighbours(&bed.border).contains(ATTACKER), "{}", neighbours(&bed.border));
    send(&bed, &cluster, &[solicitation(255)]);
    wire.await_seen("the neighbour advertisement", advert);
}

#[test]
fn nothing_passes_in_ipv6_and_the_box_answers_nothing_but_neighbours() {
    let bed = Bed::new();
    bed.border.set_sysctl("net/ipv6/conf/all/forwarding", "1");
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).set("SNCTRLR_BORDER_OPENINGS", "").start();
    assert_served(&bed.attacker1, Bed::EXT1);
    put_ears(&bed);
    let cluster = Sniffer::start(&bed.core, "cluster");
    let wire = Sniffer::start(&bed.attacker1, "eth0");
    let entered = Sniffer::start(&bed.border, "eth0");
    let mut packets = Vec::new();
    // The attacker, somebody beyond the router, and forged sources of the cluster and of the box.
    for from in [ATTACKER, "2001:db8:ffff::1", CORE, "2001:db8:a::2", EXTERNAL, "::1"].map(v6) {
        for to in [CORE, "2001:db8:a::77", EXTERNAL, "2001:db8:2::10", "2001:db8:a::2", "ff02::1"].map(v6) {
            packets.push(icmp6_packet(from, to, 64, Icmp { kind: 128, code: 0, rest: 1 }, b"echo"));
            packets.push(icmp6_packet(from, to, 64, Icmp { kind: 1, code: 4, rest: 0 }, &[0x60; 48]));
            // SYN and datagram with checksums left at 0: a forwarding box does not look at them.
            let syn = [&[0x9c, 0x40, 0, 22, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xfa, 0, 0, 0, 0, 0][..]].concat();
            packets.push(ip6(Ipv6 { from, to, next_header: number::TCP, hop_limit: 64 }, &syn));
            packets.push(ip6(
                Ipv6 { from, to, next_header: number::UDP, hop_limit: 64 },
                &[0x9c, 0x40, 0, 53, 0, 8, 0, 0],
            ));
            packets.push(ip6(Ipv6 { from, to, next_header: 59, hop_limit: 64 }, b""));
        }
    }
    send(&bed, &cluster, &packets);
    // Neighbour discovery, and reports of multicast listeners, which stand behind a hop-by-hop header (protocol 0).
    let neighbour_discovery =
        |s: &Seen| matches!(s.icmp_type, Some(133..=136)) || s.protocol == 0 && s.is_to(v6("ff02::16"));
    let passed = |s: &Seen| s.outgoing && s.ethertype == number::IPV6 && !neighbour_discovery(s);
    assert_eq!(entered.seen(passed), [], "went into the cluster");
    assert_eq!(["INPUT", "FORWARD"].map(|chain| heard(&bed, "ip6tables", chain)), [0, 0], "passed the border");
    let answered =
        |s: &Seen| s.from_mac == Mac::of(Bed::EXT1) && s.ethertype == number::IPV6 && !neighbour_discovery(s);
    assert_eq!(wire.seen(answered), [], "was answered");
}

//! What the openings for VRRP let in, on the wire.

use std::net::{Ipv4Addr, Ipv6Addr};

use bed::packet::{Icmp, Ipv4, Ipv6, Mac, Sniffer, Wire, ethernet, icmp_packet, icmp6_packet, ip, ip6, number};
use bed::{Bed, Namespace};

use crate::support::{daemon, manifests, mapping};

const VRRP: u8 = 112;
const PEER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 3);
const PEER6: &str = "2001:db8:1::2";
const OTHER6: &str = "2001:db8:1::3";

fn v6(address: &str) -> Ipv6Addr {
    address.parse().expect("an address of this file")
}

fn advertisement(from: Ipv4Addr, to: Ipv4Addr, protocol: u8) -> Vec<u8> {
    ip(Ipv4 { ttl: 255, ..Ipv4::new(from, to, protocol) }, &[0x31, 1, 100, 1, 0, 100, 0, 0, 203, 0, 113, 10])
}

fn advertisement6(from: &str, to: &str) -> Vec<u8> {
    let header = Ipv6 { from: v6(from), to: v6(to), next_header: VRRP, hop_limit: 255 };
    ip6(header, &[&[0x31, 1, 100, 1, 0, 100, 0, 0][..], &v6("2001:db8:1::10").octets()].concat())
}

/// Sends packets of both families from attacker1, then echo requests, and waits for their answers.
fn send(bed: &Bed, packets: &[Vec<u8>], packets6: &[Vec<u8>]) {
    let ears = Sniffer::start(&bed.attacker1, "eth0");
    let echo = icmp_packet(Bed::ATTACKER1, Bed::EXT1, Icmp { kind: 8, code: 0, rest: 1 }, b"");
    let echo6 = icmp6_packet(v6("2001:db8:1::66"), v6("2001:db8:1::10"), 64, Icmp { kind: 128, code: 0, rest: 1 }, b"");
    bed.attacker1.within(|| {
        let wire = Wire::open("eth0").unwrap();
        let all = packets.iter().chain([&echo]).map(|p| (number::IPV4, p));
        for (ethertype, packet) in all.chain(packets6.iter().chain([&echo6]).map(|p| (number::IPV6, p))) {
            wire.send(&ethernet(wire.mac(), Mac::of(Bed::EXT1), ethertype, packet)).unwrap();
        }
    });
    ears.await_seen("an echo", |s| s.protocol == number::ICMP && s.icmp_type == Some(0));
    ears.await_seen("an echo in IPv6", |s| s.protocol == number::ICMPV6 && s.icmp_type == Some(129));
}

/// Behind the border: a rule that counts, one a family.
fn put_ears(border: &Namespace) {
    for tool in ["iptables", "ip6tables"] {
        border.run(&format!("{tool} -w -A INPUT -i eth1 -p 112 -m comment --comment bed-vrrp"));
    }
}

fn passed(border: &Namespace) -> [u64; 2] {
    ["iptables", "ip6tables"].map(|tool| {
        let rules = border.run(&format!("{tool}-save -c -t filter"));
        let line = rules.lines().find(|l| l.contains("bed-vrrp")).expect("the rule is there");
        line.trim_start_matches('[').split(':').next().and_then(|n| n.parse().ok()).expect("a counter")
    })
}

#[test]
fn named_peers_alone_speak_vrrp_to_external_addresses() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let openings = format!("icmp-echo,vrrp={PEER},vrrp={PEER6},vrrp=fe80::2,vrrp=10.0.0.1");
    let _daemon = daemon(&bed, &manifests).set("SNCTRLR_BORDER_OPENINGS", &openings).start();
    bed.border.set_sysctl("net/ipv6/conf/all/forwarding", "1");
    put_ears(&bed.border);
    let group = Ipv4Addr::new(224, 0, 0, 18);
    let closed = [
        advertisement(OTHER, Bed::EXT1, VRRP),
        advertisement(PEER, group, VRRP),
        advertisement(PEER, Bed::BORDER, VRRP),
        advertisement(PEER, Bed::POD1, VRRP),
        advertisement(PEER, Ipv4Addr::new(203, 0, 113, 255), VRRP),
        advertisement(PEER, Bed::EXT1, 89),
        // An inside address stays one of the inside, whatever the openings say.
        advertisement(Bed::CORE, Bed::EXT1, VRRP),
    ];
    let closed6 = [
        (OTHER6, "2001:db8:1::10"),
        ("fe80::3", "2001:db8:1::10"),
        (PEER6, "ff02::12"),
        (PEER6, "2001:db8:a::2"),
        (PEER6, "2001:db8:a::1"),
    ];
    send(&bed, &closed, &closed6.map(|(from, to)| advertisement6(from, to)));
    assert_eq!(passed(&bed.border), [0, 0]);
    let open = [Bed::EXT1, Bed::EXT1B, Bed::EXT2].map(|to| advertisement(PEER, to, VRRP));
    let open6 = [(PEER6, "2001:db8:1::10"), (PEER6, "2001:db8:2::10"), ("fe80::2", "2001:db8:1::10")];
    send(&bed, &open, &open6.map(|(from, to)| advertisement6(from, to)));
    assert_eq!(passed(&bed.border), [3, 3]);
}

#[test]
fn the_groups_of_vrrp_are_opened_for_everybody_on_the_link() {
    let bed = Bed::new();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let daemon = daemon(&bed, &manifests).set("SNCTRLR_BORDER_OPENINGS", "icmp-echo,vrrp").start();
    put_ears(&bed.border);
    // What keepalived does: the kernel takes what is for a group only where it has a member.
    let (four, six) = (Ipv4Addr::new(224, 0, 0, 18), v6("ff02::12"));
    let index = bed.border.within(|| nix::net::if_::if_nametoindex("eth1").unwrap());
    let member = bed.border.within(|| std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    member.join_multicast_v4(&four, &Bed::EXT1).unwrap();
    let member6 = bed.border.within(|| std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap());
    member6.join_multicast_v6(&six, index).unwrap();
    let unicast = [advertisement(PEER, Bed::EXT1, VRRP)];
    send(&bed, &unicast, &[advertisement6(PEER6, "2001:db8:1::10")]);
    assert_eq!(passed(&bed.border), [0, 0]);
    send(&bed, &[advertisement(PEER, four, VRRP)], &[advertisement6("fe80::2", "ff02::12")]);
    assert_eq!(passed(&bed.border), [1, 1]);
    drop((daemon, member, member6));
}

//! What the box tells the inside, and what nobody is told.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

use bed::Bed;
use bed::packet::{Ipv4, Ipv6, Mac, Seen, Sniffer, Wire, ethernet, flags, ip, ip6, number, tcp_packet, udp_packet};
use bed::peer::Proto;

use super::{bed, v6};
use crate::support::{daemon, manifests, mapping};

/// Packets from the cluster's router to the border's eth0.
fn from_core(bed: &Bed, ethertype: u16, packets: &[Vec<u8>]) {
    bed.core.within(|| {
        let wire = Wire::open("cluster").unwrap();
        for packet in packets {
            wire.send(&ethernet(wire.mac(), Mac::of(Bed::BORDER), ethertype, packet)).unwrap();
        }
    });
}

fn datagram6(to: Ipv6Addr, hop_limit: u8, length: usize) -> Vec<u8> {
    let header = Ipv6 { from: v6("2001:db8:a::1"), to, next_header: number::UDP, hop_limit };
    ip6(header, &[&[0x9c, 0x40, 0x9c, 0x41][..], &(length as u16).to_be_bytes(), &vec![0; length - 6]].concat())
}

#[test]
fn the_inside_is_told_what_its_packets_met() {
    for tracked in [true, false] {
        let bed = bed();
        bed.border.ip("link set eth1 mtu 1280");
        let manifests = manifests([mapping("web", &[Bed::EXT1])]);
        let _daemon = daemon(&bed, &manifests).start();
        bed.border.set_sysctl("net/ipv6/conf/all/forwarding", "1");
        if !tracked {
            for tool in ["iptables", "ip6tables"] {
                bed.border.run(&format!("{tool} -t raw -A PREROUTING -i eth0 -j CT --notrack"));
            }
        }
        let ears = Sniffer::start(&bed.core, "cluster");
        let outside = v6("2001:db8:1::66");
        // A traceroute's packet, and one that does not fit.
        from_core(&bed, number::IPV6, &[datagram6(outside, 1, 32), datagram6(outside, 64, 1250)]);
        let from = SocketAddrV4::new(Bed::CORE, 40_000);
        let probe = udp_packet(from, SocketAddrV4::new(Bed::ATTACKER1, 33_434), b"");
        let probe = ip(Ipv4 { ttl: 1, ..Ipv4::new(Bed::CORE, Bed::ATTACKER1, number::UDP) }, &probe[20..]);
        let nowhere = udp_packet(from, SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 200), 9), b"");
        bed.border.ip("route add unreachable 192.0.2.200");
        from_core(&bed, number::IPV4, &[probe, nowhere]);
        let told = |protocol, kind, code| {
            move |s: &Seen| s.protocol == protocol && s.icmp_type == Some(kind) && s.icmp_code == code
        };
        ears.await_seen("time exceeded", told(number::ICMPV6, 3, 0));
        ears.await_seen("packet too big", told(number::ICMPV6, 2, 0));
        ears.await_seen("time exceeded in IPv4", told(number::ICMP, 11, 0));
        ears.await_seen("unreachable", told(number::ICMP, 3, 1));
    }
}

#[test]
fn nobody_inside_is_led_past_the_border() {
    let bed = bed();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).start();
    bed.border.set_sysctl("net/ipv6/conf/all/forwarding", "1");
    let ears = Sniffer::start(&bed.border, "eth0");
    // By eth0 in and out, to a neighbour and by a neighbour's link-local address: the kernel would name the shorter
    // way.
    let mac = Mac::of(Bed::CORE);
    bed.border.ip(&format!(
        "neigh replace 2001:db8:a::77 lladdr {mac} nud permanent dev eth0\n\
         neigh replace fe80::77 lladdr {mac} nud permanent dev eth0\nroute add 2001:db8:244::/48 via fe80::77 dev eth0"
    ));
    for to in ["2001:db8:a::77", "2001:db8:244::5"].map(v6) {
        from_core(&bed, number::IPV6, &[datagram6(to, 64, 32)]);
        ears.await_seen("the datagram on its way back", |s| s.outgoing && s.is_to(to));
    }
    let (from, to) = (SocketAddrV4::new(Bed::CORE, 41_000), SocketAddrV4::new(Bed::EXT1, 80));
    from_core(&bed, number::IPV4, &[tcp_packet(from, to, flags::SYN, b"")]);
    ears.await_seen("the SYN on its way to a pod", |s| s.outgoing && s.is_tcp() && s.to_port == 8080);
    assert!(bed.pod1.get(Proto::Tcp, Bed::EXT1, 80).is_ok());
    let redirect = |s: &Seen| {
        s.outgoing && matches!((s.protocol, s.icmp_type), (number::ICMP, Some(5)) | (number::ICMPV6, Some(137)))
    };
    assert_eq!(ears.seen(redirect), []);
}

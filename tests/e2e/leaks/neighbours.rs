//! What the inside and neighbours outside may say to the box in IPv6, and in whose name.

use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::time::Duration;

use bed::packet::{Icmp, Ipv6, Mac, Sniffer, Wire, ethernet, icmp6_packet, ip6, number};
use bed::{Bed, Layout, Namespace, Options};

use super::{Attacker, bed, index_of_eth0, link_local, solicitation, v6};
use crate::support::{daemon, manifests, mapping};

#[test]
fn nobody_inside_speaks_for_the_box() {
    let bed = bed();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).start();
    bed.border.set_sysctl("net/ipv6/conf/all/forwarding", "1");
    let outside = Sniffer::start(&bed.border, "eth1");
    let forged = ["2001:db8:1::10", "2001:db8:2::10", "2001:db8:a::2"].map(v6);
    bed.core.within(|| {
        let wire = Wire::open("cluster").unwrap();
        let datagram = |from, text: &[u8]| {
            let udp = [&[0x9c, 0x40, 0x9c, 0x41, 0, 8 + text.len() as u8, 0, 0][..], text].concat();
            let header = Ipv6 { from, to: v6("2001:db8:1::66"), next_header: number::UDP, hop_limit: 64 };
            ethernet(wire.mac(), Mac::of(Bed::BORDER), number::IPV6, &ip6(header, &udp))
        };
        for from in forged {
            wire.send(&datagram(from, b"forged")).unwrap();
        }
        wire.send(&datagram(v6("2001:db8:a::1"), b"honest")).unwrap();
    });
    outside.await_seen("the honest datagram", |s| s.outgoing && s.payload == b"honest");
    assert_eq!(outside.seen(|s| s.outgoing && s.payload == b"forged"), []);
}

#[test]
fn what_the_box_sends_to_a_group_comes_back_to_its_own_listeners() {
    let bed = bed();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).start();
    let group = v6("ff05::42");
    bed.border.ip("route add multicast ff05::42/128 dev eth0 table local");
    let index = index_of_eth0(&bed.border);
    bed.border.within(|| {
        let listener = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 4242)).unwrap();
        listener.join_multicast_v6(&group, index).unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let speaker = UdpSocket::bind((v6("2001:db8:a::2"), 0)).unwrap();
        speaker.send_to(b"to all of us", (group, 4242)).unwrap();
        let (_, from) = listener.recv_from(&mut [0; 64]).unwrap();
        assert_eq!(from.ip(), v6("2001:db8:a::2"));
    });
}

#[test]
fn a_neighbour_may_have_the_link_local_address_that_the_box_has_on_another_link() {
    let bed = bed();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let _daemon = daemon(&bed, &manifests).start();
    bed.border.ip("address add fe80::1/64 dev eth0");
    let ears = Sniffer::start(&bed.attacker1, "eth0");
    bed.attacker1.within(|| {
        let wire = Wire::open("eth0").unwrap();
        wire.send(&solicitation(&wire, v6("fe80::1"), v6("2001:db8:1::10"))).unwrap();
    });
    ears.await_seen("the advertisement", |s| s.icmp_type == Some(136) && s.is_to(v6("fe80::1")) && !s.outgoing);
}

#[test]
fn ipv6_openings_answer_neighbours() {
    let bed = bed();
    let manifests = manifests([mapping("web", &[Bed::EXT1])]);
    let openings = "icmp-echo,dhcp,tcp/22,udp/3784@2001:db8:1::/64";
    let _daemon = daemon(&bed, &manifests).set("SNCTRLR_BORDER_OPENINGS", openings).start();
    let external = v6("2001:db8:1::10");
    let [ssh, other] =
        [22, 23].map(|port| bed.border.within(|| std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap()));
    let connect = |to: Ipv6Addr, port| {
        let to = SocketAddrV6::new(to, port, 0, 0).into();
        bed.attacker1.within(|| std::net::TcpStream::connect_timeout(&to, Duration::from_millis(400)))
    };
    connect(external, 22).unwrap();
    assert!(connect(external, 23).is_err());
    drop((ssh, other));
    let bind = |at: &Namespace, address: Ipv6Addr, port| {
        let socket = at.within(|| UdpSocket::bind((address, port))).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    };
    let bfd = bind(&bed.border, Ipv6Addr::UNSPECIFIED, 3784);
    bind(&bed.attacker1, Ipv6Addr::UNSPECIFIED, 0).send_to(b"bfd", (external, 3784)).unwrap();
    assert_eq!(bfd.recv_from(&mut [0; 64]).unwrap().1.ip(), v6("2001:db8:1::66"));
    // A DHCPv6 server's answer, between link-local addresses.
    let client = bind(&bed.border, Ipv6Addr::UNSPECIFIED, 546);
    let to = link_local(Mac::of(Bed::EXT1));
    let index = index_of_eth0(&bed.attacker1);
    let server = bind(&bed.attacker1, Ipv6Addr::UNSPECIFIED, 547);
    server.send_to(b"reply", SocketAddrV6::new(to, 546, 0, index)).unwrap();
    assert_eq!(client.recv_from(&mut [0; 64]).unwrap().0, 5);
    // Echo, and not from an address that no wire has.
    let ears = Sniffer::start(&bed.attacker1, "eth0");
    let [attacker, _] = Attacker::both(&bed);
    let echo = |from, id| icmp6_packet(from, external, 64, Icmp { kind: 128, code: 0, rest: id }, b"echo");
    attacker.throw(number::IPV6, &[echo(v6("::ffff:10.0.0.1"), 7 << 16), echo(attacker.own6, 8 << 16)]);
    ears.await_seen("the echo", |s| s.icmp_type == Some(129) && s.is_to(attacker.own6));
    assert_eq!(ears.seen(|s| s.icmp_type == Some(129) && !s.is_to(attacker.own6)), []);
}
#[test]
fn a_neighbour_in_the_insides_subnet_finds_the_box_and_reaches_its_openings_in_ipv6() {
    let bed = Bed::with(Options { layout: Layout::SameSubnet, ..Options::default() });
    for (interface, n) in [("eth0", 97), ("eth1", 41)] {
        bed.border.ip(&format!("address add 2001:db8:5::{n}/64 dev {interface}"));
    }
    bed.attacker1.ip("address add 2001:db8:5::200/64 dev eth0");
    let manifests = manifests([mapping("web", &[Bed::SAME_EXT1[0]])]);
    let _daemon = daemon(&bed, &manifests).start();
    let (own, external) = (v6("2001:db8:5::200"), v6("2001:db8:5::41"));
    let ears = Sniffer::start(&bed.attacker1, "eth0");
    bed.attacker1.within(|| {
        let wire = Wire::open("eth0").unwrap();
        wire.send(&solicitation(&wire, own, external)).unwrap();
        let echo = icmp6_packet(own, external, 64, Icmp { kind: 128, code: 0, rest: 1 }, b"echo");
        wire.send(&ethernet(wire.mac(), Mac::of(Bed::SAME_EXT1[0]), number::IPV6, &echo)).unwrap();
    });
    ears.await_seen("the advertisement", |s| s.icmp_type == Some(136) && s.from_mac == Mac::of(Bed::SAME_EXT1[0]));
    ears.await_seen("the echo", |s| s.icmp_type == Some(129) && s.is_from(external));
}

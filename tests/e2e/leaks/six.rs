//! IPv6 packets that make a kernel answer before, beside or behind the rules of the border.

use std::net::Ipv6Addr;

use bed::packet::{Icmp, Ipv6, flags, icmp6_packet, ip6, number};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const NOTHING: u8 = 59;
const DESTINATION: u8 = 60;

/// Options as hop-by-hop and as destination options (RFC 8200, 4.2): unknown with each of the four actions, jumbo (with
/// and without reason), router alert (whole and cut), too long, tunnel limit, home address.
const OPTIONS: &[[u8; 6]] = &[
    [0x1e, 4, 0, 0, 0, 0],
    [0x5e, 4, 0, 0, 0, 0],
    [0x9e, 4, 0, 0, 0, 0],
    [0xde, 4, 0, 0, 0, 0],
    [0xc2, 4, 0, 1, 0, 0],
    [0xc2, 4, 0, 0, 0, 1],
    [0xc2, 3, 0, 0, 0, 0],
    [0x05, 2, 0, 0, 1, 0],
    [0x05, 1, 0, 1, 1, 0],
    [0x9e, 200, 0, 0, 0, 0],
    [0x04, 1, 0, 1, 1, 0],
    [0xc9, 4, 0, 0, 0, 0],
];

/// What a packet is sent from, to, and with how many hops left.
#[derive(Clone, Copy)]
struct Way {
    from: Ipv6Addr,
    to: Ipv6Addr,
    hop_limit: u8,
}

impl Way {
    fn packet(self, next_header: u8, payload: &[u8]) -> Vec<u8> {
        ip6(Ipv6 { from: self.from, to: self.to, next_header, hop_limit: self.hop_limit }, payload)
    }

    fn icmp(self, kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
        icmp6_packet(self.from, self.to, self.hop_limit, Icmp { kind, code, rest: 0x0000_0500 }, body)
    }
}

/// Checksums stay 0: neither a forwarding box nor what is answered ahead of a socket looks at them.
fn datagram(port: u16) -> Vec<u8> {
    [&[0x9c, 0x40][..], &port.to_be_bytes(), &[0, 16, 0, 0], &[0; 8]].concat()
}

fn segment(port: u16, tcp_flags: u8) -> Vec<u8> {
    [&[0x9c, 0x40][..], &port.to_be_bytes(), &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, tcp_flags, 0xfa, 0, 0, 0, 0, 0]].concat()
}

/// Every kind of packet from one source to one target.
pub fn barrage(from: Ipv6Addr, to: Ipv6Addr) -> Vec<Vec<u8>> {
    let way = Way { from, to, hop_limit: 64 };
    let mut packets = Vec::new();
    let payloads = [(number::UDP, datagram(53)), (number::TCP, segment(80, flags::SYN)), (NOTHING, vec![])];
    for (next, payload) in &payloads {
        for header in [HOP_BY_HOP, DESTINATION] {
            for option in OPTIONS {
                packets.push(way.packet(header, &[&[*next, 0][..], option, payload].concat()));
            }
        }
        for hop_limit in [0, 1] {
            packets.push(Way { hop_limit, ..way }.packet(*next, payload));
        }
        // Routing headers of known and unknown types, with and without segments left.
        for kind in [0, 1, 2, 3, 4, 5, 99] {
            for left in [0, 1] {
                let target: Ipv6Addr = "2001:db8:a::1".parse().unwrap();
                let header = [&[*next, 2, kind, left, 0, 0, 0, 0][..], &target.octets(), payload].concat();
                packets.push(way.packet(ROUTING, &header));
            }
        }
        // Hop-by-hop options where they may not stand, and twice.
        packets.push(
            way.packet(DESTINATION, &[&[HOP_BY_HOP, 0, 1, 4, 0, 0, 0, 0, *next, 0][..], &OPTIONS[3], payload].concat()),
        );
        packets.push(
            way.packet(HOP_BY_HOP, &[&[HOP_BY_HOP, 0, 1, 4, 0, 0, 0, 0, *next, 0][..], &OPTIONS[3], payload].concat()),
        );
    }
    packets.extend(fragments(way));
    // More than fits through eth0, tracked, of no connection, and of an unknown protocol.
    packets.push(way.packet(number::UDP, &[&datagram(9090)[..4], &[5, 0x78, 0, 0], &[0; 1392]].concat()));
    packets.push(way.packet(number::TCP, &[segment(80, flags::RST), vec![0; 1380]].concat()));
    packets.push(way.packet(253, &[0; 1400]));
    // Errors about what the target is said to have sent, informational messages, and discovery as it must not be.
    let sent = ip6(Ipv6 { from: to, to: from, next_header: number::UDP, hop_limit: 64 }, &datagram(53));
    packets.extend((1..=4).flat_map(|kind| (0..3).map(move |code| (kind, code))).map(|(k, c)| way.icmp(k, c, &sent)));
    let target = to.octets();
    for kind in
        [0, 5, 100, 127, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 138, 139, 140, 141, 143, 144, 151, 200, 255]
    {
        packets.push(way.icmp(kind, 0, &target));
        packets.push(Way { hop_limit: 1, ..way }.icmp(kind, 0, &target));
    }
    for kind in [133, 134, 137, 139] {
        packets.push(Way { hop_limit: 255, ..way }.icmp(kind, 0, &[target, target].concat()));
    }
    for port in [22, 53, 546, 547, 5353, 8080, 33_434] {
        packets.push(way.packet(number::UDP, &datagram(port)));
        for tcp_flags in [flags::SYN, flags::ACK, flags::RST, flags::SYN_ACK, flags::FIN, flags::NULL, flags::XMAS] {
            packets.push(way.packet(number::TCP, &segment(port, tcp_flags)));
        }
    }
    packets.extend(
        [4, 41, 47, 50, 51, 88, 89, 103, 112, 132, 135, 136, 139, 140, 253, 255].map(|p| way.packet(p, &[0; 40])),
    );
    packets
}

/// Atomic, lone first, lone later, tiny, overlapping and reversed fragments.
fn fragments(way: Way) -> Vec<Vec<u8>> {
    let mut id: u32 = 1000;
    let mut next = || {
        id += 1;
        id
    };
    let piece = |next_header: u8, offset: u16, more: bool, id: u32, payload: &[u8]| {
        let place = offset << 3 | u16::from(more);
        let header = [&[next_header, 0][..], &place.to_be_bytes(), &id.to_be_bytes(), payload].concat();
        way.packet(FRAGMENT, &header)
    };
    let (datagram, syn) = (datagram(53), segment(80, flags::SYN));
    let mut packets = vec![
        piece(number::UDP, 0, false, next(), &datagram),
        piece(number::TCP, 0, false, next(), &syn),
        piece(253, 0, false, next(), &[0; 16]),
        piece(number::UDP, 0, true, next(), &datagram),
        piece(number::TCP, 0, true, next(), &syn[..16]),
        piece(number::ICMPV6, 0, true, next(), &[128, 0, 0, 0, 0, 1, 0, 1]),
        piece(253, 0, true, next(), &[0; 16]),
        piece(DESTINATION, 0, true, next(), &[number::UDP, 0, 0xde, 4, 0, 0, 0, 0]),
        piece(number::UDP, 2, true, next(), &[0; 8]),
        piece(number::UDP, 2, false, next(), &[0; 8]),
        piece(number::UDP, 0, true, next(), &datagram[..13]),
    ];
    let (reversed, overlapping) = (next(), next());
    packets.extend([
        piece(number::UDP, 1, false, reversed, &datagram[8..]),
        piece(number::UDP, 0, true, reversed, &datagram[..8]),
        piece(number::UDP, 0, true, overlapping, &datagram),
        piece(number::UDP, 1, false, overlapping, &datagram),
    ]);
    packets
}

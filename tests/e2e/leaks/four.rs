//! IPv4 packets that make a kernel answer before, beside or behind the rules of the border.

use std::net::{Ipv4Addr, SocketAddrV4};

use bed::packet::{Icmp, Ipv4, flags, icmp_packet, ip, ip_with_options, number, tcp_packet, udp_packet};

/// Options that a kernel reads, follows or complains about (RFC 791, 3.1).
const OPTIONS: &[&[u8]] = &[
    // No operation, end of list, router alert (whole and cut), security, CIPSO.
    &[1, 1, 1, 1],
    &[0],
    &[148, 4, 0, 0],
    &[148, 3, 0, 0],
    &[130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    &[134, 6, 0, 0, 0, 1],
    // Record route: three slots, full, with a wrong pointer, too short, longer than the header.
    &[7, 15, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    &[7, 7, 8, 10, 0, 0, 9],
    &[7, 7, 3, 0, 0, 0, 0],
    &[7, 2],
    &[7, 39, 4, 0],
    // Timestamps: alone, with addresses, for one address named ahead, with no room, wrong.
    &[68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    &[68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0],
    &[68, 12, 5, 3, 203, 0, 113, 10, 0, 0, 0, 0],
    &[68, 12, 13, 0xf0, 0, 0, 0, 0, 0, 0, 0, 0],
    &[68, 3, 5, 0],
    // Loose and strict source routes: to a pod, used up, wrong.
    &[131, 7, 4, 10, 244, 1, 2],
    &[137, 7, 4, 10, 244, 1, 2],
    &[131, 7, 8, 10, 244, 1, 2],
    &[137, 7, 5, 10, 244, 1, 2],
    &[131, 7, 4, 10, 244, 1, 2, 137, 7, 4, 10, 0, 0, 1],
    // Unknown: of class 0, to be copied into fragments, of an impossible length.
    &[30, 4, 0, 0],
    &[0x9e, 4, 0, 0],
    &[0x5e, 0, 0, 0],
    &[0xde, 1, 0, 0],
];

fn echo(id: u32) -> Vec<u8> {
    let request = icmp_packet(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, Icmp { kind: 8, code: 0, rest: id }, b"echo");
    request[20..].to_vec()
}

/// Every kind of packet from one source to one target.
pub fn barrage(from: Ipv4Addr, to: Ipv4Addr) -> Vec<Vec<u8>> {
    let (source, port) = (SocketAddrV4::new(from, 40_000), |port| SocketAddrV4::new(to, port));
    let datagram = udp_packet(source, port(53), b"who are you?\n");
    let syn = tcp_packet(source, port(80), flags::SYN, b"");
    let mut packets = Vec::new();
    for options in OPTIONS {
        for (protocol, payload) in
            [(number::UDP, &datagram[20..]), (number::TCP, &syn[20..]), (number::ICMP, &echo(1)), (253, b"nobody's")]
        {
            packets.push(ip_with_options(Ipv4::new(from, to, protocol), options, payload));
        }
    }
    for ttl in [0, 1] {
        for (protocol, payload) in [(number::UDP, &datagram[20..]), (number::TCP, &syn[20..]), (number::ICMP, &echo(2))]
        {
            packets.push(ip(Ipv4 { ttl, ..Ipv4::new(from, to, protocol) }, payload));
        }
    }
    packets.extend(lone_fragments(from, to, &datagram[20..], &syn[20..]));
    // More than fits through eth0, not to be fragmented.
    let mut big = udp_packet(source, port(9090), &[0; 1400]);
    big[6] = 0x40;
    packets.push(checksummed(big));
    // Echo, timestamp, information, address mask and domain name requests, router solicitation, traceroute, and their
    // answers.
    for kind in [0, 8, 9, 10, 13, 14, 15, 16, 17, 18, 30, 37] {
        packets.push(icmp_packet(from, to, Icmp { kind, code: 0, rest: 0x0003_0001 }, &[0; 12]));
    }
    // Errors about what the target is said to have sent.
    let sent = udp_packet(port(53), source, b"");
    for (kind, code) in [(3, 0), (3, 1), (3, 2), (3, 3), (3, 4), (4, 0), (5, 0), (5, 1), (11, 0), (11, 1), (12, 0)] {
        packets.push(icmp_packet(from, to, Icmp { kind, code, rest: 0x0000_0500 }, &sent));
    }
    // Group management: queries of all versions, with the router alert that they should have and without.
    for query in [&[0x11, 0, 0xee, 0xff, 0, 0, 0, 0][..], &[0x11, 100, 0xee, 0x9b, 0, 0, 0, 0], &V3_QUERY] {
        packets.push(ip(Ipv4 { ttl: 1, ..Ipv4::new(from, to, 2) }, query));
        packets.push(ip_with_options(Ipv4 { ttl: 1, ..Ipv4::new(from, to, 2) }, &[148, 4, 0, 0], query));
    }
    for protocol in [0, 2, 4, 41, 47, 50, 51, 89, 103, 112, 115, 132, 136, 137, 253, 255] {
        packets.push(ip(Ipv4::new(from, to, protocol), &[0; 40]));
    }
    for target in [7, 22, 68, 111, 161, 500, 4500, 8080, 33_434] {
        packets.push(udp_packet(source, port(target), b"anybody?"));
        packets.extend(
            [flags::SYN, flags::ACK, flags::RST, flags::SYN_ACK, flags::NULL, flags::XMAS]
                .map(|f| tcp_packet(source, port(target), f, b"")),
        );
    }
    packets.push(udp_packet(SocketAddrV4::new(from, 67), port(68), &[2; 240]));
    // Checksums of transport and header that do not fit.
    for (at, packet) in [(26, datagram.clone()), (36, syn.clone()), (10, datagram)] {
        let mut packet = packet;
        packet[at] ^= 0x55;
        packets.push(packet);
    }
    packets
}

const V3_QUERY: [u8; 12] = [0x11, 100, 0xec, 0x1e, 0, 0, 0, 0, 2, 125, 0, 0];

/// With the header's checksum made to fit again.
pub fn checksummed(mut packet: Vec<u8>) -> Vec<u8> {
    packet[10..12].fill(0);
    let mut sum: u32 = packet[..20].chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet
}

/// First, middle and last fragments whose rest never comes.
fn lone_fragments(from: Ipv4Addr, to: Ipv4Addr, datagram: &[u8], syn: &[u8]) -> Vec<Vec<u8>> {
    let mut id = 1000;
    let mut fragment = |protocol, offset, more_fragments, payload: &[u8]| {
        id += 1;
        ip(Ipv4 { id, offset, more_fragments, ..Ipv4::new(from, to, protocol) }, payload)
    };
    vec![
        fragment(number::UDP, 0, true, &datagram[..16]),
        fragment(number::TCP, 0, true, &syn[..16]),
        fragment(number::ICMP, 0, true, &echo(3)[..8]),
        fragment(253, 0, true, &[0; 8]),
        fragment(number::UDP, 2, true, &[0; 8]),
        fragment(number::UDP, 2, false, &[0; 8]),
    ]
}

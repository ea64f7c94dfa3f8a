use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

use super::{Mac, number};

/// TCP flags (RFC 9293, 3.1).
pub mod flags {
    pub const NULL: u8 = 0;
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const SYN_ACK: u8 = SYN | ACK;
    pub const XMAS: u8 = FIN | PSH | URG;
}

/// What varies in an IPv4 header.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4 {
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub protocol: u8,
    pub ttl: u8,
    pub id: u16,
    /// Fragment offset in units of 8 bytes.
    pub offset: u16,
    pub more_fragments: bool,
}

impl Ipv4 {
    pub fn new(from: Ipv4Addr, to: Ipv4Addr, protocol: u8) -> Self {
        Ipv4 { from, to, protocol, ttl: 64, id: 1, offset: 0, more_fragments: false }
    }
}

/// What varies in an IPv6 header.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6 {
    pub from: Ipv6Addr,
    pub to: Ipv6Addr,
    pub next_header: u8,
    pub hop_limit: u8,
}

/// Type, code and the second word of an ICMP or ICMPv6 header.
#[derive(Debug, Clone, Copy)]
pub struct Icmp {
    pub kind: u8,
    pub code: u8,
    pub rest: u32,
}

/// The Internet checksum (RFC 1071).
fn checksum<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u16 {
    // Every part but the last has an even length.
    let mut sum: u32 = parts
        .into_iter()
        .flat_map(|part| part.chunks(2))
        .map(|c| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn pseudo_header(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, length: usize) -> [u8; 12] {
    let mut header = [0; 12];
    header[..4].copy_from_slice(&from.octets());
    header[4..8].copy_from_slice(&to.octets());
    header[9] = protocol;
    header[10..].copy_from_slice(&(length as u16).to_be_bytes());
    header
}

pub fn ethernet(from: Mac, to: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv4 packet.
pub fn ip(header: Ipv4, payload: &[u8]) -> Vec<u8> {
    ip_with_options(header, &[], payload)
}

/// An IPv4 packet with options, which are filled up with "end of list" (0) to whole words; they take 40 bytes at the most.
pub fn ip_with_options(header: Ipv4, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let words = options.len().div_ceil(4);
    let length = 20 + 4 * words;
    let mut out = vec![0x45 + words as u8, 0];
    out.extend(((length + payload.len()) as u16).to_be_bytes());
    out.extend(header.id.to_be_bytes());
    out.extend((header.offset | if header.more_fragments { 0x2000 } else { 0 }).to_be_bytes());
    out.extend([header.ttl, header.protocol, 0, 0]);
    out.extend(header.from.octets());
    out.extend(header.to.octets());
    out.extend(options);
    out.resize(length, 0);
    let sum = checksum([&out[..]]);
    out[10..12].copy_from_slice(&sum.to_be_bytes());
    out.extend(payload);
    out
}

/// An IPv6 packet.
pub fn ip6(header: Ipv6, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x60, 0, 0, 0];
    out.extend((payload.len() as u16).to_be_bytes());
    out.extend([header.next_header, header.hop_limit]);
    out.extend(header.from.octets());
    out.extend(header.to.octets());
    out.extend(payload);
    out
}

/// A TCP segment in its IPv4 packet.
pub fn tcp_packet(from: SocketAddrV4, to: SocketAddrV4, tcp_flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(1_000_u32.to_be_bytes());
    segment.extend(if tcp_flags & flags::ACK == 0 { 0 } else { 1_u32 }.to_be_bytes());
    segment.extend([5 << 4, tcp_flags]);
    segment.extend(64_000_u16.to_be_bytes());
    segment.extend([0; 4]);
    segment.extend(payload);
    let sum = checksum([&pseudo_header(*from.ip(), *to.ip(), number::TCP, segment.len())[..], &segment]);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ip(Ipv4::new(*from.ip(), *to.ip(), number::TCP), &segment)
}

/// A UDP datagram in its IPv4 packet.
pub fn udp_packet(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(from.port().to_be_bytes());
    datagram.extend(to.port().to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0; 2]);
    datagram.extend(payload);
    let sum = checksum([&pseudo_header(*from.ip(), *to.ip(), number::UDP, datagram.len())[..], &datagram]);
    // 0 would mean "no checksum" (RFC 768).
    let sum = if sum == 0 { 0xffff } else { sum };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    ip(Ipv4::new(*from.ip(), *to.ip(), number::UDP), &datagram)
}

fn icmp_body(icmp: Icmp, payload: &[u8]) -> Vec<u8> {
    let mut body = vec![icmp.kind, icmp.code, 0, 0];
    body.extend(icmp.rest.to_be_bytes());
    body.extend(payload);
    body
}

/// An ICMP message in its IPv4 packet; the payload of an error is the packet it complains about.
pub fn icmp_packet(from: Ipv4Addr, to: Ipv4Addr, icmp: Icmp, payload: &[u8]) -> Vec<u8> {
    let mut body = icmp_body(icmp, payload);
    let sum = checksum([&body[..]]);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    ip(Ipv4::new(from, to, number::ICMP), &body)
}

/// An ICMPv6 message in its IPv6 packet.
pub fn icmp6_packet(from: Ipv6Addr, to: Ipv6Addr, hop_limit: u8, icmp: Icmp, payload: &[u8]) -> Vec<u8> {
    let mut body = icmp_body(icmp, payload);
    let length = (body.len() as u32).to_be_bytes();
    let sum = checksum([&from.octets()[..], &to.octets(), &length, &[0, 0, 0, number::ICMPV6], &body]);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    ip6(Ipv6 { from, to, next_header: number::ICMPV6, hop_limit }, &body)
}

/// A broadcast ARP request (the whole frame).
pub fn arp_request(from_mac: Mac, from: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4, 0, 1];
    body.extend(from_mac.0);
    body.extend(from.octets());
    body.extend([0; 6]);
    body.extend(target.octets());
    ethernet(from_mac, Mac::BROADCAST, number::ARP, &body)
}

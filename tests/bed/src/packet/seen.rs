use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use super::{Mac, flags, number};

/// A frame as a sniffer saw it: what the tests ask for, 0 or `None` where a field does not apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Sent by the host that sniffs.
    pub outgoing: bool,
    pub from_mac: Mac,
    pub to_mac: Mac,
    pub ethertype: u16,
    /// Of an ARP packet the sender's protocol address.
    pub from: Option<IpAddr>,
    /// Of an ARP packet the target's protocol address.
    pub to: Option<IpAddr>,
    pub protocol: u8,
    pub hop_limit: u8,
    pub from_port: u16,
    pub to_port: u16,
    pub tcp_flags: u8,
    pub icmp_type: Option<u8>,
    pub icmp_code: u8,
    /// Next-hop MTU of an ICMP "fragmentation needed".
    pub icmp_mtu: u16,
    /// 1 request, 2 reply.
    pub arp_operation: u16,
    /// A fragment other than the first: it has no ports.
    pub later_fragment: bool,
    /// Bytes behind the transport header.
    #[serde(skip)]
    pub payload: Vec<u8>,
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn v4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?)))
}

fn v6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?)))
}

impl Seen {
    /// Reads a frame; `None` when it is shorter than its Ethernet and IP headers say. Of a transport header that is cut short, what is
    /// there counts.
    pub fn parse(frame: &[u8], outgoing: bool) -> Option<Seen> {
        let mut seen = Seen {
            outgoing,
            to_mac: Mac(frame.get(..6)?.try_into().ok()?),
            from_mac: Mac(frame.get(6..12)?.try_into().ok()?),
            ethertype: be16(frame, 12)?,
            from: None,
            to: None,
            protocol: 0,
            hop_limit: 0,
            from_port: 0,
            to_port: 0,
            tcp_flags: 0,
            icmp_type: None,
            icmp_code: 0,
            icmp_mtu: 0,
            arp_operation: 0,
            later_fragment: false,
            payload: Vec::new(),
        };
        let packet = &frame[14..];
        match seen.ethertype {
            number::ARP => {
                seen.arp_operation = be16(packet, 6)?;
                seen.from = v4(packet, 14);
                seen.to = v4(packet, 24);
            }
            number::IPV4 => {
                seen.from = v4(packet, 12);
                seen.to = v4(packet, 16);
                (seen.hop_limit, seen.protocol) = (*packet.get(8)?, *packet.get(9)?);
                seen.later_fragment = be16(packet, 6)? & 0x1fff != 0;
                if !seen.later_fragment {
                    let header = usize::from(packet[0] & 0x0f) * 4;
                    // Ethernet pads short frames; the header knows the true length.
                    let end = usize::from(be16(packet, 2)?).clamp(header.min(packet.len()), packet.len());
                    _ = seen.transport(packet.get(header..end)?);
                }
            }
            number::IPV6 => {
                seen.from = v6(packet, 8);
                seen.to = v6(packet, 24);
                (seen.protocol, seen.hop_limit) = (*packet.get(6)?, *packet.get(7)?);
                _ = seen.transport(packet.get(40..)?);
            }
            _ => {}
        }
        Some(seen)
    }

    fn transport(&mut self, bytes: &[u8]) -> Option<()> {
        let header = match self.protocol {
            number::TCP => {
                (self.from_port, self.to_port) = (be16(bytes, 0)?, be16(bytes, 2)?);
                self.tcp_flags = *bytes.get(13)?;
                usize::from(bytes[12] >> 4) * 4
            }
            number::UDP => {
                (self.from_port, self.to_port) = (be16(bytes, 0)?, be16(bytes, 2)?);
                8
            }
            number::ICMP | number::ICMPV6 => {
                (self.icmp_type, self.icmp_code) = (Some(*bytes.first()?), *bytes.get(1)?);
                self.icmp_mtu = be16(bytes, 6)?;
                8
            }
            _ => 0,
        };
        self.payload = bytes.get(header..)?.to_vec();
        Some(())
    }

    pub fn is_tcp(&self) -> bool {
        self.protocol == number::TCP
    }

    pub fn is_udp(&self) -> bool {
        self.protocol == number::UDP
    }

    pub fn is_syn_ack(&self) -> bool {
        self.is_tcp() && self.tcp_flags & (flags::SYN_ACK | flags::RST) == flags::SYN_ACK
    }

    pub fn is_from(&self, address: impl Into<IpAddr>) -> bool {
        self.from == Some(address.into())
    }

    pub fn is_to(&self, address: impl Into<IpAddr>) -> bool {
        self.to == Some(address.into())
    }

    /// ICMP "fragmentation needed" (RFC 1191).
    pub fn is_fragmentation_needed(&self) -> bool {
        self.protocol == number::ICMP && self.icmp_type == Some(3) && self.icmp_code == 4
    }
}

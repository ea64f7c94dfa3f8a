//! Raw frames: written for the scans, read by the sniffers.

mod build;
mod seen;
mod sniffer;
mod wire;

pub use build::{
    Icmp, Ipv4, Ipv6, arp_request, ethernet, flags, icmp_packet, icmp6_packet, ip, ip_with_options, ip6, tcp_packet,
    udp_packet,
};
pub use seen::Seen;
pub use sniffer::Sniffer;
pub use wire::Wire;

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::Serialize;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// The address that the bed gives to the interface whose first IPv4 address this is.
    pub fn of(address: Ipv4Addr) -> Mac {
        let [a, b, c, d] = address.octets();
        Mac([2, 0, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bytes: Option<Vec<u8>> = s.split(':').map(|b| u8::from_str_radix(b, 16).ok()).collect();
        bytes.and_then(|b| Some(Mac(b.try_into().ok()?))).ok_or_else(|| format!("{s:?} is no MAC address"))
    }
}

/// EtherTypes and protocol numbers that the bed knows (IANA).
pub mod number {
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const IPV6: u16 = 0x86dd;
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
}

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::IpNet;
use regex::Regex;

use super::{InterfaceName, Protocol};

/// The part of the settings that decides what the border looks like. Pure input of the plan.
#[derive(Debug, Clone)]
pub struct BorderConfig {
    /// `SNCTRLR_DEFAULT_GW_INTERFACE`.
    pub gateway_interface: InterfaceName,
    /// `SNCTRLR_INTERFACES_PATTERN`, anchored at both ends: it matches whole names.
    pub external_pattern: Regex,
    /// `SNCTRLR_GW_ADDRESS_OFFSET`.
    pub gateway_offsets: GatewayOffsets,
    /// `SNCTRLR_GW_ADDRESS`: routers that are named, whatever the offset says.
    pub gateway_addresses: GatewayAddresses,
    /// `SNCTRLR_SETUP_MASQUERADE`.
    pub masquerade: bool,
    /// `SNCTRLR_SETUP_SNAT`.
    pub snat: bool,
    /// `SNCTRLR_SETUP_ACCEPT`: mapped packets pass what others drop in filter.
    pub accept: bool,
    /// `SNCTRLR_MAX_PORTS_PER_MAPPING`, 1 to 256.
    pub max_ports_per_mapping: usize,
    /// `SNCTRLR_INSIDE_PREFIXES`: interface names beginning so are inside even before they are seen (`cali` for `cali+`).
    pub inside_prefixes: Vec<String>,
    /// `SNCTRLR_INSIDE_INTERFACES`: exact names of interfaces that are inside, wherever they stand.
    pub inside_interfaces: BTreeSet<InterfaceName>,
    /// `SNCTRLR_BORDER_OPENINGS`: what the box itself answers on external interfaces.
    pub openings: Vec<Opening>,
    /// `SNCTRLR_MARK_BITS`.
    pub marks: MarkLayout,
    /// `SNCTRLR_ROUTE_TABLE_BASE`: the table of an external interface is this plus its slot.
    pub route_table_base: u32,
    /// `SNCTRLR_INSTANCE_NAME`.
    pub instance_name: String,
}

impl PartialEq for BorderConfig {
    fn eq(&self, other: &Self) -> bool {
        // Regex has no equality; its source text has.
        self.external_pattern.as_str() == other.external_pattern.as_str()
            && self.gateway_interface == other.gateway_interface
            && self.gateway_offsets == other.gateway_offsets
            && self.gateway_addresses == other.gateway_addresses
            && self.masquerade == other.masquerade
            && self.snat == other.snat
            && self.accept == other.accept
            && self.max_ports_per_mapping == other.max_ports_per_mapping
            && self.inside_prefixes == other.inside_prefixes
            && self.inside_interfaces == other.inside_interfaces
            && self.openings == other.openings
            && self.marks == other.marks
            && self.route_table_base == other.route_table_base
            && self.instance_name == other.instance_name
    }
}

/// A value for all external interfaces, and those of single interfaces that differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PerInterface<T> {
    all: T,
    own: BTreeMap<InterfaceName, T>,
}

/// Where the routers of external interfaces are, counted in the subnet of an address. None is 0.
pub type GatewayOffsets = PerInterface<i32>;

/// Routers of external interfaces by their addresses. `None`: by the offset.
pub type GatewayAddresses = PerInterface<Option<Ipv4Addr>>;

impl<T: Copy> PerInterface<T> {
    pub fn new(all: T, own: BTreeMap<InterfaceName, T>) -> Self {
        Self { all, own }
    }

    /// The value of this interface.
    pub fn of(&self, interface: &str) -> T {
        self.own.get(interface).copied().unwrap_or(self.all)
    }

    /// The names that have a value of their own, as written.
    pub fn names(&self) -> impl Iterator<Item = &InterfaceName> {
        self.own.keys()
    }

    /// The same values under the names that `kernel_name` gives. Where two lead to one interface, the value under the kernel's own
    /// name counts, else that of the first in the order of the alphabet.
    pub fn renamed<'a>(&'a self, kernel_name: impl Fn(&'a InterfaceName) -> &'a InterfaceName) -> Self {
        let mut own = BTreeMap::new();
        let (under_own, under_others): (Vec<_>, Vec<_>) =
            self.own.iter().partition(|(written, _)| kernel_name(written) == *written);
        for (written, value) in under_own.into_iter().chain(under_others) {
            own.entry(kernel_name(written).clone()).or_insert(*value);
        }
        Self { all: self.all, own }
    }
}

impl<T: Copy> From<T> for PerInterface<T> {
    fn from(all: T) -> Self {
        Self::new(all, BTreeMap::new())
    }
}

/// Which bits of packet mark and connection mark are ours: `low..=high`. The three highest are flags, the rest hold the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkLayout {
    low: u8,
    high: u8,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MarkLayoutError {
    #[error("{0:?} is not a range of bits; write LOW-HIGH, for example 16-30")]
    Syntax(String),
    #[error("bits {low}-{high} reach beyond bit 31 or are in the wrong order; write LOW-HIGH with LOW < HIGH <= 31")]
    Range { low: u8, high: u8 },
    #[error(
        "bits {low}-{high} are too few: three flags and at least four bits of slot are needed; widen to {low}-{}",
        low + 6
    )]
    TooFew { low: u8, high: u8 },
    #[error("bits {low}-{high} contain kube-proxy's 14 and 15; begin at 16 or end at 13")]
    KubeProxy { low: u8, high: u8 },
}

impl Default for MarkLayout {
    fn default() -> Self {
        MarkLayout { low: 16, high: 30 }
    }
}

impl MarkLayout {
    pub fn new(low: u8, high: u8) -> Result<Self, MarkLayoutError> {
        if high > 31 || low >= high {
            return Err(MarkLayoutError::Range { low, high });
        }
        if low <= 15 && high >= 14 {
            return Err(MarkLayoutError::KubeProxy { low, high });
        }
        if high - low < 6 {
            return Err(MarkLayoutError::TooFew { low, high });
        }
        Ok(MarkLayout { low, high })
    }

    fn slot_bits(self) -> u8 {
        self.high - self.low + 1 - 3
    }

    /// All our bits.
    pub fn mask(self) -> u32 {
        self.slot_mask() | self.masquerade() | self.mapped() | self.begun_inside()
    }

    /// The bits that hold the slot.
    pub fn slot_mask(self) -> u32 {
        self.inside_slot().into_mark(self.low)
    }

    /// The mark value of an external interface's slot.
    pub fn slot(self, slot: u16) -> u32 {
        u32::from(slot) << self.low
    }

    /// The slot that means "begun inside the border, towards an address of this box": all ones.
    pub fn inside(self) -> u32 {
        self.slot_mask()
    }

    /// The highest bit of the slot: set in the inside's, and in few others.
    pub fn highest_slot_bit(self) -> u32 {
        self.slot_mask() & !(self.slot_mask() >> 1)
    }

    /// The highest slot that an external interface can have (4094 by default).
    pub fn max_slot(self) -> u16 {
        self.inside_slot().0 - 1
    }

    fn inside_slot(self) -> Slot {
        Slot(((1u32 << self.slot_bits()) - 1) as u16)
    }

    /// Set by nothing any more: until version 3.0.0 the packet mark by which a client was masqueraded. The bit stays ours, so that the
    /// slots of connections mean the same to every version.
    pub fn masquerade(self) -> u32 {
        1 << (self.high - 2)
    }

    /// Connection mark: came through a Mapping.
    pub fn mapped(self) -> u32 {
        1 << (self.high - 1)
    }

    /// Connection mark: begun inside, leaves by the external interface of its slot.
    pub fn begun_inside(self) -> u32 {
        1 << self.high
    }
}

struct Slot(u16);

impl Slot {
    fn into_mark(self, low: u8) -> u32 {
        u32::from(self.0) << low
    }
}

impl fmt::Display for MarkLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.low, self.high)
    }
}

impl FromStr for MarkLayout {
    type Err = MarkLayoutError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (low, high) = s
            .split_once('-')
            .and_then(|(l, h)| Some((l.trim().parse().ok()?, h.trim().parse().ok()?)))
            .ok_or_else(|| MarkLayoutError::Syntax(s.to_owned()))?;
        MarkLayout::new(low, high)
    }
}

/// One thing that the border lets reach the box itself from an external interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Opening {
    /// `icmp-echo`: ping to an address of an external interface.
    IcmpEcho,
    /// `dhcp`: answers of a DHCP server to the client port.
    Dhcp,
    /// `vrrp`: IP protocol 112 to 224.0.0.18 and ff02::12.
    Vrrp,
    /// `vrrp=192.0.2.2`: IP protocol 112 from one peer, to an address of an external interface (VRRP without multicast).
    VrrpPeer(IpAddr),
    /// `tcp/179@192.0.2.1/32`, `udp/3784`: a port of the box, from one network or from everywhere.
    Port { protocol: Protocol, port: u16, from: Option<IpNet> },
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is no opening; use icmp-echo, dhcp, vrrp, vrrp=ADDRESS of a peer, or PROTOCOL/PORT with an optional @NETWORK \
     (tcp/179@192.0.2.1/32)"
)]
pub struct OpeningParseError(pub String);

impl FromStr for Opening {
    type Err = OpeningParseError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let wrong = || OpeningParseError(s.to_owned());
        match s {
            "icmp-echo" => return Ok(Opening::IcmpEcho),
            "dhcp" => return Ok(Opening::Dhcp),
            "vrrp" => return Ok(Opening::Vrrp),
            _ => {}
        }
        if let Some(peer) = s.strip_prefix("vrrp=") {
            return peer.parse().ok().filter(is_host).map(Opening::VrrpPeer).ok_or_else(wrong);
        }
        let (what, from) = match s.split_once('@') {
            Some((what, net)) => {
                let net =
                    net.parse::<IpNet>().or_else(|_| net.parse().map(super::host_net)).map_err(|_| wrong())?.trunc();
                (what, Some(net))
            }
            None => (s, None),
        };
        let (protocol, port) = what.split_once('/').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        if port == 0 {
            return Err(wrong());
        }
        Ok(Opening::Port { protocol: protocol.parse().map_err(|_| wrong())?, port, from })
    }
}

/// Whether packets of one other host can come from the address.
fn is_host(address: &IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast)
}

impl fmt::Display for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Opening::IcmpEcho => f.write_str("icmp-echo"),
            Opening::Dhcp => f.write_str("dhcp"),
            Opening::Vrrp => f.write_str("vrrp"),
            Opening::VrrpPeer(peer) => write!(f, "vrrp={peer}"),
            Opening::Port { protocol, port, from: None } => write!(f, "{protocol}/{port}"),
            Opening::Port { protocol, port, from: Some(net) } => write!(f, "{protocol}/{port}@{net}"),
        }
    }
}

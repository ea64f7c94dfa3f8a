use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::model::{Family, InterfaceName, Protocol};

/// One iptables rule: it matches when every match does. Displays as iptables-save prints it (without `-A CHAIN`), so that what is read
/// back compares equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub matches: Vec<Match>,
    pub target: Target,
}

/// The jump from a built-in chain is a rule like any other.
pub type Hook = Rule;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    Source(IpNet),
    Destination(IpNet),
    NotSource(IpNet),
    NotDestination(IpNet),
    /// A trailing `+` matches any ending.
    InInterface(InterfaceName),
    OutInterface(InterfaceName),
    /// Must stand before the port match that needs it.
    Protocol(Protocol),
    /// An IP protocol by name as iptables prints it (`icmp`, `ipv6-icmp`, `vrrp`).
    IpProtocol(&'static str),
    SourcePort(Protocol, u16),
    DestinationPort(Protocol, Ports),
    IcmpType(u8),
    Icmp6Type(u8),
    /// One code of a type of ICMP, or of ICMPv6, as the family of the table has it.
    IcmpCode {
        family: Family,
        kind: u8,
        code: u8,
    },
    HopLimit(u8),
    /// An IPv4 header longer than the 20 bytes that it has without options.
    Ipv4Options,
    CtState(CtState),
    /// `! --ctstate DNAT`: no destination translation was made.
    NotDnated,
    /// `--ctstate DNAT`: a destination translation was made.
    Dnated,
    CtDirection(CtDirection),
    ConnMark {
        value: u32,
        mask: u32,
        invert: bool,
    },
    Mark {
        value: u32,
        mask: u32,
        invert: bool,
    },
    Set {
        name: String,
        direction: SetDirection,
        invert: bool,
    },
    DestinationLocal {
        invert: bool,
    },
    /// The source is an address of the box, on whatever interface.
    SourceLocal,
    /// The destination is no address of the interface of arrival.
    DestinationNotHere,
    /// addrtype UNICAST, which of IPv4 is: neither an address of the box nor broadcast or multicast.
    DestinationElsewhere,
    /// A TCP segment that does not begin a connection. Must stand behind the protocol match.
    NotSyn,
    Statistic(Probability),
    Comment(String),
}

/// Inclusive; a single port has both ends equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Ports {
    pub fn one(port: u16) -> Self {
        Ports { first: port, last: port }
    }
}

/// `80`, or `80:90`.
impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}:{}", self.first, self.last) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CtState {
    New,
    /// RELATED,ESTABLISHED.
    Established,
    /// Of no connection, and able to begin none.
    Invalid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CtDirection {
    Original,
    Reply,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetDirection {
    Source,
    Destination,
    /// `dst,dst`: destination address, destination port and protocol.
    DestinationPort,
}

impl SetDirection {
    fn as_str(self) -> &'static str {
        match self {
            SetDirection::Source => "src",
            SetDirection::Destination => "dst",
            SetDirection::DestinationPort => "dst,dst",
        }
    }
}

/// One in `of` packets matches, rounded to the kernel's 2^-31 (xt_statistic).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probability {
    pub weight: u32,
    pub of: u32,
}

impl fmt::Display for Probability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNIT: f64 = 2_147_483_648.0;
        let kernel = (UNIT * f64::from(self.weight) / f64::from(self.of)).round();
        write!(f, "{:.11}", kernel / UNIT)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    Dnat(SocketAddr),
    /// To this address; ports outside of the range are changed to one within (for protocols that have ports).
    Snat {
        address: IpAddr,
        ports: Option<Ports>,
    },
    Masquerade,
    /// `MARK --set-xmark value/mask`: clears the bits of mask, then xors value.
    SetMark {
        value: u32,
        mask: u32,
    },
    SetConnMark {
        value: u32,
        mask: u32,
    },
    /// Packet mark to connection mark, these bits.
    SaveMark {
        mask: u32,
    },
    /// Connection mark to packet mark, these bits.
    RestoreMark {
        mask: u32,
    },
    /// `SET --map-set NAME src --map-mark`: the packet takes the mark of its source's entry.
    MapMark {
        set: String,
    },
    /// `SET --add-set NAME src --exist --timeout SECONDS`.
    AddSource {
        set: String,
        timeout: u32,
    },
    Reject(RejectWith),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectWith {
    TcpReset,
    PortUnreachable,
}

impl Target {
    /// The chain that a jump or goto leads to.
    pub fn chain(&self) -> Option<&str> {
        match self {
            Target::Jump(chain) | Target::Goto(chain) => Some(chain),
            _ => None,
        }
    }
}

impl Rule {
    pub fn new(matches: impl IntoIterator<Item = Match>, target: Target) -> Self {
        Rule { matches: matches.into_iter().collect(), target }
    }

    /// The text of the rule in the tool of a family: as displayed, but for the names of ICMP errors.
    pub fn spelled(&self, family: Family) -> String {
        let text = self.to_string();
        match (family, text.strip_suffix("icmp-port-unreachable")) {
            (Family::Ipv6, Some(rest)) if matches!(self.target, Target::Reject(_)) => {
                rest.to_owned() + "icmp6-port-unreachable"
            }
            _ => text,
        }
    }
}

impl Match {
    fn is_port(&self) -> bool {
        matches!(self, Match::SourcePort(..) | Match::DestinationPort(..))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // iptables prints addresses, interfaces and protocol first, in this order, wherever they were given.
        let rank = |m: &Match| match m {
            Match::Source(_) | Match::NotSource(_) => 0,
            Match::Destination(_) | Match::NotDestination(_) => 1,
            Match::InInterface(_) => 2,
            Match::OutInterface(_) => 3,
            Match::Protocol(_) | Match::IpProtocol(_) => 4,
            _ => 5,
        };
        let mut ordered: Vec<&Match> = self.matches.iter().collect();
        ordered.sort_by_key(|m| rank(m));
        // Both ports are one match, at the place of the first.
        let mut ports = ordered.iter().filter(|m| m.is_port());
        if ports.next().is_some() && ports.next().is_some() {
            let first = ordered.iter().position(|m| m.is_port()).unwrap_or_default();
            ordered[first..].sort_by_key(|m| !m.is_port());
            ordered[first..first + 2].sort_by_key(|m| matches!(m, Match::DestinationPort(..)));
            for (i, m) in ordered.iter().enumerate() {
                match m {
                    Match::DestinationPort(_, ports) if i == first + 1 => write!(f, "--dport {ports} ")?,
                    _ => write_match(f, m)?,
                }
            }
        } else {
            for m in ordered {
                write_match(f, m)?;
            }
        }
        write!(f, "{}", self.target)
    }
}

/// A match with a blank behind it; nothing for an address match that is true of every address.
fn write_match(f: &mut fmt::Formatter<'_>, m: &Match) -> fmt::Result {
    match m {
        Match::Source(net) | Match::Destination(net) if net.prefix_len() == 0 => Ok(()),
        _ => write!(f, "{m} "),
    }
}

/// Mark and mask; a full mask is not printed.
struct MaskedMark(u32, u32);

impl fmt::Display for MaskedMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MaskedMark(value, mask) = self;
        if *mask == u32::MAX { write!(f, "0x{value:x}") } else { write!(f, "0x{value:x}/0x{mask:x}") }
    }
}

/// Quoted where anything but letters, digits, `-` and `_` is in it.
fn write_comment(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
        return f.write_str(text);
    }
    f.write_str("\"")?;
    // A line break would end the rule.
    for c in text.chars().map(|c| if c.is_control() { '?' } else { c }) {
        if matches!(c, '"' | '\\' | '\'') {
            f.write_str("\\")?;
        }
        write!(f, "{c}")?;
    }
    f.write_str("\"")
}

fn not(invert: bool) -> &'static str {
    if invert { "! " } else { "" }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Match::Source(net) => write!(f, "-s {}", net.trunc()),
            Match::Destination(net) => write!(f, "-d {}", net.trunc()),
            Match::NotSource(net) => write!(f, "! -s {}", net.trunc()),
            Match::NotDestination(net) => write!(f, "! -d {}", net.trunc()),
            Match::InInterface(name) => write!(f, "-i {name}"),
            Match::OutInterface(name) => write!(f, "-o {name}"),
            Match::Protocol(p) => write!(f, "-p {p}"),
            Match::IpProtocol(p) => write!(f, "-p {p}"),
            Match::SourcePort(p, port) => write!(f, "-m {p} --sport {port}"),
            Match::DestinationPort(p, ports) => write!(f, "-m {p} --dport {ports}"),
            Match::IcmpType(t) => write!(f, "-m icmp --icmp-type {t}"),
            Match::Icmp6Type(t) => write!(f, "-m icmp6 --icmpv6-type {t}"),
            Match::IcmpCode { family: Family::Ipv4, kind, code } => write!(f, "-m icmp --icmp-type {kind}/{code}"),
            Match::IcmpCode { family: Family::Ipv6, kind, code } => write!(f, "-m icmp6 --icmpv6-type {kind}/{code}"),
            // The header's length is the lower half of the first byte, in units of four bytes.
            Match::Ipv4Options => f.write_str("-m u32 --u32 \"0x0>>0x18&0xf=0x6:0xf\""),
            Match::HopLimit(n) => write!(f, "-m hl --hl-eq {n}"),
            Match::CtState(CtState::New) => f.write_str("-m conntrack --ctstate NEW"),
            Match::CtState(CtState::Established) => f.write_str("-m conntrack --ctstate RELATED,ESTABLISHED"),
            Match::CtState(CtState::Invalid) => f.write_str("-m conntrack --ctstate INVALID"),
            Match::NotDnated => f.write_str("-m conntrack ! --ctstate DNAT"),
            Match::Dnated => f.write_str("-m conntrack --ctstate DNAT"),
            Match::CtDirection(CtDirection::Original) => f.write_str("-m conntrack --ctdir ORIGINAL"),
            Match::CtDirection(CtDirection::Reply) => f.write_str("-m conntrack --ctdir REPLY"),
            Match::ConnMark { value, mask, invert } => {
                write!(f, "-m connmark {}--mark {}", not(*invert), MaskedMark(*value, *mask))
            }
            Match::Mark { value, mask, invert } => {
                write!(f, "-m mark {}--mark {}", not(*invert), MaskedMark(*value, *mask))
            }
            Match::Set { name, direction, invert } => {
                write!(f, "-m set {}--match-set {name} {}", not(*invert), direction.as_str())
            }
            Match::DestinationLocal { invert } => write!(f, "-m addrtype {}--dst-type LOCAL", not(*invert)),
            Match::SourceLocal => f.write_str("-m addrtype --src-type LOCAL"),
            Match::DestinationNotHere => f.write_str("-m addrtype ! --dst-type LOCAL --limit-iface-in"),
            Match::DestinationElsewhere => f.write_str("-m addrtype --dst-type UNICAST"),
            Match::NotSyn => f.write_str("-m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN"),
            Match::Statistic(p) => write!(f, "-m statistic --mode random --probability {p}"),
            Match::Comment(text) => {
                f.write_str("-m comment --comment ")?;
                write_comment(f, text)
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Accept => f.write_str("-j ACCEPT"),
            Target::Drop => f.write_str("-j DROP"),
            Target::Return => f.write_str("-j RETURN"),
            Target::Jump(chain) => write!(f, "-j {chain}"),
            Target::Goto(chain) => write!(f, "-g {chain}"),
            Target::Dnat(to) => write!(f, "-j DNAT --to-destination {to}"),
            Target::Snat { address, ports: None } => write!(f, "-j SNAT --to-source {address}"),
            Target::Snat { address, ports: Some(Ports { first, last }) } => {
                let address = SocketAddr::new(*address, *first);
                write!(f, "-j SNAT --to-source {address}-{last}")
            }
            Target::Masquerade => f.write_str("-j MASQUERADE"),
            Target::SetMark { value, mask } => write!(f, "-j MARK --set-xmark 0x{value:x}/0x{mask:x}"),
            Target::SetConnMark { value, mask } => write!(f, "-j CONNMARK --set-xmark 0x{value:x}/0x{mask:x}"),
            Target::SaveMark { mask } => {
                write!(f, "-j CONNMARK --save-mark --nfmask 0x{mask:x} --ctmask 0x{mask:x}")
            }
            Target::RestoreMark { mask } => {
                write!(f, "-j CONNMARK --restore-mark --nfmask 0x{mask:x} --ctmask 0x{mask:x}")
            }
            Target::MapMark { set } => write!(f, "-j SET --map-set {set} src --map-mark"),
            Target::AddSource { set, timeout } => write!(f, "-j SET --add-set {set} src --exist --timeout {timeout}"),
            Target::Reject(RejectWith::TcpReset) => f.write_str("-j REJECT --reject-with tcp-reset"),
            Target::Reject(RejectWith::PortUnreachable) => f.write_str("-j REJECT --reject-with icmp-port-unreachable"),
        }
    }
}

use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::rc::Rc;

use super::PacketKind;
use super::walk::{Connection, State};
use crate::model::{Family, Host, Protocol};
use crate::ruleset::{CtState, Dataplane, IpSet, Match, Probability, Rule, SetDirection, SetKind, SetMember};

/// What is assumed of the sets that the kernel fills itself: the client stands in none of some, or in exactly one of some. A client that
/// stands in several ends where one of those alone would have led it.
///
/// Equal when it is the same assumption, not an equal one: good enough to share work, and cheap.
#[derive(Debug, Clone)]
pub(super) struct Memory<'a>(Rc<Assumption<'a>>);

#[derive(Debug)]
enum Assumption<'a> {
    NotIn(BTreeSet<&'a str>),
    InOneOf(BTreeSet<&'a str>),
}

impl PartialEq for Memory<'_> {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Memory<'_> {}

impl Hash for Memory<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Rc::as_ptr(&self.0).hash(state);
    }
}

impl Default for Memory<'_> {
    fn default() -> Self {
        Memory(Rc::new(Assumption::NotIn(BTreeSet::new())))
    }
}

impl<'a> Memory<'a> {
    pub fn in_one_of(sets: BTreeSet<&'a str>) -> Self {
        Memory(Rc::new(Assumption::InOneOf(sets)))
    }

    /// The client is in one of `sets`, and: it is in none of them. `None` where what is assumed already rules that out.
    fn asked(&self, sets: &BTreeSet<&'a str>) -> (Option<Self>, Option<Self>) {
        let some = |sets: BTreeSet<&'a str>| (!sets.is_empty()).then(|| Memory::in_one_of(sets));
        match &*self.0 {
            Assumption::NotIn(excluded) => {
                let inside = some(sets.difference(excluded).copied().collect());
                let outside = match inside {
                    Some(_) => Memory(Rc::new(Assumption::NotIn(excluded.union(sets).copied().collect()))),
                    None => self.clone(),
                };
                (inside, Some(outside))
            }
            Assumption::InOneOf(among) => {
                (some(among.intersection(sets).copied().collect()), some(among.difference(sets).copied().collect()))
            }
        }
    }
}

/// Whether a rule matches.
pub(super) enum Answer<'a> {
    No,
    Yes,
    /// Chance decides; what is remembered of the client if it matches, and if it does not.
    Either {
        matched: Memory<'a>,
        missed: Memory<'a>,
    },
}

/// Whether one match holds.
enum Held<'a> {
    No,
    Yes,
    /// xt_statistic.
    Random,
    /// Sets filled by the kernel; the match holds when the client is in one of them, or, inverted, in none.
    Remembered {
        sets: Rc<BTreeSet<&'a str>>,
        invert: bool,
    },
}

impl From<bool> for Held<'_> {
    fn from(holds: bool) -> Self {
        if holds { Held::Yes } else { Held::No }
    }
}

/// Where a set lookup looks.
enum Found<'a> {
    Certain(bool),
    Remembered(Rc<BTreeSet<&'a str>>),
}

pub(super) struct Matcher<'a> {
    dataplane: &'a Dataplane,
    host: &'a Host,
    /// The dynamic sets below a set, itself included.
    dynamic: HashMap<&'a str, Rc<BTreeSet<&'a str>>>,
}

impl<'a> Matcher<'a> {
    pub fn new(dataplane: &'a Dataplane, host: &'a Host) -> Self {
        Matcher { dataplane, host, dynamic: HashMap::new() }
    }

    /// Whether every match of the rule holds. Fails with a reason when it names something unknown.
    pub fn rule(&mut self, rule: &'a Rule, state: &State<'a>) -> Result<Answer<'a>, String> {
        let mut chance = false;
        let mut matched = state.memory.clone();
        // What is known when the rule does not match: exactly one remembered-match must have been all that was in doubt.
        let mut missed = Vec::new();
        for m in &rule.matches {
            match self.holds(m, state)? {
                Held::No => return Ok(Answer::No),
                Held::Yes => {}
                Held::Random => {
                    chance = true;
                    missed.push(state.memory.clone());
                }
                Held::Remembered { sets, invert } => {
                    let (inside, outside) = matched.asked(&sets);
                    let (holds, fails) = if invert { (outside, inside) } else { (inside, outside) };
                    let Some(holds) = holds else { return Ok(Answer::No) };
                    matched = holds;
                    if let Some(fails) = fails {
                        chance = true;
                        missed.push(fails);
                    }
                }
            }
        }
        Ok(match (chance, missed.as_slice()) {
            (false, _) => Answer::Yes,
            (true, [one]) => Answer::Either { matched, missed: one.clone() },
            (true, _) => Answer::Either { matched, missed: state.memory.clone() },
        })
    }

    fn holds(&mut self, m: &'a Match, state: &State<'a>) -> Result<Held<'a>, String> {
        let connection = state.connection.as_ref();
        let ports = state.kind.ports();
        Ok(match m {
            Match::Source(net) => net.contains(&state.source).into(),
            Match::Destination(net) => net.contains(&state.destination).into(),
            Match::NotSource(net) => (!net.contains(&state.source)).into(),
            Match::NotDestination(net) => (!net.contains(&state.destination)).into(),
            Match::InInterface(name) => interface_matches(name, Some(state.in_interface)).into(),
            Match::OutInterface(name) => interface_matches(name, state.out_interface).into(),
            Match::Protocol(protocol) => ports.is_some_and(|(p, ..)| p == *protocol).into(),
            Match::IpProtocol(name) => {
                (protocol_number(name)? == protocol_of(state.kind, state.source.is_ipv6())).into()
            }
            Match::SourcePort(protocol, port) => {
                ports.is_some_and(|(p, source, _)| p == *protocol && source == *port).into()
            }
            Match::DestinationPort(protocol, range) => {
                let within = |port| (range.first..=range.last).contains(&port);
                ports.is_some_and(|(p, _, destination)| p == *protocol && within(destination)).into()
            }
            Match::IcmpType(t) => {
                (state.source.is_ipv4() && matches!(state.kind, PacketKind::Icmp { kind, .. } if kind == *t)).into()
            }
            Match::Icmp6Type(t) => {
                (state.source.is_ipv6() && matches!(state.kind, PacketKind::Icmp { kind, .. } if kind == *t)).into()
            }
            Match::IcmpCode { family, kind, code } => (Family::of(state.source) == *family
                && matches!(state.kind, PacketKind::Icmp { kind: k, code: c } if (k, c) == (*kind, *code)))
            .into(),
            // A trace's packets have none.
            Match::Ipv4Options => Held::No,
            Match::HopLimit(n) => (state.hop_limit == *n).into(),
            Match::CtState(CtState::New) => connection.is_some_and(|c| c.new).into(),
            Match::CtState(CtState::Established) => connection.is_some_and(|c| !c.new).into(),
            Match::CtState(CtState::Invalid) => (connection.is_none() && !state.untracked).into(),
            // xt_conntrack asks for states first: what has no connection was not translated either, so the inversion holds.
            Match::Dnated => connection.is_some_and(|c| c.dnat).into(),
            Match::NotDnated => connection.is_none_or(|c| !c.dnat).into(),
            Match::CtDirection(direction) => connection.is_some_and(|c| c.direction == *direction).into(),
            // xt_connmark: without a connection there is no match, inverted or not.
            Match::ConnMark { value, mask, invert } => {
                connection.is_some_and(|Connection { mark, .. }| (mark & mask == *value) != *invert).into()
            }
            Match::Mark { value, mask, invert } => ((state.mark & mask == *value) != *invert).into(),
            Match::Set { name, direction, invert } => match self.lookup(name, *direction, state)? {
                Found::Certain(found) => (found != *invert).into(),
                Found::Remembered(sets) => Held::Remembered { sets, invert: *invert },
            },
            Match::DestinationLocal { invert } => (self.host.is_local(state.destination) != *invert).into(),
            Match::SourceLocal => self.host.is_local(state.source).into(),
            Match::DestinationNotHere => (!self.is_here(state.in_interface, state.destination)).into(),
            Match::DestinationElsewhere => self.is_elsewhere(state.destination).into(),
            Match::NotSyn => connection.is_none_or(|c| !c.syn).into(),
            Match::Statistic(Probability { weight: 0, .. }) => Held::No,
            Match::Statistic(Probability { weight, of }) if weight >= of => Held::Yes,
            Match::Statistic(_) => Held::Random,
            Match::Comment(_) => Held::Yes,
        })
    }

    /// Whether it is an address of this interface.
    fn is_here(&self, interface: &str, address: IpAddr) -> bool {
        self.host.addresses().any(|(name, a)| name == interface && a.address == address)
    }

    /// Neither the box's own nor broadcast or multicast. xt_addrtype does not ask which IPv6 addresses are the box's.
    fn is_elsewhere(&self, address: IpAddr) -> bool {
        let IpAddr::V4(v4) = address else { return !address.is_multicast() };
        let mut subnets = self.host.addresses().map(|(_, a)| a.subnet()).filter(|net| net.prefix_len() < 31);
        !(v4.is_multicast()
            || v4.is_broadcast()
            || v4.is_unspecified()
            || self.host.is_local(address)
            || subnets.any(|net| net.broadcast() == address))
    }

    fn set(&self, name: &str) -> Result<&'a IpSet, String> {
        self.dataplane.sets.get(name).ok_or_else(|| format!("the set {name} does not exist"))
    }

    fn lookup(&mut self, name: &'a str, direction: SetDirection, state: &State<'a>) -> Result<Found<'a>, String> {
        if self.contains(self.set(name)?, direction, state)? {
            return Ok(Found::Certain(true));
        }
        let dynamic = self.dynamic_below(name)?;
        Ok(if dynamic.is_empty() { Found::Certain(false) } else { Found::Remembered(dynamic) })
    }

    /// Whether a member that the plan gave matches. A set of the other family matches nothing.
    fn contains(&self, set: &'a IpSet, direction: SetDirection, state: &State<'a>) -> Result<bool, String> {
        let address = match direction {
            SetDirection::Source => state.source,
            SetDirection::Destination | SetDirection::DestinationPort => state.destination,
        };
        // xt_set: an entry of two parts is not looked up with one.
        let port = match direction {
            SetDirection::DestinationPort => state.kind.ports(),
            SetDirection::Source | SetDirection::Destination => None,
        };
        let mut members = set.members.iter();
        Ok(match set.kind {
            SetKind::HashIp(_) => set.members.contains(&SetMember::Ip(address)),
            SetKind::HashIpPort(_) => port.is_some_and(|(protocol, _, port)| {
                set.members.contains(&SetMember::IpPort { address, protocol, port })
            }),
            SetKind::HashNet(_) => members.any(|m| matches!(m, SetMember::Net(net) if net.contains(&address))),
            SetKind::HashIpMark(_) => mark_in(set, address).is_some(),
            SetKind::Affinity(_) => false,
            SetKind::List => {
                for member in members {
                    if let SetMember::Set(name) = member
                        && self.contains(self.set(name)?, direction, state)?
                    {
                        return Ok(true);
                    }
                }
                false
            }
        })
    }

    fn dynamic_below(&mut self, name: &'a str) -> Result<Rc<BTreeSet<&'a str>>, String> {
        if let Some(known) = self.dynamic.get(name) {
            return Ok(Rc::clone(known));
        }
        let mut below = BTreeSet::new();
        let set = self.set(name)?;
        if set.kind.is_dynamic() {
            below.insert(name);
        }
        for member in set.members.iter() {
            if let SetMember::Set(inner) = member {
                below.extend(self.dynamic_below(inner)?.iter());
            }
        }
        let below = Rc::new(below);
        self.dynamic.insert(name, Rc::clone(&below));
        Ok(below)
    }

    /// The mark and mask that a set's entry carries for an address.
    pub fn mark_of(&self, set: &str, address: IpAddr) -> Result<Option<(u32, u32)>, String> {
        Ok(mark_in(self.set(set)?, address))
    }
}

fn mark_in(set: &IpSet, address: IpAddr) -> Option<(u32, u32)> {
    set.members.iter().find_map(|member| match member {
        SetMember::IpMark { address: a, mark, mask } if *a == address => Some((*mark, *mask)),
        _ => None,
    })
}

/// xt's interface match: a trailing `+` stands for any ending. Where a packet has no such interface nothing matches.
fn interface_matches(pattern: &str, name: Option<&str>) -> bool {
    name.is_some_and(|name| match pattern.strip_suffix('+') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    })
}

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

fn protocol_of(kind: PacketKind, v6: bool) -> u8 {
    match kind {
        PacketKind::Tcp { .. } => Protocol::Tcp.number(),
        PacketKind::Udp { .. } => Protocol::Udp.number(),
        PacketKind::Icmp { .. } if v6 => ICMPV6,
        PacketKind::Icmp { .. } => ICMP,
        PacketKind::Other(number) => number,
    }
}

/// IANA's number of a protocol that rules name.
fn protocol_number(name: &str) -> Result<u8, String> {
    match name {
        "icmp" => Ok(ICMP),
        "ipv6-icmp" | "icmpv6" => Ok(ICMPV6),
        "vrrp" => Ok(112),
        number => number.parse().map_err(|_| format!("the protocol {name} is not known to the trace")),
    }
}

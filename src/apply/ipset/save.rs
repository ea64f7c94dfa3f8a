//! The format of `ipset save` and `ipset restore`, for the sets that are ours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::{Family, Protocol};
use crate::ruleset::ownership::is_our_set;
use crate::ruleset::{SetKind, SetMember};

/// Capacity of the sets that we fill; clients of one pod are bounded by `forceadd` instead.
const MAX_ELEMENTS: &str = "1048576";
const MAX_CLIENTS: &str = "65536";
/// Sets that one list:set can hold (8 by default). The kernel reserves nothing for it.
const LIST_SIZE: &str = "65536";

/// What a set of our name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeldKind {
    Ours(SetKind),
    /// A type or options that we never make.
    Other {
        type_name: String,
        family: Option<Family>,
    },
}

/// A set as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldSet {
    pub kind: HeldKind,
    /// Empty for sets that the kernel fills itself.
    pub members: Arc<BTreeSet<SetMember>>,
    /// Members that we cannot have put there, as `del` takes them.
    pub strays: BTreeSet<String>,
    /// Not wanted, and could not be destroyed.
    pub stuck: bool,
}

impl HeldSet {
    pub fn empty(kind: SetKind) -> Self {
        HeldSet { kind: HeldKind::Ours(kind), members: Arc::default(), strays: BTreeSet::new(), stuck: false }
    }

    pub fn is_list(&self) -> bool {
        match &self.kind {
            HeldKind::Ours(kind) => *kind == SetKind::List,
            HeldKind::Other { type_name, .. } => type_name == "list:set",
        }
    }
}

fn type_name(kind: SetKind) -> &'static str {
    match kind {
        SetKind::HashNet(_) => "hash:net",
        SetKind::HashIp(_) | SetKind::HashIpMark(_) | SetKind::Affinity(_) => "hash:ip",
        SetKind::HashIpPort(_) => "hash:ip,port",
        SetKind::List => "list:set",
    }
}

fn family_of(kind: SetKind) -> Option<Family> {
    match kind {
        SetKind::HashNet(f)
        | SetKind::HashIp(f)
        | SetKind::HashIpPort(f)
        | SetKind::HashIpMark(f)
        | SetKind::Affinity(f) => Some(f),
        SetKind::List => None,
    }
}

/// Type and options of a kind, as `create` takes them.
pub fn header(kind: SetKind) -> String {
    let family = match family_of(kind) {
        Some(Family::Ipv4) => " family inet",
        Some(Family::Ipv6) => " family inet6",
        None => "",
    };
    let options = match kind {
        SetKind::HashNet(_) | SetKind::HashIp(_) | SetKind::HashIpPort(_) => format!("maxelem {MAX_ELEMENTS}"),
        SetKind::HashIpMark(_) => format!("maxelem {MAX_ELEMENTS} skbinfo"),
        SetKind::Affinity(_) => format!("maxelem {MAX_CLIENTS} timeout 0 forceadd"),
        SetKind::List => format!("size {LIST_SIZE}"),
    };
    format!("{}{family} {options}", type_name(kind))
}

/// Whether `ipset swap` takes the two: it asks for the same type and family, the options may differ.
pub fn swappable(wanted: SetKind, held: &HeldKind) -> bool {
    let wanted = (type_name(wanted), family_of(wanted));
    match held {
        HeldKind::Ours(kind) => wanted == (type_name(*kind), family_of(*kind)),
        HeldKind::Other { type_name, family } => wanted == (type_name.as_str(), *family),
    }
}

/// A member as `del` takes it: without what it carries.
pub fn key(member: &SetMember) -> String {
    match member {
        SetMember::IpMark { address, .. } => address.to_string(),
        other => other.to_string(),
    }
}

/// Our sets among those that `ipset save` prints.
pub fn parse(text: &str) -> BTreeMap<Arc<str>, HeldSet> {
    let mut sets: BTreeMap<Arc<str>, HeldSet> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(verb), Some(name)) = (words.next(), words.next()) else { continue };
        if !is_our_set(name) {
            continue;
        }
        match verb {
            "create" => {
                let kind = parse_header(words);
                let set = HeldSet { kind, members: Arc::default(), strays: BTreeSet::new(), stuck: false };
                sets.insert(name.into(), set);
            }
            "add" => {
                let (Some(set), Some(element)) = (sets.get_mut(name), words.next()) else { continue };
                let rest: Vec<&str> = words.collect();
                match &set.kind {
                    HeldKind::Ours(kind) if kind.is_dynamic() => {}
                    HeldKind::Other { .. } => {}
                    HeldKind::Ours(kind) => match parse_member(*kind, element, &rest) {
                        Some(member) => drop(Arc::make_mut(&mut set.members).insert(member)),
                        None => drop(set.strays.insert(element.to_owned())),
                    },
                }
            }
            _ => {}
        }
    }
    sets
}

fn parse_header<'a>(mut words: impl Iterator<Item = &'a str>) -> HeldKind {
    let type_name = words.next().unwrap_or_default();
    let (mut family, mut capacity, mut timeout, mut skbinfo, mut plain) = (None, None, None, false, true);
    while let Some(word) = words.next() {
        match word {
            "family" => family = if words.next() == Some("inet6") { Some(Family::Ipv6) } else { Some(Family::Ipv4) },
            "maxelem" | "size" => capacity = words.next(),
            "timeout" => timeout = words.next(),
            "skbinfo" => skbinfo = true,
            // Chosen by the kernel.
            "hashsize" | "bucketsize" | "initval" => drop(words.next()),
            // Printed by some versions only.
            "forceadd" => {}
            _ => plain = false,
        }
    }
    let full_size = capacity == Some(MAX_ELEMENTS);
    let kind = match (type_name, family, timeout, skbinfo) {
        ("hash:net", Some(f), None, false) if full_size => Some(SetKind::HashNet(f)),
        ("hash:ip", Some(f), None, false) if full_size => Some(SetKind::HashIp(f)),
        ("hash:ip", Some(f), None, true) if full_size => Some(SetKind::HashIpMark(f)),
        ("hash:ip", Some(f), Some("0"), false) if capacity == Some(MAX_CLIENTS) => Some(SetKind::Affinity(f)),
        ("hash:ip,port", Some(f), None, false) if full_size => Some(SetKind::HashIpPort(f)),
        ("list:set", None, None, false) if capacity == Some(LIST_SIZE) => Some(SetKind::List),
        _ => None,
    };
    match kind.filter(|_| plain) {
        Some(kind) => HeldKind::Ours(kind),
        None => HeldKind::Other { type_name: type_name.to_owned(), family },
    }
}

fn parse_member(kind: SetKind, element: &str, rest: &[&str]) -> Option<SetMember> {
    let address = |text: &str| text.parse::<IpAddr>().ok();
    match (kind, rest) {
        (SetKind::HashNet(_), []) => {
            element.parse::<IpNet>().ok().or_else(|| address(element).map(IpNet::from)).map(SetMember::Net)
        }
        (SetKind::HashIp(_), []) => address(element).map(SetMember::Ip),
        (SetKind::HashIpPort(_), []) => {
            let (ip, service) = element.rsplit_once(',')?;
            let (protocol, port) = service.split_once(':')?;
            let protocol = protocol.parse::<Protocol>().ok()?;
            Some(SetMember::IpPort { address: address(ip)?, protocol, port: port.parse().ok()? })
        }
        // A member that carries nothing is printed bare.
        (SetKind::HashIpMark(_), []) => Some(SetMember::IpMark { address: address(element)?, mark: 0, mask: 0 }),
        (SetKind::HashIpMark(_), ["skbmark", value]) => {
            let number = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
            // A full mask is not printed.
            let (mark, mask) = match value.split_once('/') {
                Some((mark, mask)) => (number(mark)?, number(mask)?),
                None => (number(value)?, u32::MAX),
            };
            Some(SetMember::IpMark { address: address(element)?, mark, mask })
        }
        (SetKind::List, []) => Some(SetMember::Set(element.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ipset_saves_is_read_into_typed_members() {
        let sets = parse(
            "create SN-n hash:net family inet hashsize 1024 maxelem 1048576 bucketsize 12 initval 0xd958f0a9\n\
             add SN-n 10.0.0.0/24\nadd SN-n 10.1.1.1\nadd SN-n 10.2.0.0/16 nomatch\n\
             create foreign hash:ip family inet hashsize 1024 maxelem 65536\nadd foreign 1.1.1.1\n\
             create SN-p hash:ip,port family inet6 hashsize 1024 maxelem 1048576 bucketsize 12 initval 0x0\n\
             add SN-p 2001:db8::1,udp:53\nadd SN-p 2001:db8::1,sctp:53\n\
             create SN-m hash:ip family inet hashsize 1024 maxelem 1048576 skbinfo\n\
             add SN-m 10.0.0.1 skbmark 0x10000/0xfff0000\nadd SN-m 10.0.0.2 skbmark 0x5\nadd SN-m 10.0.0.3\n\
             create SN-a hash:ip family inet hashsize 1024 maxelem 65536 timeout 0\nadd SN-a 10.0.0.1 timeout 99\n\
             create SN-l list:set size 65536\nadd SN-l SN-a\n",
        );
        assert_eq!(sets.keys().map(|name| &**name).collect::<Vec<_>>(), ["SN-a", "SN-l", "SN-m", "SN-n", "SN-p"]);
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        assert_eq!(
            *sets["SN-n"].members,
            BTreeSet::from(["10.0.0.0/24", "10.1.1.1/32"].map(|s| SetMember::Net(s.parse().unwrap())))
        );
        assert_eq!(sets["SN-n"].strays, BTreeSet::from(["10.2.0.0/16".to_owned()]));
        let udp = SetMember::IpPort { address: ip("2001:db8::1"), protocol: Protocol::Udp, port: 53 };
        assert_eq!(*sets["SN-p"].members, BTreeSet::from([udp]));
        assert_eq!(sets["SN-p"].strays, BTreeSet::from(["2001:db8::1,sctp:53".to_owned()]));
        let mark = |a, mark, mask| SetMember::IpMark { address: ip(a), mark, mask };
        assert_eq!(
            *sets["SN-m"].members,
            BTreeSet::from([
                mark("10.0.0.1", 0x10000, 0xfff0000),
                mark("10.0.0.2", 5, u32::MAX),
                mark("10.0.0.3", 0, 0)
            ])
        );
        assert_eq!(sets["SN-a"], HeldSet::empty(SetKind::Affinity(Family::Ipv4)));
        assert_eq!(*sets["SN-l"].members, BTreeSet::from([SetMember::Set("SN-a".into())]));
        assert!(sets["SN-l"].is_list());
    }

    #[test]
    fn a_set_with_other_options_is_not_taken_for_one_of_ours() {
        for header in [
            "hash:ip family inet hashsize 1024 maxelem 65536",
            "hash:ip family inet hashsize 1024 maxelem 1048576 counters",
            "hash:ip family inet hashsize 1024 maxelem 1048576 timeout 5",
            "bitmap:port range 0-10",
            "list:set size 8",
        ] {
            let sets = parse(&format!("create SN-x {header}\n"));
            assert!(matches!(sets["SN-x"].kind, HeldKind::Other { .. }), "{header}");
        }
    }

    #[test]
    fn sets_are_exchanged_within_one_type_and_family_only() {
        let other = |name: &str, family| HeldKind::Other { type_name: name.to_owned(), family };
        assert!(swappable(SetKind::HashIpMark(Family::Ipv4), &HeldKind::Ours(SetKind::HashIp(Family::Ipv4))));
        assert!(swappable(SetKind::List, &other("list:set", None)));
        assert!(!swappable(SetKind::HashIp(Family::Ipv6), &other("hash:ip", Some(Family::Ipv4))));
        assert!(!swappable(SetKind::List, &other("hash:net", Some(Family::Ipv4))));
    }

    #[test]
    fn every_kind_that_we_make_is_recognised() {
        for family in Family::ALL {
            for kind in [
                SetKind::HashNet(family),
                SetKind::HashIp(family),
                SetKind::HashIpPort(family),
                SetKind::HashIpMark(family),
                SetKind::Affinity(family),
                SetKind::List,
            ] {
                assert_eq!(parse_header(header(kind).split(' ')), HeldKind::Ours(kind));
            }
        }
    }
}

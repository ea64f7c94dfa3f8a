//! nat POSTROUTING: masquerade by the connection's mark, and pod egress under the address of the pod's Mapping.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::tree::{self, Entry, Key};
use super::{Context, LocalMapping, hook, in_set, jump};
use crate::model::{InterfaceName, Protocol};
use crate::ruleset::{
    Builtin, Match, Ports, Rule, SetDirection, SetMember, TableRules, Target,
    ownership::{MAX_CHAIN_DEPTH, SET_INNER, SNAT, chain_of},
};

/// Ports that clients reach, by address and protocol.
pub type MappedPorts = BTreeMap<(IpAddr, Protocol), BTreeSet<u16>>;

/// `ways` says how the pods behind Mappings leave; nothing where that is not wanted. Returns each pod with the mark of its way.
pub fn compile(
    context: &Context,
    mapped: &MappedPorts,
    ways: BTreeMap<IpAddr, &WayOut>,
    nat: &mut TableRules,
) -> BTreeSet<SetMember> {
    let marks = context.marks();
    let mut rules = masqueraded(context);
    let mut per_interface: BTreeMap<(&InterfaceName, u16), Vec<Entry>> = BTreeMap::new();
    let mut members = BTreeSet::new();
    for (pod, way) in ways {
        members.insert(SetMember::IpMark { address: pod, mark: marks.slot(way.slot), mask: marks.slot_mask() });
        let entry = Entry { address: pod, rules: translation(way.address, mapped), depth: 0 };
        per_interface.entry((&way.interface, way.slot)).or_default().push(entry);
    }
    for ((interface, slot), entries) in per_interface {
        let root = tree::grow(nat, Key::Source, &entries.iter().collect::<Vec<_>>(), MAX_CHAIN_DEPTH - 2);
        let chain = chain_of("E", interface);
        nat.add(&chain, root);
        let decided = Match::ConnMark {
            value: marks.slot(slot) | marks.begun_inside(),
            mask: marks.slot_mask() | marks.begun_inside(),
            invert: false,
        };
        rules.push(Rule::new([Match::OutInterface(interface.clone()), decided], jump(&chain)));
    }
    nat.add(SNAT, rules);
    hook(nat, Builtin::Postrouting, [], SNAT);
    members
}

/// The connections of Mappings whose client the pod does not see. Asked once a connection, so a mark on the packet, which every port of a Mapping
/// would have to set, is not needed. What was not translated is answered by the box itself.
fn masqueraded(context: &Context) -> Vec<Rule> {
    let rule = |mut matches: Vec<Match>| {
        matches.push(Match::Dnated);
        Rule::new(matches, Target::Masquerade)
    };
    if context.config.masquerade {
        return vec![rule(vec![context.mapped()])];
    }
    // Who is on the inside would get the pod's answer past this box.
    let marks = context.marks();
    let (value, mask) = (marks.mapped() | marks.inside(), marks.mapped() | marks.slot_mask());
    let mut rules = vec![rule(vec![Match::ConnMark { value, mask, invert: false }])];
    if context.has_shared() {
        rules.push(rule(vec![context.mapped(), in_set(SET_INNER, SetDirection::Source)]));
    }
    rules
}

/// Ports of an address that clients reach are theirs: a pod's own connection from one would stand in for the Mapping's whole Service
/// towards its peer, and take the datagrams that the peer sends there.
fn translation(address: IpAddr, mapped: &MappedPorts) -> Vec<Rule> {
    let snat = |ports| Target::Snat { address, ports };
    let with_ports = [Protocol::Tcp, Protocol::Udp].into_iter().filter_map(|protocol| {
        let free = longest_free(mapped.get(&(address, protocol))?)?;
        Some(Rule::new([Match::Protocol(protocol)], snat(Some(free))))
    });
    with_ports.chain([Rule::new([], snat(None))]).collect()
}

/// Below this are ports of servers.
const FIRST_FREE: u16 = 1024;

/// The longest run of ports that are not mapped: it keeps the most of the ports that pods choose.
fn longest_free(mapped: &BTreeSet<u16>) -> Option<Ports> {
    let taken = mapped.range(FIRST_FREE..).map(|port| u32::from(*port));
    let befores = std::iter::once(u32::from(FIRST_FREE) - 1).chain(taken.clone());
    let afters = taken.chain([u32::from(u16::MAX) + 1]);
    let (before, after) = befores.zip(afters).max_by_key(|(before, after)| after - before)?;
    // None is left between neighbours; other ends are ports.
    let (first, last) = (u16::try_from(before + 1).ok()?, u16::try_from(after - 1).ok()?);
    (first <= last).then_some(Ports { first, last })
}

/// How a pod's own connections leave: under the first address here of its oldest Mapping.
#[derive(Debug)]
pub struct WayOut {
    address: IpAddr,
    interface: InterfaceName,
    slot: u16,
}

impl WayOut {
    /// That of every pod behind a Mapping, ready or not, and these pods.
    pub fn of(local: &LocalMapping) -> Option<(Self, Vec<IpAddr>)> {
        let (address, interface, slot) = local.addresses.first()?;
        let pods = local.mapping.ports.iter().flat_map(|p| &p.backends.known).map(|pod| pod.ip());
        let pods: BTreeSet<IpAddr> = pods.collect();
        let way = WayOut { address: *address, interface: interface.clone(), slot: *slot };
        Some((way, pods.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(mapped: impl IntoIterator<Item = u16>) -> Option<(u16, u16)> {
        longest_free(&mapped.into_iter().collect()).map(|run| (run.first, run.last))
    }

    #[test]
    fn pods_get_the_longest_run_of_ports_that_nobody_reaches() {
        assert_eq!(free([80, 443]), Some((1024, 65_535)));
        assert_eq!(free([80, 8080]), Some((8081, 65_535)));
        assert_eq!(free([1024, 60_000]), Some((1025, 59_999)));
        assert_eq!(free([65_535]), Some((1024, 65_534)));
        assert_eq!(free(1024..=65_535), None);
        assert_eq!(free((1024..=65_535).filter(|port| *port != 30_000)), Some((30_000, 30_000)));
    }
}

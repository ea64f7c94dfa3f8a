//! nat POSTROUTING: masquerade by mark, and pod egress under the address of the pod's Mapping.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::tree::{self, Entry, Key};
use super::{Context, LocalMapping, hook, jump};
use crate::model::InterfaceName;
use crate::ruleset::{
    Builtin, Dataplane, Match, Rule, SetMember, TableRules, Target,
    ownership::{MAX_CHAIN_DEPTH, SET_EGRESS, SNAT, chain_of},
};

pub fn compile(context: &Context, mappings: &[LocalMapping], nat: &mut TableRules, dataplane: &mut Dataplane) {
    let marks = context.marks();
    let masquerade = Match::Mark { value: marks.masquerade(), mask: marks.masquerade(), invert: false };
    let mut rules = vec![Rule::new([masquerade], Target::Masquerade)];
    if context.config.snat {
        let mut per_interface: BTreeMap<(InterfaceName, u16), Vec<Entry>> = BTreeMap::new();
        let mut members = Vec::new();
        for (pod, way) in ways_out(mappings) {
            members.push(SetMember::IpMark { address: pod, mark: marks.slot(way.slot), mask: marks.slot_mask() });
            let rules = vec![Rule::new([], Target::Snat(way.address))];
            let entry = Entry { address: pod, rules, depth: 0 };
            per_interface.entry((way.interface, way.slot)).or_default().push(entry);
        }
        if let Some(set) = dataplane.sets.get_mut(SET_EGRESS) {
            set.members.extend(members);
        }
        for ((interface, slot), entries) in per_interface {
            let root = tree::grow(nat, Key::Source, &entries, MAX_CHAIN_DEPTH - 2);
            let chain = chain_of("E", &interface);
            nat.chains.insert(chain.clone(), root);
            let decided = Match::ConnMark {
                value: marks.slot(slot) | marks.begun_inside(),
                mask: marks.slot_mask() | marks.begun_inside(),
                invert: false,
            };
            rules.push(Rule::new([Match::OutInterface(interface), decided], jump(&chain)));
        }
    }
    nat.chains.insert(SNAT.to_owned(), rules);
    hook(nat, Builtin::Postrouting, [], SNAT);
}

/// How a pod's own connections leave.
struct WayOut {
    address: IpAddr,
    interface: InterfaceName,
    slot: u16,
}

/// Every pod behind a Mapping, ready or not, with the first address here of its oldest Mapping.
fn ways_out(mappings: &[LocalMapping]) -> BTreeMap<IpAddr, WayOut> {
    let mut by_age: Vec<&LocalMapping> = mappings.iter().collect();
    by_age.sort_by_key(|local| local.mapping.seniority);
    let mut ways = BTreeMap::new();
    for local in by_age {
        let Some((address, interface, slot)) = local.addresses.first() else { continue };
        for pod in local.mapping.ports.iter().flat_map(|p| &p.backends.known) {
            ways.entry(pod.ip()).or_insert_with(|| WayOut {
                address: *address,
                interface: interface.clone(),
                slot: *slot,
            });
        }
    }
    ways
}

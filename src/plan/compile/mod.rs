//! From what was decided to what the kernel is to hold.

mod backends;
mod border;
mod dispatch;
mod egress;
mod errors;
mod forwarding;
mod from;
mod marking;
mod pass;
mod refuse;
mod routing;
mod serving;
mod sources;
mod tree;

pub use dispatch::{Handling, entry};
pub use egress::{MappedPorts, WayOut};
pub use serving::{Serving, serving};
pub use tree::Entry;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv6Net};

use super::ResolvedMapping;
use super::topology::Topology;
use crate::model::{BorderConfig, Family, InterfaceName, MarkLayout};
use crate::ruleset::{
    Builtin, Dataplane, IpSet, Match, Rule, SetDirection, SetKind, SetMember, Table, TableRules, Target, ownership,
};

/// fe80::/10 (RFC 4291, 2.5.6).
const LINK_LOCAL6: Ipv6Net = Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// A Mapping of which at least one address is on this box.
pub struct LocalMapping<'a> {
    pub mapping: &'a ResolvedMapping,
    /// Its addresses here, in the order of the spec, with the slot of the interface.
    pub addresses: Vec<(IpAddr, InterfaceName, u16)>,
}

impl<'a> LocalMapping<'a> {
    pub fn of(mapping: &'a ResolvedMapping, topology: &Topology) -> Self {
        let serving = |address: &IpAddr| topology.serving(*address).map(|e| (*address, e.name.clone(), e.slot));
        LocalMapping { mapping, addresses: mapping.addresses.iter().filter_map(serving).collect() }
    }
}

/// What the compilers of the single parts need to know.
pub struct Context<'a> {
    pub config: &'a BorderConfig,
    pub topology: &'a Topology,
}

impl Context<'_> {
    fn marks(&self) -> MarkLayout {
        self.config.marks
    }

    /// Any external interface shares its subnet with the inside.
    fn has_shared(&self) -> bool {
        self.topology.externals.iter().any(|e| !e.shared.is_empty())
    }

    /// Input interface matches for everything that is inside, lo excepted.
    fn inside_interfaces(&self) -> impl Iterator<Item = Match> {
        let names = self.topology.inside.iter().cloned();
        names.chain(self.topology.prefixes.iter().map(|p| format!("{p}+"))).map(Match::InInterface)
    }

    /// The connection has no slot: neither begun outside nor decided to leave there.
    fn no_slot(&self) -> Match {
        Match::ConnMark { value: 0, mask: self.marks().slot_mask(), invert: false }
    }

    fn mapped(&self) -> Match {
        Match::ConnMark { value: self.marks().mapped(), mask: self.marks().mapped(), invert: false }
    }

    fn set_slot(&self, slot_mark: u32) -> Target {
        Target::SetConnMark { value: slot_mark, mask: self.marks().slot_mask() }
    }
}

/// The names of the sets that exist per family.
struct FamilySets {
    inner: &'static str,
    external: &'static str,
    external_nets: &'static str,
}

impl FamilySets {
    fn of(family: Family) -> Self {
        match family {
            Family::Ipv4 => FamilySets {
                inner: ownership::SET_INNER,
                external: ownership::SET_EXTERNAL,
                external_nets: ownership::SET_EXTERNAL_NETS,
            },
            Family::Ipv6 => FamilySets {
                inner: ownership::SET_INNER6,
                external: ownership::SET_EXTERNAL6,
                external_nets: ownership::SET_EXTERNAL_NETS6,
            },
        }
    }
}

fn in_set(name: &str, direction: SetDirection) -> Match {
    Match::Set { name: name.to_owned(), direction, invert: false }
}

fn not_in_set(name: &str, direction: SetDirection) -> Match {
    Match::Set { name: name.to_owned(), direction, invert: true }
}

fn goto(chain: &str) -> Target {
    Target::Goto(chain.to_owned())
}

fn jump(chain: &str) -> Target {
    Target::Jump(chain.to_owned())
}

/// The part of the dataplane that follows from the host alone: the border, marks, routes, sysctls.
pub fn host_part(config: &BorderConfig, topology: &Topology) -> Dataplane {
    let context = Context { config, topology };
    let mut dataplane = Dataplane::default();
    for family in Family::ALL {
        let mangle = dataplane.tables.entry((family, Table::Mangle)).or_default();
        marking::compile(&context, family, mangle);
        border::compile(&context, family, mangle);

        let sets = FamilySets::of(family);
        let of_family = |net: &&IpNet| Family::of(net.addr()) == family;
        let inner = topology.inner.iter().filter(of_family).copied().map(SetMember::Net);
        dataplane.add_set(sets.inner, IpSet::of(SetKind::HashNet(family), inner));
        let external = topology.externals.iter().flat_map(|e| &e.addresses).filter(|a| Family::of(**a) == family);
        let external = external.copied().map(SetMember::Ip);
        dataplane.add_set(sets.external, IpSet::of(SetKind::HashIp(family), external));
        let nets = topology.external_nets().filter(of_family).copied().map(SetMember::Net);
        dataplane.add_set(sets.external_nets, IpSet::of(SetKind::HashNet(family), nets));
    }
    refuse::compile(&context, &mut dataplane);
    pass::compile(&context, &mut dataplane);
    routing::compile(&context, &mut dataplane);
    let services = IpSet::new(SetKind::HashIp(Family::Ipv4));
    dataplane.add_set(ownership::SET_SERVICES, services);
    for (name, kind) in [
        (ownership::SET_ENDPOINTS, SetKind::HashIpPort(Family::Ipv4)),
        (ownership::SET_EGRESS, SetKind::HashIpMark(Family::Ipv4)),
    ] {
        dataplane.add_set(name, IpSet::new(kind).as_gate());
    }
    dataplane
}

/// The rules of nat that lead to the handlers of Mappings, and their pods out; the members of the set of these pods.
pub fn nat(
    config: &BorderConfig,
    topology: &Topology,
    entries: &[&Entry],
    mapped: &MappedPorts,
    ways: BTreeMap<IpAddr, &WayOut>,
) -> (TableRules, Arc<BTreeSet<SetMember>>) {
    let context = Context { config, topology };
    let mut nat = dispatch::compile(&context, entries);
    let leaving = egress::compile(&context, mapped, ways, &mut nat);
    (nat, Arc::new(leaving))
}

/// The name of the set of inside networks of a family.
pub fn inner_set(family: Family) -> &'static str {
    FamilySets::of(family).inner
}

fn hook(table: &mut TableRules, builtin: Builtin, matches: impl IntoIterator<Item = Match>, chain: &str) {
    table.hooks.insert(builtin, Rule::new(matches, jump(chain)));
}

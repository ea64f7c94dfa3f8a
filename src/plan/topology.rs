//! Which interface is what: gateway, inside, external; their slots, tables and gateways; what counts as an inside source.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::gateway::{self, Wish};
use super::inner::Inner;
use super::netset::NetSet;
use super::roles::Roles;
use super::slots;
use super::{InterfaceKind, InterfaceOutcome};
use crate::model::{BorderConfig, Host, InterfaceName, LocalRoutes, check_interface_name};

/// The host, classified.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Inside interfaces by name, without lo and without those that a prefix covers.
    pub inside: BTreeSet<InterfaceName>,
    /// Beginnings of names that are inside, seen or not. None of them covers an interface that is known not to be inside.
    pub prefixes: Vec<String>,
    /// Interfaces above external ones: nothing leaves there for the outside.
    pub above: BTreeSet<InterfaceName>,
    /// External interfaces that have a slot, present or away.
    pub externals: Vec<External>,
    /// Networks of the inside: subnets of inside interfaces and what main routes by them.
    pub inner: Inner,
    pub outcomes: Vec<InterfaceOutcome>,
    pub slots: BTreeMap<InterfaceName, u16>,
    /// Addresses of external interfaces, each with a place in `externals`, first that of one that serves: thousands of Mappings ask.
    places: BTreeMap<IpAddr, usize>,
    local: LocalAddresses,
}

/// The addresses of the box, and what lo and local routes have besides.
#[derive(Debug, Clone)]
struct LocalAddresses {
    single: BTreeMap<IpAddr, InterfaceName>,
    loopback: NetSet,
    routes: LocalRoutes,
}

impl LocalAddresses {
    fn of(host: &Host) -> Self {
        let loopback = host.links.get("lo").into_iter().flat_map(|lo| &lo.addresses).map(|a| a.subnet());
        LocalAddresses {
            single: host.addresses().map(|(name, a)| (a.address, name.clone())).collect(),
            loopback: loopback.collect(),
            routes: host.local_routes.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub struct External {
    pub name: InterfaceName,
    pub slot: u16,
    pub table: u32,
    /// Exists and is administratively up: routes by it can be set.
    pub up: bool,
    pub present: bool,
    /// All its addresses, both families, in the kernel's order, and behind them the single ones that are local routes of it.
    pub addresses: Vec<IpAddr>,
    /// Networks that are local routes of it.
    pub networks: Vec<IpNet>,
    /// IPv4 subnets, each with the address that is its preferred source.
    pub subnets: Vec<(Ipv4Net, Ipv4Addr)>,
    pub gateway: Option<Ipv4Addr>,
    /// Where no subnet holds the gateway: the preferred source of a route to it alone.
    pub gateway_on_link: Option<Ipv4Addr>,
    /// Subnets that an inside interface has too. Their hosts are clients here, and other inside sources may arrive.
    pub shared: Vec<IpNet>,
}

impl External {
    /// Whether Mappings are served on its addresses: not when its gateway is refused.
    pub fn serves(&self) -> bool {
        self.gateway.is_some()
    }
}

impl Topology {
    pub fn of(config: &BorderConfig, host: &Host, kept: &BTreeMap<InterfaceName, u16>) -> Self {
        let roles = Roles::of(config, host, kept.keys());
        let is_external = |name: &str| roles.is_external(name);
        let is_inside = |name: &str| roles.is_inside(name);
        let has_slot = |name: &str| is_external(name) && check_interface_name(name).is_ok();
        let present = host.links.keys().filter(|n| has_slot(n)).cloned().collect();
        let slots = slots::assign(kept, &present, has_slot, config.marks.max_slot());
        let prefixes = roles.prefixes();

        let by_prefix = |name: &str| prefixes.iter().any(|p| name.starts_with(p.as_str()));
        let mut inside: BTreeSet<InterfaceName> =
            host.links.keys().filter(|n| *n != "lo" && is_inside(n) && !by_prefix(n)).cloned().collect();
        // Also before they are there, so that they never count as external. What can only be an altname never comes as an interface.
        let stated = std::iter::once(&config.gateway_interface).chain(&config.inside_interfaces);
        inside.extend(stated.filter(|name| check_interface_name(name).is_ok()).cloned());

        let inner = Inner::of(host, is_inside, is_external);
        let shared_with = subnets_of_several(&inner);

        let mut outcomes = Vec::new();
        let mut externals = Vec::new();
        for (name, slot) in &slots {
            let (external, mut outcome) = external(config, host, name, *slot, &shared_with);
            externals.push(external);
            outcome.notes.extend(roles.crossing(name));
            outcomes.push(outcome);
        }
        for (name, link) in &host.links {
            if slots.contains_key(name) {
                continue;
            }
            outcomes.push(roles.say(name, link, slots.len()));
        }
        outcomes.extend(roles.missing());
        if !host.links.contains_key(&config.gateway_interface) {
            outcomes.push(InterfaceOutcome {
                problem: Some(
                    "the default gateway interface exists neither under this name nor under this altname; correct SNCTRLR_DEFAULT_GW_INTERFACE (`ip link` shows both) or bring it up"
                        .to_owned(),
                ),
                ..InterfaceOutcome::down(&config.gateway_interface, InterfaceKind::Gateway)
            });
        }
        outcomes.sort_by(|a, b| a.name.cmp(&b.name));
        let (serving, refused): (Vec<_>, Vec<_>) = externals.iter().enumerate().partition(|(_, e)| e.serves());
        let mut places = BTreeMap::new();
        for (place, external) in serving.into_iter().chain(refused) {
            for address in &external.addresses {
                places.entry(*address).or_insert(place);
            }
        }
        let above = roles.above().cloned().collect();
        let local = LocalAddresses::of(host);
        Topology { inside, prefixes, above, externals, inner, outcomes, slots, places, local }
    }

    /// The external interface that holds an address and serves Mappings on it.
    pub fn serving(&self, address: IpAddr) -> Option<&External> {
        self.external_at(address).filter(|e| e.serves())
    }

    /// The external interface that holds an address, or has a network that holds it as a local route.
    fn external_at(&self, address: IpAddr) -> Option<&External> {
        if let Some(place) = self.places.get(&address) {
            return Some(&self.externals[*place]);
        }
        let (_, interface) = self.local.routes.find(address).filter(|_| !self.local.single.contains_key(&address))?;
        self.externals.iter().find(|e| e.name == *interface)
    }

    /// Whether an external interface holds an address.
    pub fn has_external(&self, address: IpAddr) -> bool {
        self.places.contains_key(&address)
    }

    /// The interface that has an address.
    pub fn held_by(&self, address: IpAddr) -> Option<&InterfaceName> {
        self.local.single.get(&address)
    }

    /// The interface by which an address is local without being one of its addresses.
    pub fn local_by(&self, address: IpAddr) -> Option<&InterfaceName> {
        self.local.routes.find(address).map(|(_, interface)| interface)
    }

    /// Networks that are local by external interfaces.
    pub fn external_nets(&self) -> impl Iterator<Item = &IpNet> {
        self.externals.iter().flat_map(|e| &e.networks)
    }

    /// The external interface that holds an address and serves nothing: its gateway is refused.
    pub fn refused(&self, address: IpAddr) -> Option<&External> {
        self.external_at(address).filter(|e| !e.serves())
    }

    /// The addresses of all interfaces.
    pub fn own_addresses(&self) -> impl Iterator<Item = &IpAddr> {
        self.local.single.keys()
    }

    /// Networks that are local by other interfaces than this one.
    pub fn local_elsewhere<'a>(&'a self, interface: &'a str) -> impl Iterator<Item = IpNet> + 'a {
        self.local.routes.elsewhere(interface)
    }

    /// Whether an address belongs to this box, as [`Host::is_local`] says: thousands of ports ask.
    pub fn is_local(&self, address: IpAddr) -> bool {
        let LocalAddresses { single, loopback, routes } = &self.local;
        single.contains_key(&address) || loopback.covering(address).is_some() || routes.find(address).is_some()
    }

    /// Whether an address is reached on the inside other than by a default route.
    pub fn reaches_inside(&self, address: IpAddr) -> bool {
        self.inner.reaches(address)
    }
}

fn external(
    config: &BorderConfig,
    host: &Host,
    name: &InterfaceName,
    slot: u16,
    shared_with: &NetSet,
) -> (External, InterfaceOutcome) {
    let table = config.route_table_base + u32::from(slot);
    let Some(link) = host.links.get(name) else {
        let external = External {
            name: name.clone(),
            slot,
            table,
            up: false,
            present: false,
            addresses: Vec::new(),
            networks: Vec::new(),
            subnets: Vec::new(),
            gateway: None,
            gateway_on_link: None,
            shared: Vec::new(),
        };
        let outcome = InterfaceOutcome {
            slot: Some(slot),
            table: Some(table),
            ..InterfaceOutcome::down(name, InterfaceKind::Absent)
        };
        return (external, outcome);
    };

    let mut subnets: Vec<(Ipv4Net, Ipv4Addr)> = Vec::new();
    for address in &link.addresses {
        if let (IpNet::V4(net), IpAddr::V4(source)) = (address.subnet(), address.address)
            && !subnets.iter().any(|(known, _)| *known == net)
        {
            subnets.push((net, source));
        }
    }
    let wish = Wish { address: config.gateway_addresses.of(name), offset: config.gateway_offsets.of(name) };
    let (single, networks): (Vec<IpNet>, Vec<IpNet>) =
        host.local_routes.of(name).partition(|net| net.prefix_len() == net.max_prefix_len());
    let routed: Vec<IpNet> = single.iter().chain(&networks).copied().collect();
    let choice = gateway::choose(name, link, wish, &routed, |a| host.is_local(IpAddr::V4(a)));
    let problem = choice.error.map(|error| format!("gateway refused, no Mapping is served on {name}: {error}"));
    let gateway = choice.gateway;
    let gateway_neighbour = gateway.and_then(|gateway| {
        host.neighbours.iter().find(|n| n.interface == *name && n.address == IpAddr::V4(gateway)).map(|n| n.state)
    });
    let shared = subnets.iter().map(|(net, _)| IpNet::V4(*net)).filter(|net| shared_with.overlaps(net)).collect();
    let external = External {
        name: name.clone(),
        slot,
        table,
        up: link.up,
        present: true,
        addresses: link.addresses.iter().map(|a| a.address).chain(single.iter().map(IpNet::addr)).collect(),
        networks,
        subnets,
        gateway,
        gateway_on_link: choice.on_link,
        shared,
    };
    let mut outcome = InterfaceOutcome {
        slot: Some(slot),
        table: Some(table),
        gateway: gateway.map(IpAddr::V4),
        gateway_neighbour,
        problem,
        notes: choice.notes,
        ..InterfaceOutcome::present(name, InterfaceKind::External, link)
    };
    outcome.addresses.extend(routed);
    (external, outcome)
}

/// Subnets of inside interfaces. A single address on a dummy interface (kube-ipvs0 holds Service addresses so) shares no link with anybody.
fn subnets_of_several(inner: &Inner) -> NetSet {
    inner.subnets.iter().filter(|net| net.prefix_len() < net.max_prefix_len()).copied().collect()
}

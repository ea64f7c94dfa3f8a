//! What is inside: the subnets of inside interfaces, and what main routes by them.
//!
//! The most specific network decides, as in the kernel: a wide route by an inside interface does not make the neighbours of an external
//! one impostors.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::defaults::without_defaults;
use super::netset::{NetSet, without};
use crate::model::{Host, InterfaceName, is_default_route};

/// The networks of the inside, both families.
#[derive(Debug, Clone, Default)]
pub struct Inner {
    nets: NetSet,
    /// The networks as they stand on this host, before those of the outside were taken out.
    origins: BTreeMap<IpNet, Origin>,
    /// Subnets of inside interfaces.
    pub subnets: NetSet,
}

/// Where a network of the inside comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    interface: InterfaceName,
    /// The next hop of a route; `None` for a subnet of the interface, or a route without one.
    gateway: Option<IpAddr>,
    is_subnet: bool,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_subnet, self.gateway) {
            (true, _) => write!(f, "a subnet of {}", self.interface),
            (false, Some(gateway)) => write!(f, "routed by {} via {gateway}", self.interface),
            (false, None) => write!(f, "routed by {}", self.interface),
        }
    }
}

#[derive(Clone, Copy)]
enum Side {
    Inside,
    External,
    Other,
}

impl Inner {
    /// Interfaces that are neither inside nor external stand above external ones, or no rule can name them: they are outside, too.
    pub fn of(host: &Host, is_inside: impl Fn(&str) -> bool, is_external: impl Fn(&str) -> bool) -> Self {
        let side = |name: &str| match name {
            name if is_inside(name) => Side::Inside,
            name if is_external(name) => Side::External,
            _ => Side::Other,
        };
        let known: BTreeMap<&str, Side> = host.links.keys().map(|name| (name.as_str(), side(name))).collect();
        let side = |name: &str| known.get(name).copied().unwrap_or_else(|| side(name));
        let counts = |net: &IpNet| !is_default_route(net) && !is_link_local(net);
        let mut origins = BTreeMap::new();
        let (mut of_externals, mut of_others) = (BTreeSet::new(), BTreeSet::new());
        for (name, address) in host.addresses() {
            let net = address.subnet();
            match side(name) {
                Side::External => _ = of_externals.insert(net),
                Side::Other => _ = of_others.insert(net),
                Side::Inside if counts(&net) => {
                    let origin = Origin { interface: name.clone(), gateway: None, is_subnet: true };
                    origins.entry(net).or_insert(origin);
                }
                Side::Inside => {}
            }
        }
        let subnets: NetSet = origins.keys().copied().collect();
        let mut by_inside = Vec::new();
        for (route, name) in host.main_routes.iter().filter_map(|route| Some((route, route.interface.as_ref()?))) {
            let counts = !is_default_route(&route.destination);
            match side(name) {
                Side::Inside => by_inside.push(route),
                Side::External if counts => _ = of_externals.insert(route.destination),
                Side::Other if counts => _ = of_others.insert(route.destination),
                _ => {}
            }
        }
        // An external interface may share a subnet with the inside; what stands above one shares none.
        let mut outside: Vec<IpNet> = of_externals.iter().filter(|net| !subnets.contains(net)).copied().collect();
        outside.extend(of_others.difference(&of_externals));
        for route in without_defaults(by_inside.into_iter()) {
            if let Some(interface) = route.interface.as_ref().filter(|_| counts(&route.destination)) {
                let origin = Origin { interface: interface.clone(), gateway: route.gateway, is_subnet: false };
                origins.entry(route.destination.trunc()).or_insert(origin);
            }
        }
        let nets = remaining(origins.keys().copied(), outside);
        Inner { nets, origins, subnets }
    }

    /// Sorted, none within another.
    pub fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.nets.iter()
    }

    /// Whether an address is reached on the inside other than by a default route.
    pub fn reaches(&self, address: IpAddr) -> bool {
        self.nets.covering(address).is_some()
    }

    /// The networks that make all of a network inside, each with where it comes from; none when part of it is not inside.
    pub fn covering(&self, net: &IpNet) -> Vec<(IpNet, &Origin)> {
        if !self.nets.covers(net) {
            return Vec::new();
        }
        let mut wide = Some(net.trunc());
        while let Some(candidate) = wide {
            if let Some((network, origin)) = self.origins.get_key_value(&candidate) {
                return vec![(*network, origin)];
            }
            wide = candidate.supernet();
        }
        // Several that lie side by side in it.
        let inside = self.origins.range(net.trunc()..).take_while(|(own, _)| net.contains(*own));
        inside.map(|(network, origin)| (*network, origin)).collect()
    }
}

/// A network counts without those of the outside that are more specific, and those again without what is inside of them. Networks in the
/// order of their addresses, wide ones first, stand like brackets in one another: one pass finds what each lies in.
fn remaining(inside: impl Iterator<Item = IpNet>, outside: Vec<IpNet>) -> NetSet {
    // Where both have a network, the inside has it.
    let mut sides: BTreeMap<(IpAddr, u8), (IpNet, bool)> =
        outside.into_iter().map(|net| ((net.network(), net.prefix_len()), (net.trunc(), false))).collect();
    sides.extend(inside.map(|net| ((net.network(), net.prefix_len()), (net.trunc(), true))));
    // A network of the inside that lies in none of the inside, or in one of the outside, with its holes.
    let mut roots: Vec<(IpNet, Vec<IpNet>)> = Vec::new();
    // What is open: a network, and of one inside its place in `roots`.
    let mut open: Vec<(IpNet, Option<usize>)> = Vec::new();
    for (net, is_inside) in sides.into_values() {
        while open.last().is_some_and(|(around, _)| !around.contains(&net)) {
            open.pop();
        }
        let root = match (is_inside, open.last().and_then(|(_, root)| *root)) {
            (true, Some(root)) => Some(root),
            (true, None) => {
                roots.push((net, Vec::new()));
                Some(roots.len() - 1)
            }
            (false, Some(root)) => {
                roots[root].1.push(net);
                None
            }
            (false, None) => None,
        };
        open.push((net, root));
    }
    roots.into_iter().flat_map(|(net, holes)| without(net, &holes.into_iter().collect())).collect()
}

/// fe80::/10 stands on every interface and says nothing about inside and outside.
fn is_link_local(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets() -> impl Strategy<Value = BTreeSet<IpNet>> {
        let v4 = (0u8..32, 24u8..=32).prop_map(|(a, len)| format!("10.0.0.{}/{len}", a * 8));
        let v6 = (0u8..32, 120u8..=128).prop_map(|(a, len)| format!("fd00::{:x}/{len}", a * 8));
        let net = prop_oneof![v4, v6].prop_map(|text| text.parse::<IpNet>().unwrap().trunc());
        prop::collection::btree_set(net, 0..16)
    }

    /// Looks at each part of each network.
    fn naive(net: IpNet, parts: &BTreeSet<IpNet>) -> Vec<IpNet> {
        if !parts.iter().any(|part| *part != net && net.contains(part)) {
            return vec![net];
        }
        let halves = net.subnets(net.prefix_len() + 1).into_iter().flatten();
        halves.filter(|half| !parts.contains(half)).flat_map(|half| naive(half, parts)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn one_pass_finds_what_looking_at_each_finds(inside in nets(), outside in nets()) {
            let expected: NetSet = inside.iter().flat_map(|net| naive(*net, &outside)).collect();
            let found = remaining(inside.into_iter(), outside.into_iter().collect());
            // The same addresses, in as many networks at the most.
            prop_assert!(expected.iter().all(|net| found.covers(net)), "{found:?} {expected:?}");
            prop_assert!(found.iter().all(|net| expected.covers(net)), "{found:?} {expected:?}");
            prop_assert!(found.iter().count() <= expected.iter().count());
        }
    }

    #[test]
    fn what_makes_a_source_inside_is_found_with_where_it_comes_from() {
        let origin = |interface: &str| Origin { interface: interface.to_owned(), gateway: None, is_subnet: false };
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let origins: BTreeMap<IpNet, Origin> =
            [("10.0.0.0/8", "eth0"), ("10.9.0.0/16", "tun0"), ("198.18.0.0/16", "eth0"), ("198.19.0.0/16", "tun0")]
                .map(|(to, interface)| (net(to), origin(interface)))
                .into();
        let nets = remaining(origins.keys().copied(), vec![net("10.1.0.0/16")]);
        let inner = Inner { nets, origins, subnets: NetSet::default() };
        let found = |text: &str| -> Vec<String> {
            inner.covering(&net(text)).iter().map(|(net, origin)| format!("{net} {origin}")).collect()
        };
        assert_eq!(found("10.2.0.0/24"), ["10.0.0.0/8 routed by eth0"]);
        assert_eq!(found("10.9.7.0/24"), ["10.9.0.0/16 routed by tun0"]);
        assert!(found("10.1.0.0/24").is_empty() && found("10.0.0.0/8").is_empty() && found("192.0.2.0/24").is_empty());
        assert_eq!(found("198.18.0.0/15"), ["198.18.0.0/16 routed by eth0", "198.19.0.0/16 routed by tun0"]);
        assert!(inner.reaches("198.19.3.4".parse().unwrap()) && !inner.reaches("10.1.3.4".parse().unwrap()));
    }
}

//! The inside interfaces by which pods answer: forwarding is switched on for each of them, whatever `ip_forward` was set to before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::LocalMapping;
use crate::model::{Family, Host, InterfaceName, MainRoute};
use crate::plan::InterfaceKind;
use crate::plan::topology::Topology;
use crate::ruleset::{Dataplane, Sysctl};

pub fn compile(topology: &Topology, host: &Host, mappings: &[LocalMapping], dataplane: &mut Dataplane) {
    let routes = Routes::of(host);
    // Every pod, ready or not: it may have connections.
    let pods = mappings.iter().flat_map(|local| &local.mapping.ports).flat_map(|port| &port.backends.known);
    let services = mappings.iter().filter_map(|local| local.mapping.service_vip);
    let behind: BTreeSet<IpAddr> = pods.map(|pod| pod.ip()).chain(services).collect();
    let ways = behind.iter().filter(|address| !host.is_local(**address)).flat_map(|address| routes.ways(*address));
    let inside = |name: &InterfaceName| {
        let kind = topology.outcomes.iter().find(|outcome| outcome.name == *name).map(|outcome| outcome.kind);
        matches!(kind, Some(InterfaceKind::Inside | InterfaceKind::Gateway))
    };
    for name in ways.collect::<BTreeSet<_>>() {
        if *name == "lo" || !host.links.contains_key(name) || !inside(name) {
            continue;
        }
        dataplane.sysctls.insert(Sysctl::Forwarding(name.clone()), "1".to_owned());
    }
}

/// The main table, for many questions.
struct Routes<'a> {
    /// By network; of one network those of the lowest metric.
    by_net: BTreeMap<IpNet, Vec<&'a MainRoute>>,
    lengths: BTreeSet<u8>,
}

impl<'a> Routes<'a> {
    fn of(host: &'a Host) -> Self {
        let mut by_net: BTreeMap<IpNet, Vec<&MainRoute>> = BTreeMap::new();
        for route in host.main_routes.iter().filter(|route| Family::of(route.destination.addr()) == Family::Ipv4) {
            let best = by_net.entry(route.destination.trunc()).or_default();
            match best.first().map(|known| known.metric.cmp(&route.metric)) {
                Some(std::cmp::Ordering::Less) => {}
                Some(std::cmp::Ordering::Equal) => best.push(route),
                Some(std::cmp::Ordering::Greater) | None => *best = vec![route],
            }
        }
        let lengths = by_net.keys().map(IpNet::prefix_len).collect();
        Routes { by_net, lengths }
    }

    /// The interfaces of the most specific route to an address.
    fn ways(&self, to: IpAddr) -> Vec<&'a InterfaceName> {
        let nets = self.lengths.iter().rev().filter_map(|length| Some(IpNet::new(to, *length).ok()?.trunc()));
        let found = nets.filter_map(|net| self.by_net.get(&net)).next();
        found.into_iter().flatten().filter_map(|route| route.interface.as_ref()).collect()
    }
}

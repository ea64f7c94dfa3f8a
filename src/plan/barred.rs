//! Endpoints at which nobody can answer clients of this box. Every box judges for itself: another one may reach them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::topology::Topology;
use super::validate::unusable;
use super::{Backends, InterfaceKind, InterfaceOutcome, ResolvedMapping};
use crate::model::{Host, InterfaceName, is_default_route};

/// The addresses that are barred on this box, and why.
pub struct Barred<'a> {
    topology: &'a Topology,
    local: HashMap<IpAddr, &'a InterfaceName>,
    broadcasts: HashMap<Ipv4Addr, (Ipv4Net, &'a InterfaceName)>,
    /// IPv4 routes of main that are no default, longest prefix first: the external interface, if every way leads by one.
    routes: Vec<(u8, HashMap<Ipv4Addr, Way<'a>>)>,
}

struct Way<'a> {
    metric: u32,
    external: Option<&'a InterfaceName>,
}

impl<'a> Barred<'a> {
    pub fn of(host: &'a Host, topology: &'a Topology) -> Self {
        let local = host.addresses().map(|(name, a)| (a.address, name)).collect();
        let broadcasts = host
            .addresses()
            .filter_map(|(name, a)| match a.subnet() {
                IpNet::V4(net) if net.prefix_len() < 31 => Some((net.broadcast(), (net, name))),
                _ => None,
            })
            .collect();
        Barred { topology, local, broadcasts, routes: routes(host, topology) }
    }

    /// Why nobody can answer at this address, if so.
    pub fn why(&self, address: IpAddr) -> Option<String> {
        let IpAddr::V4(v4) = address else { return None };
        if let Some(kind) = no_host(v4) {
            return Some(kind.to_owned());
        }
        if let Some(interface) = self.local.get(&address) {
            return Some(format!("an address of this box, on {interface}"));
        }
        if self.topology.is_local(address) {
            return Some("an address of this box".to_owned());
        }
        if let Some((net, interface)) = self.broadcasts.get(&v4) {
            return Some(format!("the broadcast address of {net} on {interface}"));
        }
        let interface = self.external_way(v4)?;
        Some(format!("reached through {interface}, which is not inside: its answers are dropped"))
    }

    /// The external interface by which the most specific route leads.
    fn external_way(&self, address: Ipv4Addr) -> Option<&'a InterfaceName> {
        let way = self.routes.iter().find_map(|(len, routes)| {
            let net = Ipv4Net::new(address, *len).ok()?;
            routes.get(&net.network())
        });
        way.and_then(|way| way.external)
    }

    /// Takes barred endpoints out of those that are chosen, and notes them.
    pub fn take_out(&self, mapping: &mut ResolvedMapping) {
        for port in &mut mapping.ports {
            let Backends { chosen, draining, never, .. } = &mut port.backends;
            let mut barred: BTreeMap<IpAddr, String> =
                never.iter().filter_map(|address| Some((*address, self.why(*address)?))).collect();
            let mut bar = |address: IpAddr| match self.why(address) {
                Some(why) => {
                    barred.insert(address, why);
                    false
                }
                None => true,
            };
            chosen.retain(|socket| bar(socket.ip()));
            if chosen.is_empty() {
                chosen.extend(draining.iter().filter(|socket| bar(socket.ip())));
            }
            port.barred = barred;
        }
    }
}

/// What is the address of no host at all. The API server refuses such endpoints; files have no such guard.
pub fn no_host(address: Ipv4Addr) -> Option<&'static str> {
    if address.is_link_local() { Some("a link-local address") } else { unusable(address) }
}

fn routes<'a>(host: &'a Host, topology: &Topology) -> Vec<(u8, HashMap<Ipv4Addr, Way<'a>>)> {
    let is_closed = |i: &&InterfaceOutcome| !matches!(i.kind, InterfaceKind::Gateway | InterfaceKind::Inside);
    let closed: BTreeSet<&InterfaceName> = topology.outcomes.iter().filter(is_closed).map(|i| &i.name).collect();
    let mut by_length: BTreeMap<u8, HashMap<Ipv4Addr, Way>> = BTreeMap::new();
    for route in host.main_routes.iter().filter(|r| !is_default_route(&r.destination)) {
        let IpNet::V4(net) = route.destination else { continue };
        let external = route.interface.as_ref().filter(|name| closed.contains(name));
        let metric = route.metric;
        by_length
            .entry(net.prefix_len())
            .or_default()
            .entry(net.network())
            .and_modify(|way| {
                if metric < way.metric {
                    *way = Way { metric, external };
                } else if metric == way.metric && external.is_none() {
                    way.external = None;
                }
            })
            .or_insert(Way { metric, external });
    }
    by_length.into_iter().rev().collect()
}

//! Endpoints at which nobody can answer clients of this box. Every box judges for itself: another one may reach them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::topology::Topology;
use super::validate::unusable;
use super::ways::Ways;
use super::{Backends, ResolvedMapping};
use crate::model::{Host, InterfaceName, is_default_route};

/// The addresses that are barred on this box, and why.
pub struct Barred<'a> {
    topology: &'a Topology,
    broadcasts: HashMap<Ipv4Addr, (Ipv4Net, &'a InterfaceName)>,
    ways: &'a Ways<'a>,
    /// Interfaces that are not inside.
    closed: BTreeSet<&'a InterfaceName>,
}

impl<'a> Barred<'a> {
    pub fn of(host: &'a Host, topology: &'a Topology, ways: &'a Ways<'a>) -> Self {
        let broadcasts = host
            .addresses()
            .filter_map(|(name, a)| match a.subnet() {
                IpNet::V4(net) if net.prefix_len() < 31 => Some((net.broadcast(), (net, name))),
                _ => None,
            })
            .collect();
        let closed = topology.outcomes.iter().filter(|i| !i.kind.is_inside()).map(|i| &i.name).collect();
        Barred { topology, broadcasts, ways, closed }
    }

    /// Why nobody can answer at this address, if so.
    pub fn why(&self, address: IpAddr) -> Option<String> {
        let IpAddr::V4(v4) = address else { return None };
        if let Some(kind) = no_host(v4) {
            return Some(kind.to_owned());
        }
        if let Some(interface) = self.topology.held_by(address) {
            return Some(format!("an address of this box, on {interface}"));
        }
        if self.topology.is_local(address) {
            return Some("an address of this box".to_owned());
        }
        if let Some((net, interface)) = self.broadcasts.get(&v4) {
            return Some(format!("the broadcast address of {net} on {interface}"));
        }
        // Whatever a default route alone leads to is chosen all the same: the cluster's interface may be late.
        let (_, interface) = self.external_way(address).filter(|(net, _)| !is_default_route(net))?;
        Some(format!("reached through {interface}, which is not inside: its answers are dropped"))
    }

    /// The network of the most specific route and the external interface, if every way of it leads by one.
    fn external_way(&self, address: IpAddr) -> Option<(IpNet, &'a InterfaceName)> {
        let (net, ways) = self.ways.to(address)?;
        let external = ways.iter().all(|way| way.is_some_and(|name| self.closed.contains(name)));
        Some((net, ways.first().copied().flatten().filter(|_| external)?))
    }

    /// The first port of a Mapping of which every chosen pod is reached through an external interface, with one of these pods and its
    /// interface. The answers of such pods arrive at the border and are dropped there: nobody is served.
    pub fn outside(&self, mapping: &ResolvedMapping) -> Option<(String, IpAddr, &'a InterfaceName)> {
        mapping.ports.iter().find_map(|port| {
            let pods = port.backends.chosen.iter().map(|pod| pod.ip());
            let mut ways = pods.map(|pod| Some((pod, self.external_way(pod)?.1)));
            let (pod, interface) = ways.next()??;
            ways.all(|way| way.is_some()).then(|| (format!("{}/{}", port.protocol, port.port), pod, interface))
        })
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
                chosen.extend(draining.iter().filter(|socket| bar(socket.ip())).copied());
            }
            port.barred = barred;
        }
    }
}

/// What is the address of no host at all. The API server refuses such endpoints; files have no such guard.
pub fn no_host(address: Ipv4Addr) -> Option<&'static str> {
    if address.is_link_local() { Some("a link-local address") } else { unusable(address) }
}

//! Which interface the main table leads to, for many addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::ResolvedMapping;
use crate::model::{Host, InterfaceName};

/// The best routes of the main table by destination.
pub struct Ways<'a> {
    /// Lowest metric, and the interfaces of the routes that have it.
    best: BTreeMap<IpNet, (u32, Vec<Option<&'a InterfaceName>>)>,
    /// Lengths that occur, the longest first.
    lengths: Vec<u8>,
}

impl<'a> Ways<'a> {
    pub fn of(host: &'a Host) -> Self {
        let mut best: BTreeMap<IpNet, (u32, Vec<Option<&InterfaceName>>)> = BTreeMap::new();
        for route in &host.main_routes {
            let entry = best.entry(route.destination.trunc()).or_insert((route.metric, Vec::new()));
            if route.metric < entry.0 {
                *entry = (route.metric, Vec::new());
            }
            if route.metric == entry.0 {
                entry.1.push(route.interface.as_ref());
            }
        }
        let lengths: BTreeSet<u8> = best.keys().map(IpNet::prefix_len).collect();
        Ways { best, lengths: lengths.into_iter().rev().collect() }
    }

    /// The interfaces by which the longest prefix leads to an address; `None` among them is an unreachable route. Empty without a
    /// route.
    pub fn to(&self, address: IpAddr) -> &[Option<&'a InterfaceName>] {
        let nets = self.lengths.iter().filter_map(|length| IpNet::new(address, *length).ok());
        nets.filter_map(|net| self.best.get(&net.trunc())).map(|(_, ways)| ways.as_slice()).next().unwrap_or_default()
    }
}

/// The first port of a Mapping of which every chosen pod is reached through an external interface, with one of these pods and its
/// interface. The answers of such pods arrive at the border and are dropped there: nobody is served.
pub fn outside<'a>(
    ways: &Ways<'a>,
    mapping: &ResolvedMapping,
    is_external: impl Fn(&str) -> bool,
) -> Option<(String, IpAddr, &'a InterfaceName)> {
    let way_out = |address: IpAddr| {
        let ways = ways.to(address);
        let external = ways.iter().all(|way| way.is_some_and(|name| is_external(name)));
        if external { ways.first().copied().flatten() } else { None }
    };
    mapping.ports.iter().find_map(|port| {
        let pods = port.backends.chosen.iter().map(|pod| pod.ip());
        let mut ways = pods.map(|pod| Some((pod, way_out(pod)?)));
        let (pod, interface) = ways.next()??;
        ways.all(|way| way.is_some()).then(|| (format!("{}/{}", port.protocol, port.port), pod, interface))
    })
}

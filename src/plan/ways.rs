//! Which interface the main table leads to, for many addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

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

    /// The longest prefix that holds an address, and the interfaces by which it leads; `None` among them is an unreachable route.
    pub fn to(&self, address: IpAddr) -> Option<(IpNet, &[Option<&'a InterfaceName>])> {
        let nets = self.lengths.iter().filter_map(|length| Some(IpNet::new(address, *length).ok()?.trunc()));
        nets.filter_map(|net| Some((net, self.best.get(&net)?.1.as_slice()))).next()
    }
}

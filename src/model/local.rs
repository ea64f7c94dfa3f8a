use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::InterfaceName;

/// Addresses and networks that the kernel takes for the box's own although no interface has them: routes of type local in the table
/// `local` that somebody put there (`ip route add local 198.51.100.7 dev eth1`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalRoutes {
    by_net: BTreeMap<IpNet, InterfaceName>,
    /// Prefix lengths that occur.
    lengths: BTreeSet<u8>,
}

impl LocalRoutes {
    /// Of several routes to one network the first counts.
    pub fn insert(&mut self, net: IpNet, interface: InterfaceName) {
        let net = net.trunc();
        self.lengths.insert(net.prefix_len());
        self.by_net.entry(net).or_insert(interface);
    }

    /// The longest of them that holds an address, with its interface.
    pub fn find(&self, address: IpAddr) -> Option<(&IpNet, &InterfaceName)> {
        let nets = self.lengths.iter().rev().filter_map(|length| IpNet::new(address, *length).ok());
        nets.filter_map(|net| self.by_net.get_key_value(&net.trunc())).next()
    }

    /// The networks of all other interfaces.
    pub fn elsewhere<'a>(&'a self, interface: &'a str) -> impl Iterator<Item = IpNet> + 'a {
        self.by_net.iter().filter(move |(_, name)| *name != interface).map(|(net, _)| *net)
    }

    /// Those of one interface, sorted.
    pub fn of<'a>(&'a self, interface: &'a str) -> impl Iterator<Item = IpNet> + 'a {
        self.by_net.iter().filter(move |(_, name)| *name == interface).map(|(net, _)| *net)
    }
}

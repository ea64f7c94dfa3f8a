use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{InterfaceName, LocalRoutes};
use crate::ruleset::{PolicyRule, Route};

/// What netlink told about the box (or a described host), reduced to what a plan needs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Host {
    pub links: BTreeMap<InterfaceName, Link>,
    /// Routes of the main table, IPv4 and IPv6.
    pub main_routes: Vec<MainRoute>,
    /// What is local here without being an interface's address.
    pub local_routes: LocalRoutes,
    /// Routes in any table that carry our protocol number.
    pub own_routes: BTreeSet<Route>,
    /// Policy rules that carry our protocol number; a duplicate stands here twice.
    pub own_rules: Vec<PolicyRule>,
    /// Routes and rules that carry our protocol number but have a shape that we never make: to be deleted.
    pub own_strays: Vec<OwnStray>,
    /// IPv4 neighbour entries of gateways of the main table and of our tables, each on the interface of its route.
    pub neighbours: Vec<Neighbour>,
}

/// A route or rule under our protocol number that is no [`Route`] or [`PolicyRule`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnStray {
    pub kind: StrayKind,
    /// For people: what it is.
    pub description: String,
    /// The body of the kernel's own rtnetlink message (`rtmsg` or `fib_rule_hdr` with its attributes), by which it is deleted.
    pub message: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StrayKind {
    Route,
    Rule,
}

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    /// Administratively up (IFF_UP).
    pub up: bool,
    /// Has carrier (IFF_LOWER_UP).
    pub carrier: bool,
    pub mtu: u32,
    /// Does without ARP (IFF_NOARP), as a tunnel does.
    pub without_arp: bool,
    /// Further names of it (`ip link property add dev eth1 altname enp2s0`). No two interfaces share a name of either kind.
    pub altnames: BTreeSet<InterfaceName>,
    /// What it stands on and under.
    pub stack: LinkStack,
    /// In the kernel's order: of each subnet the primary address comes before its secondaries.
    pub addresses: Vec<InterfaceAddress>,
}

/// How a link hangs together with others of this network namespace. Links of another namespace are not named here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkStack {
    /// The kernel's name of its kind (`bridge`, `vlan`, `veth`); empty for hardware.
    pub kind: String,
    /// The bridge, bond, team, VRF... of which it is a port.
    pub master: Option<InterfaceName>,
    /// The links whose frames it takes: a VLAN's trunk, a macvlan's NIC, the device to which a tunnel is bound.
    pub lower: BTreeSet<InterfaceName>,
    /// The other end of a veth pair, if both are here.
    pub peer: Option<InterfaceName>,
}

/// An address with its prefix as assigned, e.g. 10.22.66.41/23.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    pub address: IpAddr,
    pub prefix_len: u8,
    /// IFA_F_SECONDARY.
    pub secondary: bool,
    /// The other end of a point-to-point link (`ip address add 10.0.0.1 peer 10.0.0.2/32`), to which the prefix then belongs.
    pub peer: Option<IpAddr>,
}

impl InterfaceAddress {
    /// A primary address without a peer.
    pub fn of(net: IpNet) -> Self {
        InterfaceAddress { address: net.addr(), prefix_len: net.prefix_len(), secondary: false, peer: None }
    }

    /// What is on the link: the subnet, host bits cleared.
    pub fn subnet(&self) -> IpNet {
        let on_link = self.peer.unwrap_or(self.address);
        // A prefix length from the kernel (or from a checked description) always fits its family.
        IpNet::new(on_link, self.prefix_len).map_or_else(|_| IpNet::from(on_link), |n| n.trunc())
    }
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MainRoute {
    pub destination: IpNet,
    /// `None` for unreachable, blackhole and prohibit routes.
    pub interface: Option<InterfaceName>,
    pub gateway: Option<IpAddr>,
    pub metric: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    pub interface: InterfaceName,
    pub address: IpAddr,
    pub state: NeighbourState,
}

/// NUD_* states folded into what an operator wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NeighbourState {
    /// REACHABLE, PERMANENT, NOARP.
    Reachable,
    /// STALE, DELAY, PROBE: was reachable, being checked.
    Stale,
    /// INCOMPLETE, FAILED.
    Failed,
}

impl Host {
    /// The kernel's name of the interface that has this name or altname.
    pub fn interface_named(&self, name: &str) -> Option<&InterfaceName> {
        let by_name = self.links.get_key_value(name).map(|(name, _)| name);
        by_name.or_else(|| self.links.iter().find(|(_, link)| link.altnames.contains(name)).map(|(name, _)| name))
    }

    pub fn addresses(&self) -> impl Iterator<Item = (&InterfaceName, &InterfaceAddress)> {
        self.links.iter().flat_map(|(name, link)| link.addresses.iter().map(move |a| (name, a)))
    }

    /// Whether an interface is a port of a VRF.
    pub fn in_vrf(&self, name: &str) -> bool {
        let master = self.links.get(name).and_then(|link| link.stack.master.as_ref());
        master.and_then(|name| self.links.get(name)).is_some_and(|link| link.stack.kind == "vrf")
    }

    /// Whether an address belongs to this box, on whatever interface (127/8 and local routes included).
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.addresses().any(|(name, a)| a.address == address || (name == "lo" && a.subnet().contains(&address)))
            || self.local_routes.find(address).is_some()
    }
}

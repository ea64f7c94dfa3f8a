use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::model::{Family, InterfaceName};

/// A route of ours in the table of an external interface. The family is the destination's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Route {
    pub table: u32,
    pub destination: IpNet,
    pub target: RouteTarget,
    /// 0 when none is set.
    pub metric: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteTarget {
    /// Scope link, with the preferred source address.
    Link {
        interface: InterfaceName,
        source: IpAddr,
    },
    /// Scope universe, by a gateway that is on the interface's link.
    Gateway {
        interface: InterfaceName,
        gateway: IpAddr,
    },
    Unreachable,
}

/// A policy rule of ours (`ip rule`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PolicyRule {
    pub family: Family,
    pub priority: u32,
    pub selector: RuleSelector,
    pub action: RuleAction,
}

impl PolicyRule {
    /// A rule that looks into a table.
    pub fn lookup(family: Family, priority: u32, selector: RuleSelector, table: u32) -> Self {
        PolicyRule { family, priority, selector, action: RuleAction::Lookup(table) }
    }

    /// The table that it looks into.
    pub fn table(&self) -> Option<u32> {
        match self.action {
            RuleAction::Lookup(table) => Some(table),
            RuleAction::Goto(_) | RuleAction::Nop => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleSelector {
    /// Every packet.
    All,
    FwMark {
        mark: u32,
        mask: u32,
    },
    /// `iif NAME`: what arrives by the interface.
    InInterface(InterfaceName),
    /// `oif NAME`: sockets bound to the interface. It also keeps the name that owns a slot while the interface is away.
    OutInterface(InterfaceName),
    /// `from ADDRESS`, or `from NETWORK` where a whole network is local.
    From(IpNet),
    /// `from NETWORK iif lo`: what the box itself sends from its addresses there.
    FromHere(IpNet),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// By the routes of this table; where it has none for the packet, the next rule is asked.
    Lookup(u32),
    /// On to the first rule of this priority. The kernel passes over a goto whose target is not there.
    Goto(u32),
    /// Nothing: a place to go to.
    Nop,
}

/// RT_TABLE_MAIN.
pub const MAIN_TABLE: u32 = 254;
/// Of the kernel's own rule for the main table.
pub const MAIN_PRIORITY: u32 = 32_766;
/// RT_TABLE_LOCAL: the addresses of the box itself.
pub const LOCAL_TABLE: u32 = 255;

/// In the words of `ip route`.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Route { table, destination, target, metric } = self;
        match target {
            RouteTarget::Link { interface, source } => {
                write!(f, "{destination} dev {interface} table {table} scope link src {source}")?;
            }
            RouteTarget::Gateway { interface, gateway } => {
                write!(f, "{destination} via {gateway} dev {interface} table {table}")?;
            }
            RouteTarget::Unreachable => write!(f, "unreachable {destination} table {table}")?,
        }
        if *metric != 0 {
            write!(f, " metric {metric}")?;
        }
        Ok(())
    }
}

/// In the words of `ip rule`.
impl fmt::Display for RuleSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleSelector::All => f.write_str("from all"),
            RuleSelector::FwMark { mark, mask } => write!(f, "fwmark 0x{mark:x}/0x{mask:x}"),
            RuleSelector::InInterface(name) => write!(f, "iif {name}"),
            RuleSelector::OutInterface(name) => write!(f, "oif {name}"),
            // A single address stands without its length.
            RuleSelector::From(net) if net.prefix_len() == net.max_prefix_len() => write!(f, "from {}", net.addr()),
            RuleSelector::From(net) => write!(f, "from {net}"),
            RuleSelector::FromHere(net) => write!(f, "from {net} iif lo"),
        }
    }
}

/// In the words of `ip rule`.
impl fmt::Display for RuleAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleAction::Lookup(MAIN_TABLE) => f.write_str("lookup main"),
            RuleAction::Lookup(LOCAL_TABLE) => f.write_str("lookup local"),
            RuleAction::Lookup(table) => write!(f, "lookup {table}"),
            RuleAction::Goto(priority) => write!(f, "goto {priority}"),
            RuleAction::Nop => f.write_str("nop"),
        }
    }
}

/// In the words of `ip rule`.
impl fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} pref {}", self.selector, self.action, self.priority)?;
        match self.family {
            Family::Ipv4 => Ok(()),
            Family::Ipv6 => f.write_str(" (IPv6)"),
        }
    }
}

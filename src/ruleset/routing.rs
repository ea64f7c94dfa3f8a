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
    pub table: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleSelector {
    FwMark {
        mark: u32,
        mask: u32,
    },
    /// `oif NAME`: sockets bound to the interface. It also keeps the name that owns a slot while the interface is away.
    OutInterface(InterfaceName),
    From(IpAddr),
}

/// RT_TABLE_MAIN.
pub const MAIN_TABLE: u32 = 254;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::{IpSet, PolicyRule, Route, Rule};
use crate::model::{Family, InterfaceName};

/// Everything that the kernel is to hold on our behalf.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dataplane {
    pub tables: BTreeMap<(Family, Table), TableRules>,
    pub sets: BTreeMap<Arc<str>, IpSet>,
    pub routes: BTreeSet<Route>,
    pub rules: BTreeSet<PolicyRule>,
    pub sysctls: BTreeMap<Sysctl, String>,
}

/// Our part of one iptables table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableRules {
    /// User chains by name. Shared with the plan before, which has most of them, and with what is known of the kernel.
    pub chains: BTreeMap<Arc<str>, Chain>,
    /// The rule that must stand first in a built-in chain.
    pub hooks: BTreeMap<Builtin, Rule>,
    /// The rule that must stand directly ahead of the first DROP or REJECT without matches of a built-in chain, or last where there is
    /// none: behind everything that others decide, ahead of what they do with the rest.
    pub passes: BTreeMap<Builtin, Rule>,
}

impl Dataplane {
    /// Wants a set of this name, in place of what was wanted before.
    pub fn add_set(&mut self, name: &str, set: IpSet) {
        self.sets.insert(name.into(), set);
    }
}

impl TableRules {
    /// Wants a chain of this name, in place of what was wanted before.
    pub fn add(&mut self, name: &str, rules: Vec<Rule>) {
        self.chains.insert(name.into(), rules.into());
    }

    /// Our rules of a built-in chain, in their order.
    pub fn of_builtin(&self, builtin: Builtin) -> impl Iterator<Item = &Rule> {
        self.hooks.get(&builtin).into_iter().chain(self.passes.get(&builtin))
    }

    /// The built-in chains in which a rule of ours stands.
    pub fn builtins(&self) -> impl Iterator<Item = Builtin> {
        Builtin::ALL.into_iter().filter(|b| self.hooks.contains_key(b) || self.passes.contains_key(b))
    }
}

pub type Chain = Arc<[Rule]>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    Mangle,
    Nat,
    Filter,
    Security,
}

impl Table {
    pub const ALL: [Table; 4] = [Table::Mangle, Table::Nat, Table::Filter, Table::Security];

    pub fn as_str(self) -> &'static str {
        match self {
            Table::Mangle => "mangle",
            Table::Nat => "nat",
            Table::Filter => "filter",
            Table::Security => "security",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Built-in chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Builtin {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

impl Builtin {
    pub const ALL: [Builtin; 5] =
        [Builtin::Prerouting, Builtin::Input, Builtin::Forward, Builtin::Output, Builtin::Postrouting];

    /// The built-in chain of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|b| b.as_str() == name)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Builtin::Prerouting => "PREROUTING",
            Builtin::Input => "INPUT",
            Builtin::Forward => "FORWARD",
            Builtin::Output => "OUTPUT",
            Builtin::Postrouting => "POSTROUTING",
        }
    }
}

impl fmt::Display for Builtin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A kernel parameter below /proc/sys/net. The order is the order of writing: forwarding comes last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sysctl {
    /// net.ipv{4,6}.conf.INTERFACE.KEY; `all` and `default` are interfaces here.
    Interface { family: Family, interface: InterfaceName, key: &'static str },
    /// A path below /proc/sys/net, e.g. netfilter/nf_conntrack_tcp_be_liberal.
    Net(&'static str),
    /// net.ipv4.ip_forward.
    IpForward,
    /// net.ipv4.conf.INTERFACE.forwarding: whether what arrives by the interface is forwarded. Behind `IpForward`, whose writing sets it
    /// for every interface.
    Forwarding(InterfaceName),
}

impl Sysctl {
    /// Path below /proc/sys/net.
    pub fn path(&self) -> String {
        match self {
            Sysctl::Interface { family: Family::Ipv4, interface, key } => format!("ipv4/conf/{interface}/{key}"),
            Sysctl::Interface { family: Family::Ipv6, interface, key } => format!("ipv6/conf/{interface}/{key}"),
            Sysctl::Net(path) => (*path).to_owned(),
            Sysctl::IpForward => "ipv4/ip_forward".to_owned(),
            Sysctl::Forwarding(interface) => format!("ipv4/conf/{interface}/forwarding"),
        }
    }

    /// Whether it lets packets through that were not let through without it: set last, and never by the border alone.
    pub fn is_forwarding(&self) -> bool {
        matches!(self, Sysctl::IpForward | Sysctl::Forwarding(_))
    }
}

/// With slashes, which sysctl(8) takes too and which stays right for interface names with dots.
impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net/{}", self.path())
    }
}

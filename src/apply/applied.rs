//! What an apply did.

use std::fmt;

use crate::model::Family;

/// Kinds of kernel objects, as repairs and metrics name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RepairKind {
    Chain,
    Hook,
    Set,
    Route,
    Rule,
    Sysctl,
}

impl RepairKind {
    pub fn as_str(self) -> &'static str {
        match self {
            RepairKind::Chain => "chain",
            RepairKind::Hook => "hook",
            RepairKind::Set => "set",
            RepairKind::Route => "route",
            RepairKind::Rule => "rule",
            RepairKind::Sysctl => "sysctl",
        }
    }
}

impl fmt::Display for RepairKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something of ours that somebody else removed or changed, put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    pub kind: RepairKind,
    /// The object, e.g. `ipv4 nat SMARTNAT-DNAT`.
    pub name: String,
    /// What was wrong with it.
    pub what: String,
}

impl Repair {
    /// Whether translations of IPv4 were among what was damaged.
    pub(super) fn is_of_nat(&self) -> bool {
        matches!(self.kind, RepairKind::Chain | RepairKind::Hook) && self.name.starts_with("ipv4 nat ")
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.kind, self.name, self.what)
    }
}

/// How many objects were written (made, changed, moved or removed).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Writes {
    pub chains: usize,
    pub hooks: usize,
    pub sets: usize,
    pub members: usize,
    pub routes: usize,
    pub rules: usize,
    pub sysctls: usize,
}

impl Writes {
    pub fn is_empty(&self) -> bool {
        *self == Writes::default()
    }
}

/// The outcome of one apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Processes started, for reading and for writing.
    pub tool_calls: usize,
    pub writes: Writes,
    pub repairs: Vec<Repair>,
    /// Sets that nothing of ours needs, and that a foreign rule keeps in use. Tried again after the next read-back.
    pub stuck_sets: Vec<String>,
    /// Routes and rules that wait for an interface, with the reason; its return brings the next try.
    pub waiting_routes: Vec<String>,
}

pub(super) fn family_name(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    }
}

//! What a plan stands on: the configuration and the host, with what follows from them alone.

use std::collections::BTreeMap;

use super::compile;
use super::names::named;
use super::topology::Topology;
use crate::model::{BorderConfig, Host, InterfaceName};
use crate::ruleset::Dataplane;

pub struct Ground {
    /// By the kernel's names.
    pub config: BorderConfig,
    pub host: Host,
    pub topology: Topology,
    /// The border, marks, routes, sysctls.
    pub base: Dataplane,
    kept: BTreeMap<InterfaceName, u16>,
}

impl Ground {
    pub fn of(config: &BorderConfig, host: &Host, kept: &BTreeMap<InterfaceName, u16>) -> Self {
        let mut named = named(config, host);
        let mut topology = Topology::of(&named.config, host, kept);
        for outcome in &mut topology.outcomes {
            outcome.notes.extend(named.notes.remove(&outcome.name));
        }
        let base = compile::host_part(&named.config, &topology);
        Ground { config: named.config, host: host.clone(), topology, base, kept: kept.clone() }
    }

    /// Whether nothing would be different on this host.
    pub fn is_of(&self, host: &Host, kept: &BTreeMap<InterfaceName, u16>) -> bool {
        self.kept == *kept && self.host == *host
    }

    /// Whether each Mapping comes out the same on both. Neighbours and routes of ours are looked at for interfaces alone.
    pub fn serves_like(&self, other: &Ground) -> bool {
        let (a, b) = (&self.host, &other.host);
        self.topology.slots == other.topology.slots
            && a.links == b.links
            && a.main_routes == b.main_routes
            && a.local_routes == b.local_routes
    }
}

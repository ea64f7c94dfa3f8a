//! The inside interfaces by which pods answer: forwarding is switched on for each of them, whatever `ip_forward` was set to before.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::LocalMapping;
use crate::model::{Host, InterfaceName};
use crate::plan::topology::Topology;
use crate::plan::ways::Ways;
use crate::ruleset::{Dataplane, Sysctl};

pub fn compile(topology: &Topology, host: &Host, ways: &Ways, mappings: &[LocalMapping], dataplane: &mut Dataplane) {
    // Every pod, ready or not: it may have connections.
    let pods = mappings.iter().flat_map(|local| &local.mapping.ports).flat_map(|port| &port.backends.known);
    let services = mappings.iter().filter_map(|local| local.mapping.service_vip);
    let behind: BTreeSet<IpAddr> = pods.map(|pod| pod.ip()).chain(services).collect();
    let ways = behind.iter().filter(|address| !topology.is_local(**address)).filter_map(|address| ways.to(*address));
    let names: BTreeSet<&InterfaceName> = ways.flat_map(|(_, names)| names.iter().copied().flatten()).collect();
    let inside = |name: &InterfaceName| topology.outcomes.iter().any(|i| i.name == *name && i.kind.is_inside());
    for name in names {
        if *name == "lo" || !host.links.contains_key(name) || !inside(name) {
            continue;
        }
        dataplane.sysctls.insert(Sysctl::Forwarding(name.clone()), "1".to_owned());
    }
}

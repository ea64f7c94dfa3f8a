//! The inside interfaces by which pods answer: forwarding is switched on for each of them, whatever `ip_forward` was set to before.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::LocalMapping;
use crate::model::{Host, InterfaceName};
use crate::plan::topology::Topology;
use crate::plan::ways::Ways;

/// The interfaces by which the pods behind a Mapping, and its Service, are reached, as far as they are inside.
pub fn answers_by<'a>(
    topology: &Topology,
    host: &Host,
    ways: &Ways<'a>,
    local: &LocalMapping,
) -> BTreeSet<&'a InterfaceName> {
    // Every pod, ready or not: it may have connections.
    let pods = local.mapping.ports.iter().flat_map(|port| &port.backends.known).map(|pod| pod.ip());
    let behind: BTreeSet<IpAddr> = pods.chain(local.mapping.service_vip).collect();
    let ways = behind.into_iter().filter(|address| !topology.is_local(*address)).filter_map(|address| ways.to(address));
    let names: BTreeSet<&InterfaceName> = ways.flat_map(|(_, names)| names.iter().copied().flatten()).collect();
    let inside = |name: &InterfaceName| topology.outcomes.iter().any(|i| i.name == *name && i.kind.is_inside());
    names.into_iter().filter(|name| **name != "lo" && host.links.contains_key(*name) && inside(name)).collect()
}

//! Sources that a Mapping allows and the border takes for forged: they are inside, by a network of this box or as an address of the cluster.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::compile::LocalMapping;
use super::notes::bounded;
use super::topology::Topology;

/// So many sources are named.
const NAMED: usize = 5;
/// So many networks that make one source inside are named.
const NAMED_NETWORKS: usize = 3;

/// What its owner should know although the Mapping is served: allowed sources that lie wholly inside. Clients that come from outside with
/// one of them are dropped as forged. `in_cluster` knows the addresses of endpoints and Services, which are inside too.
///
/// An interface that shares its subnet with the inside takes inside sources for clients; nothing is said of it.
pub fn note(local: &LocalMapping, topology: &Topology, in_cluster: &dyn Fn(IpAddr) -> bool) -> Option<String> {
    let externals = local.addresses.iter().filter_map(|(address, ..)| topology.serving(*address));
    let strict: BTreeSet<&str> = externals.filter(|e| e.shared.is_empty()).map(|e| e.name.as_str()).collect();
    if strict.is_empty() {
        return None;
    }
    let inside: Vec<String> = local
        .mapping
        .named_sources
        .iter()
        .filter_map(|source| Some((source, why(source, topology, in_cluster)?)))
        .map(|(source, why)| format!("{source} ({why})"))
        .collect();
    if inside.is_empty() {
        return None;
    }
    let interfaces: Vec<&str> = strict.into_iter().collect();
    Some(format!(
        "allowed sources are inside: {}; clients that come from outside by {} with such a source are dropped as forged, \
         those inside are served. Where they are clients outside, correct the route or the subnet",
        bounded(inside, NAMED),
        interfaces.join(", "),
    ))
}

fn why(source: &IpNet, topology: &Topology, in_cluster: &dyn Fn(IpAddr) -> bool) -> Option<String> {
    let networks = topology.inner.covering(source);
    if networks.is_empty() {
        let is_one = source.prefix_len() == source.max_prefix_len() && in_cluster(source.addr());
        return is_one.then(|| "the address of an endpoint or a Service of the cluster".to_owned());
    }
    let named = networks.into_iter().map(|(network, origin)| format!("inside network {network}, {origin}")).collect();
    Some(bounded(named, NAMED_NETWORKS))
}

//! What one Mapping with an address here adds to the dataplane, whatever others add.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::egress::WayOut;
use super::{Context, LocalMapping, dispatch, forwarding};
use crate::model::{BorderConfig, Endpoint, Host, InterfaceName};
use crate::plan::topology::Topology;
use crate::plan::ways::Ways;
use crate::ruleset::{Chain, Dataplane, IpSet, TableRules};

/// Nothing, for a Mapping that is not served here.
#[derive(Default)]
pub struct Serving {
    pub chains: Vec<(Arc<str>, Chain)>,
    pub sets: Vec<(Arc<str>, IpSet)>,
    /// ClusterIPs that it leads to.
    pub vips: Vec<IpAddr>,
    /// Each endpoint with the chain that handles it.
    pub endpoints: Vec<(Endpoint, Arc<str>)>,
    /// Inside interfaces by which its pods answer.
    pub answers_by: Vec<InterfaceName>,
    /// How its pods' own connections leave, and its pods; only where they are translated.
    pub egress: Option<(WayOut, Vec<IpAddr>)>,
}

pub fn serving(config: &BorderConfig, topology: &Topology, host: &Host, ways: &Ways, local: &LocalMapping) -> Serving {
    let context = Context { config, topology };
    let (mut nat, mut dataplane) = (TableRules::default(), Dataplane::default());
    let mut vips = BTreeSet::new();
    let mut endpoints = Vec::new();
    for port in &local.mapping.ports {
        let chain: Arc<str> = dispatch::handler(&context, local.mapping, port, &mut nat, &mut dataplane).into();
        vips.extend(dispatch::vip(local.mapping, port, topology));
        endpoints.extend(local.addresses.iter().map(|(address, ..)| {
            let endpoint = Endpoint { address: *address, protocol: port.protocol, port: port.port };
            (endpoint, Arc::clone(&chain))
        }));
    }
    Serving {
        chains: nat.chains.into_iter().collect(),
        sets: dataplane.sets.into_iter().collect(),
        vips: vips.into_iter().collect(),
        endpoints,
        answers_by: forwarding::answers_by(topology, host, ways, local).into_iter().cloned().collect(),
        egress: config.snat.then(|| WayOut::of(local)).flatten(),
    }
}

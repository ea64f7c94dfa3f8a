use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::{ResolvedMapping, Sources};
use crate::api::MappingMode;
use crate::model::{Endpoint, Protocol};

/// Which established flows that came through a Mapping may go on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowPolicy {
    pub endpoints: BTreeMap<Endpoint, FlowEndpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowEndpoint {
    pub sources: Sources,
    /// Destinations after translation that a flow may keep: for TCP every known endpoint, for UDP the ready ones, and the ClusterIP in
    /// mode service.
    pub keep: BTreeSet<SocketAddr>,
}

/// A conntrack entry with the mapped connmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    pub protocol: Protocol,
    pub client: IpAddr,
    /// Original destination: the mapped endpoint.
    pub destination: SocketAddr,
    /// Source of the reply direction: the pod (or the ClusterIP).
    pub server: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowVerdict {
    Keep,
    /// The endpoint is mapped no more.
    NotMapped,
    /// Its source is allowed no more.
    SourceNotAllowed,
    /// Its pod is gone (TCP) or not ready (UDP).
    ServerGone,
}

impl FlowPolicy {
    pub fn verdict(&self, flow: &Flow) -> FlowVerdict {
        let endpoint =
            Endpoint { address: flow.destination.ip(), protocol: flow.protocol, port: flow.destination.port() };
        match self.endpoints.get(&endpoint) {
            None => FlowVerdict::NotMapped,
            Some(e) if !e.sources.allows(flow.client) => FlowVerdict::SourceNotAllowed,
            Some(e) if !e.keep.contains(&flow.server) => FlowVerdict::ServerGone,
            Some(_) => FlowVerdict::Keep,
        }
    }
}

/// Flows may go on to their endpoint's own pods only. Those of an address that is not here now may, too: its interface can come back.
pub(super) fn policy(mappings: &[ResolvedMapping]) -> FlowPolicy {
    let mut endpoints = BTreeMap::new();
    for mapping in mappings {
        for port in &mapping.ports {
            // A TCP connection to a pod that is unready or terminating is for the two ends to finish; UDP has no end of its own.
            let mut keep = match port.protocol {
                Protocol::Tcp => port.backends.known.clone(),
                Protocol::Udp => port.backends.ready.union(&port.backends.chosen).copied().collect(),
            };
            if let (MappingMode::Service, Some(vip)) = (mapping.mode, mapping.service_vip) {
                keep.insert(SocketAddr::new(vip, port.service_port));
            }
            for address in &mapping.addresses {
                let endpoint = Endpoint { address: *address, protocol: port.protocol, port: port.port };
                endpoints.insert(endpoint, FlowEndpoint { sources: mapping.sources.clone(), keep: keep.clone() });
            }
        }
    }
    FlowPolicy { endpoints }
}

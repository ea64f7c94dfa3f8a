use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::netset::covering;
use crate::api::MappingMode;
use crate::model::{Few, ObjectKey, Protocol};

/// A Mapping that is valid, holds its claims and whose Service has what it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedMapping {
    pub key: ObjectKey,
    /// All claimed addresses, here or on other boxes, in the order of the spec, each once.
    pub addresses: Vec<IpAddr>,
    pub sources: Sources,
    /// The allowed sources as the spec names them.
    pub named_sources: Vec<IpNet>,
    pub mode: MappingMode,
    pub service: ObjectKey,
    /// The Service's first IPv4 ClusterIP, if it has one.
    pub service_vip: Option<IpAddr>,
    pub ports: Vec<ResolvedPort>,
}

/// Who may connect.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sources {
    Everyone,
    /// Sorted, aggregated, never containing /0, never empty.
    Nets(Vec<IpNet>),
}

impl Sources {
    pub fn allows(&self, address: IpAddr) -> bool {
        match self {
            Sources::Everyone => true,
            Sources::Nets(nets) => covering(nets, address).is_some(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedPort {
    /// The port clients connect to.
    pub port: u16,
    pub protocol: Protocol,
    /// The Service's port behind it.
    pub service_port: u16,
    pub service_port_name: Option<String>,
    pub backends: Backends,
    /// `sessionAffinity: ClientIP` timeout in seconds.
    pub affinity_seconds: Option<u32>,
    /// Endpoints that would be chosen if anybody could answer there on this box, and why nobody can.
    pub barred: BTreeMap<IpAddr, String>,
}

/// The pods behind one Service port, IPv4 only for now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backends {
    /// Where new connections go: the ready ones, or the serving-and-terminating ones when none is ready.
    pub chosen: Few<SocketAddr>,
    /// Serving-and-terminating ones, beside ready ones too.
    pub draining: Few<SocketAddr>,
    /// Ready, but no address of any host.
    pub never: Few<IpAddr>,
    /// Ready and serving ones: UDP flows to others are cut.
    pub serving: Few<SocketAddr>,
    /// Every endpoint in any slice, whatever its conditions.
    pub known: Few<SocketAddr>,
}

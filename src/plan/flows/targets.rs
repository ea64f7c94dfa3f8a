use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::api::MappingMode;
use crate::model::{Dense, Endpoint, ObjectKey, Protocol};
use crate::plan::{Backends, PortSelector, Sources};

/// What valid Mappings ask for, also those whose Service or its port is missing now, and what that leads to now.
///
/// A Mapping that is refused by its own spec or for a conflict, and one that is being deleted, is not in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FlowTargets {
    pub endpoints: BTreeMap<Endpoint, FlowTarget>,
    pub leads: BTreeMap<Arc<Asked>, Arc<Leads>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowTarget {
    pub sources: Arc<Sources>,
    pub asked: Arc<Asked>,
}

/// Where a Mapping sends a port's clients, in the words of its spec: nothing but an edit of the Mapping changes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    pub service: ObjectKey,
    pub mode: MappingMode,
    pub protocol: Protocol,
    pub port: PortSelector,
}

/// What is found there now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leads {
    /// Number of the Service's port, if the Service has it.
    pub service_port: Option<u16>,
    /// The Service's first IPv4 ClusterIP.
    pub service_vip: Option<IpAddr>,
    pub backends: Backends,
}

impl Dense for FlowTargets {
    fn densify(&mut self, changed: usize) {
        self.endpoints.densify(changed);
        self.leads.densify(changed);
    }
}

impl FlowTarget {
    /// Whether both are the same value, which says more than that they are equal.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.sources, &other.sources) && Arc::ptr_eq(&self.asked, &other.asked)
    }
}

impl FlowTargets {
    /// Every address behind a Mapping now.
    pub fn servers(&self) -> BTreeSet<IpAddr> {
        let of = |(asked, leads): (&Arc<Asked>, &Arc<Leads>)| {
            let vip = leads.vip(asked.mode).map(|vip| vip.ip());
            leads.backends.known.iter().map(SocketAddr::ip).chain(vip).collect::<Vec<_>>()
        };
        self.leads.iter().flat_map(of).collect()
    }
}

impl Leads {
    /// Where mode service sends its clients.
    pub(super) fn vip(&self, mode: MappingMode) -> Option<SocketAddr> {
        match mode {
            MappingMode::Service => Some(SocketAddr::new(self.service_vip?, self.service_port?)),
            MappingMode::Direct => None,
        }
    }
}

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Dense;
use crate::api::MappingSpec;

/// namespace/name of a namespaced object. Shared text: each of ten thousand objects is named in many places.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectKey {
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        ObjectKey { namespace: namespace.into(), name: name.into() }
    }

    /// Another object in the same namespace.
    pub fn beside(&self, name: impl Into<Arc<str>>) -> Self {
        ObjectKey { namespace: Arc::clone(&self.namespace), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The cluster's objects, reduced to the fields that a plan uses. One complete snapshot; objects are shared with the one before it, which
/// differs in few of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objects {
    pub mappings: BTreeMap<ObjectKey, Arc<Mapping>>,
    pub services: BTreeMap<ObjectKey, Arc<Service>>,
    /// Keyed by the slice's own namespace/name.
    pub slices: BTreeMap<ObjectKey, Arc<EndpointSlice>>,
}

impl Dense for Objects {
    fn densify(&mut self, changed: usize) {
        self.mappings.densify(changed);
        self.services.densify(changed);
        self.slices.densify(changed);
    }
}

impl Objects {
    /// The Service that a Mapping names, if both are there.
    pub fn service_of(&self, mapping: &ObjectKey) -> Option<&Arc<Service>> {
        let name = &self.mappings.get(mapping)?.spec.service_name;
        self.services.get(&mapping.beside(name.as_str()))
    }
}

/// A Mapping as it came: spec not yet validated.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapping {
    pub spec: MappingSpec,
    /// creationTimestamp in seconds since the epoch; `None` counts as the youngest.
    pub created: Option<i64>,
    /// Carries a deletionTimestamp.
    pub deleting: bool,
    pub generation: Option<i64>,
    pub uid: Option<String>,
    /// What cannot be read of its spec, which then stands empty here.
    pub unreadable: Option<String>,
    /// It may be programmed: its finalizer and this instance's entry in its status are there, so that its deletion waits for this box to
    /// withdraw it. Objects from files are always held.
    pub held: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceType {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub kind: ServiceType,
    /// clusterIP None.
    pub headless: bool,
    /// All valid cluster IPs, both families.
    pub cluster_ips: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `sessionAffinity: ClientIP` with its timeout in seconds.
    pub affinity_seconds: Option<u32>,
}

impl Service {
    /// Its first IPv4 ClusterIP.
    pub fn vip(&self) -> Option<IpAddr> {
        self.cluster_ips.iter().copied().find(IpAddr::is_ipv4)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServicePort {
    /// Empty or missing for a Service with one port.
    pub name: Option<String>,
    /// As written: TCP, UDP or SCTP.
    pub protocol: String,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Label kubernetes.io/service-name, in the slice's namespace.
    pub service: Arc<str>,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<SliceEndpoint>,
}

/// Port numbers are per slice: two slices of one Service may name the same port with different numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlicePort {
    /// Matches the Service port's name; empty and missing are the same.
    pub name: Option<String>,
    pub protocol: String,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    pub addresses: Vec<IpAddr>,
    /// conditions.ready, nil counts as true.
    pub ready: bool,
    /// conditions.serving, nil counts as `ready`.
    pub serving: bool,
    /// conditions.terminating, nil counts as false.
    pub terminating: bool,
    /// targetRef.uid: which pod it is. Files may leave it out.
    pub uid: Option<Arc<str>>,
}

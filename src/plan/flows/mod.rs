//! Which established flows that came through a Mapping may go on.
//!
//! The objects of one moment do not decide that alone: a Service and its slices change one after the other, and a mismatch that passes
//! must cut nobody. [`FlowTargets`] says what the objects ask for and lead to now; a [`FlowMemory`] adds what was there a moment ago and
//! makes the [`FlowPolicy`] of both.

#[cfg(test)]
mod again_tests;
mod identity;
mod memory;
#[cfg(test)]
mod memory_tests;
mod service;
mod targets;

pub use memory::{FlowMemory, GRACE};
pub use targets::{Asked, FlowTarget, FlowTargets, Leads};

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Sources;
use crate::model::{Endpoint, Few, ObjectKey, Protocol};

/// Which established flows that came through a Mapping may go on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowPolicy {
    pub endpoints: BTreeMap<Endpoint, FlowEndpoint>,
    /// Addresses that Services have begun to name since the first snapshot: strangers to all others. Kept for the grace time from then on.
    pub named: BTreeMap<IpAddr, BTreeSet<ObjectKey>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowEndpoint {
    pub sources: Arc<Sources>,
    /// Shared by all endpoints that lead to the same.
    pub servers: Arc<Servers>,
}

/// Destinations after translation that a flow may keep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Servers {
    pub sockets: Few<SocketAddr>,
    /// On any port: the number may have been another one when the flow began.
    pub addresses: Few<IpAddr>,
    /// Every other server too, but for those that are strangers to this Service: what was there before this program started is not known.
    pub all_but: Option<ObjectKey>,
}

impl FlowEndpoint {
    /// Whether no flow that another one keeps ends by this one.
    fn allows_all_of(&self, other: &FlowEndpoint) -> bool {
        let (new, old) = (&self.servers, &other.servers);
        self.sources == other.sources
            && old.sockets.iter().all(|socket| new.sockets.contains(socket))
            && old.addresses.iter().all(|address| new.addresses.contains(address))
            && (old.all_but.is_none() || new.all_but == old.all_but)
    }
}

impl Servers {
    fn may_go_on(&self, server: &SocketAddr, policy: &FlowPolicy) -> bool {
        self.sockets.contains(server)
            || self.addresses.contains(&server.ip())
            || self.all_but.as_ref().is_some_and(|service| !policy.is_stranger(server.ip(), service))
    }
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

impl Flow {
    /// The mapped endpoint that the client connected to.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { address: self.destination.ip(), protocol: self.protocol, port: self.destination.port() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowVerdict {
    Keep,
    /// The endpoint is no longer mapped.
    NotMapped,
    /// Its source is no longer allowed.
    SourceNotAllowed,
    /// Its pod is gone, or (UDP) no longer serves.
    ServerGone,
}

impl FlowPolicy {
    /// Whether others than this Service have begun to name the address.
    fn is_stranger(&self, address: IpAddr, to: &ObjectKey) -> bool {
        self.named.get(&address).is_some_and(|services| services.iter().any(|service| service != to))
    }

    pub fn verdict(&self, flow: &Flow) -> FlowVerdict {
        match self.endpoints.get(&flow.endpoint()) {
            None => FlowVerdict::NotMapped,
            Some(e) if !e.sources.allows(flow.client) => FlowVerdict::SourceNotAllowed,
            Some(e) if !e.servers.may_go_on(&flow.server, self) => FlowVerdict::ServerGone,
            Some(_) => FlowVerdict::Keep,
        }
    }
}

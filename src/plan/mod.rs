//! The pure heart: from a [`World`] to a [`Plan`]. No I/O, no clock, no randomness; equal worlds give equal plans.

mod above;
mod barred;
mod claims;
mod compile;
mod defaults;
mod flows;
mod forged;
mod gateway;
mod ground;
mod inner;
mod mappings;
mod names;
mod netset;
mod notes;
mod outcome;
mod planner;
mod resolve;
#[cfg(test)]
mod resolve_tests;
mod resolved;
mod roles;
mod shared;
pub mod slots;
mod topology;
mod unserved;
mod validate;
mod ways;

pub use flows::{
    Asked, Flow, FlowEndpoint, FlowMemory, FlowPolicy, FlowTarget, FlowTargets, FlowVerdict, GRACE, Leads, Servers,
};
pub use names::{Named, named};
pub use notes::noted;
pub use outcome::{
    InterfaceKind, InterfaceOutcome, MappingOutcome, Programmed, ProgrammedReason, Refusal, RefusalReason,
};
pub use planner::Planner;
pub use resolved::{Backends, ResolvedMapping, ResolvedPort, Sources};
pub use validate::{MAX_PORTS, PortSelector, ValidatedMapping, ValidatedPort, validate};

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{BorderConfig, Host, InterfaceName, ObjectKey, World};
use crate::ruleset::Dataplane;

/// What is said about every Mapping.
pub type MappingOutcomes = BTreeMap<ObjectKey, Arc<MappingOutcome>>;

/// What is to be done and what is to be said, as one value.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub dataplane: Dataplane,
    /// What Mappings ask for, and lead to now: with a [`FlowMemory`] it says which established flows may go on.
    pub flows: Arc<FlowTargets>,
    pub mappings: Arc<MappingOutcomes>,
    pub interfaces: Vec<InterfaceOutcome>,
    /// Slots given to external interfaces, to be kept for the next plan.
    pub slots: BTreeMap<InterfaceName, u16>,
}

/// What the host alone decides: the border, marks, routes, sysctls. Put up before any object is known.
pub fn border(config: &BorderConfig, host: &Host, slots: &BTreeMap<InterfaceName, u16>) -> Plan {
    plan(config, &World { host: host.clone(), objects: None, slots: slots.clone() })
}

/// The whole plan of one world. Without objects it is that of [`border`]. Who plans again and again has a [`Planner`].
pub fn plan(config: &BorderConfig, world: &World) -> Plan {
    Planner::new(config.clone()).plan(world)
}

//! The pure heart: from a [`World`] to a [`Plan`]. No I/O, no clock, no randomness; equal worlds give equal plans.

mod claims;
mod flows;
mod outcome;
mod resolve;
#[cfg(test)]
mod resolve_tests;
mod resolved;
mod validate;

pub use flows::{Flow, FlowEndpoint, FlowPolicy, FlowVerdict};
pub use outcome::{
    InterfaceKind, InterfaceOutcome, MappingOutcome, Programmed, ProgrammedReason, Refusal, RefusalReason,
};
pub use resolve::{Resolution, resolve};
pub use resolved::{Backends, ResolvedMapping, ResolvedPort, Sources};
pub use validate::{PortSelector, ValidatedMapping, ValidatedPort, validate};

use std::collections::BTreeMap;

use crate::model::{InterfaceName, ObjectKey};
use crate::ruleset::Dataplane;

/// What is to be done and what is to be said, as one value.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub dataplane: Dataplane,
    /// Which established flows may go on.
    pub flows: FlowPolicy,
    pub mappings: BTreeMap<ObjectKey, MappingOutcome>,
    pub interfaces: Vec<InterfaceOutcome>,
    /// Slots given to external interfaces, to be kept for the next plan.
    pub slots: BTreeMap<InterfaceName, u16>,
}

//! The pure heart: from a [`World`] to a [`Plan`]. No I/O, no clock, no randomness; equal worlds give equal plans.

mod above;
mod barred;
mod claims;
mod compile;
mod defaults;
mod flows;
mod forged;
mod gateway;
mod inner;
mod names;
mod netset;
mod notes;
mod outcome;
mod resolve;
#[cfg(test)]
mod resolve_tests;
mod resolved;
mod roles;
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
pub use resolve::{Resolution, resolve};
pub use resolved::{Backends, ResolvedMapping, ResolvedPort, Sources};
pub use validate::{MAX_PORTS, PortSelector, ValidatedMapping, ValidatedPort, validate};

use std::collections::BTreeMap;

use crate::model::{BorderConfig, Host, InterfaceName, ObjectKey, World};
use crate::ruleset::Dataplane;
use barred::Barred;
use compile::LocalMapping;
use topology::Topology;
use ways::Ways;

/// What is to be done and what is to be said, as one value.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub dataplane: Dataplane,
    /// What Mappings ask for, and lead to now: with a [`FlowMemory`] it says which established flows may go on.
    pub flows: FlowTargets,
    pub mappings: BTreeMap<ObjectKey, MappingOutcome>,
    pub interfaces: Vec<InterfaceOutcome>,
    /// Slots given to external interfaces, to be kept for the next plan.
    pub slots: BTreeMap<InterfaceName, u16>,
}

/// What the host alone decides: the border, marks, routes, sysctls. Put up before any object is known.
pub fn border(config: &BorderConfig, host: &Host, slots: &BTreeMap<InterfaceName, u16>) -> Plan {
    let (config, topology) = classified(config, host, slots);
    let dataplane = compile::host_part(&config, &topology);
    Plan {
        dataplane,
        flows: FlowTargets::default(),
        mappings: BTreeMap::new(),
        interfaces: topology.outcomes,
        slots: topology.slots,
    }
}

/// The whole plan. Without objects it is that of [`border`].
pub fn plan(config: &BorderConfig, world: &World) -> Plan {
    let Some(objects) = &world.objects else {
        return border(config, &world.host, &world.slots);
    };
    let (config, topology) = classified(config, &world.host, &world.slots);
    let config = &config;
    let mut resolution = resolve(config, objects);
    let ways = Ways::of(&world.host);
    let barred = Barred::of(&world.host, &topology, &ways);
    let is_here = |mapping: &&mut ResolvedMapping| mapping.addresses.iter().any(|a| topology.serving(*a).is_some());
    resolution.served.iter_mut().filter(is_here).for_each(|mapping| barred.take_out(mapping));
    let (local, pending): (Vec<LocalMapping>, Vec<LocalMapping>) = resolution
        .served
        .iter()
        .map(|mapping| on_this_box(mapping, &topology))
        .filter(|l| !l.addresses.is_empty())
        .partition(|l| objects.mappings.get(&l.mapping.key).is_some_and(|m| m.held));

    let mut dataplane = compile::host_part(config, &topology);
    let cluster = compile::addresses_of_objects(&topology, objects);
    compile::add_objects(config, &topology, &world.host, &ways, &cluster, &local, &mut dataplane);

    let mut mappings: BTreeMap<ObjectKey, MappingOutcome> = BTreeMap::new();
    for l in &local {
        let note = forged::note(l, &topology, &cluster);
        let mut outcome = outcome::served_here(l, &topology, note);
        if outcome.programmed.ok
            && let Some(found) = barred.outside(l.mapping)
        {
            outcome.programmed = outcome::endpoints_outside(found);
        }
        mappings.insert(l.mapping.key.clone(), outcome);
    }
    for l in &pending {
        mappings.insert(l.mapping.key.clone(), outcome::pending(l));
    }
    for mapping in &resolution.served {
        let elsewhere = || outcome::served_elsewhere(mapping, &topology);
        mappings.entry(mapping.key.clone()).or_insert_with(elsewhere);
    }
    for (key, refusal) in resolution.refused {
        let service_vip =
            objects.service_of(&key).filter(|_| refusal.reason.is_of_this_box()).and_then(|service| service.vip());
        mappings.insert(key, MappingOutcome { service_vip, ..outcome::refused(refusal) });
    }
    for (key, outcome) in &mut mappings {
        let mapping = objects.mappings.get(key);
        outcome.generation = mapping.and_then(|m| m.generation);
        outcome.uid = mapping.and_then(|m| m.uid.clone());
    }
    Plan { dataplane, flows: resolution.flows, mappings, interfaces: topology.outcomes, slots: topology.slots }
}

/// The host by the kernel's names, with what is to be said about other names.
fn classified(config: &BorderConfig, host: &Host, slots: &BTreeMap<InterfaceName, u16>) -> (BorderConfig, Topology) {
    let mut named = named(config, host);
    let mut topology = Topology::of(&named.config, host, slots);
    for outcome in &mut topology.outcomes {
        outcome.notes.extend(named.notes.remove(&outcome.name));
    }
    (named.config, topology)
}

fn on_this_box<'a>(mapping: &'a ResolvedMapping, topology: &Topology) -> LocalMapping<'a> {
    let addresses = mapping
        .addresses
        .iter()
        .filter_map(|address| topology.serving(*address).map(|e| (*address, e.name.clone(), e.slot)))
        .collect();
    LocalMapping { mapping, addresses }
}

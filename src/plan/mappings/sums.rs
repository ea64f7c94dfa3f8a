//! What all Mappings together add to the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::part::Part;
use crate::model::{Dense, Endpoint, Family, InterfaceName, ObjectKey, Protocol};
use crate::plan::Plan;
use crate::plan::claims::{Age, age};
use crate::plan::compile::{self, Entry, MappedPorts, Serving, WayOut};
use crate::plan::flows::{Asked, FlowTargets};
use crate::plan::ground::Ground;
use crate::plan::shared::Shared;
use crate::ruleset::ownership::{SET_EGRESS, SET_ENDPOINTS, SET_SERVICES};
use crate::ruleset::{Chain, Dataplane, IpSet, SetMember, Sysctl, Table, TableRules};

/// The place of a Mapping among all, oldest first.
type Place = (Age, ObjectKey);

/// What a Mapping has in the sums: by these keys it is taken out again.
pub struct Share {
    place: Place,
    targets: Box<[Endpoint]>,
    leads: Box<[Arc<Asked>]>,
    chains: Box<[Arc<str>]>,
    sets: Box<[Arc<str>]>,
    vips: Box<[IpAddr]>,
    endpoints: Box<[Endpoint]>,
    answers_by: Box<[InterfaceName]>,
    watched: Box<[IpAddr]>,
}

impl Share {
    pub fn watched(&self) -> &[IpAddr] {
        &self.watched
    }
}

#[derive(Default)]
pub struct Sums {
    flows: Arc<FlowTargets>,
    /// Who asks for the same as another: see [`Shared`].
    asked: Shared<Arc<Asked>, ()>,
    chains: Shared<Arc<str>, Chain>,
    sets: Shared<Arc<str>, IpSet>,
    vips: Shared<IpAddr, ()>,
    answers_by: Shared<InterfaceName, ()>,
    ports: BTreeMap<IpAddr, Ports>,
    /// Ports of addresses as they were at the last settling, of those that may have changed since.
    before: BTreeMap<IpAddr, Ports>,
    /// Where the handlers of each address are found.
    found: BTreeMap<IpAddr, Found>,
    endpoints: Arc<BTreeSet<SetMember>>,
    /// How pods leave, only where their connections are translated.
    egress: BTreeMap<Place, (WayOut, Vec<IpAddr>)>,
    /// Hooks, what leads to the handlers, and what leads out; the members of the set of pods that leave.
    frame: Option<(TableRules, Arc<BTreeSet<SetMember>>)>,
}

/// The ports of an address, each with the chain that handles it.
type Ports = BTreeMap<(Protocol, u16), Arc<str>>;

struct Found {
    entry: Entry,
    /// Chains between the address and the handlers.
    chains: Box<[Arc<str>]>,
}

impl Dense for Sums {
    fn densify(&mut self, changed: usize) {
        Arc::make_mut(&mut self.flows).densify(changed);
        self.asked.densify(changed);
        self.chains.densify(changed);
        self.vips.densify(changed);
        Arc::make_mut(&mut self.endpoints).densify(changed);
    }
}

impl Sums {
    pub fn add(&mut self, key: &ObjectKey, created: Option<i64>, part: Part) -> Share {
        let Part { targets, leads, serving, watched } = part;
        let Serving { chains, sets, vips, endpoints, answers_by, egress } = serving;
        let flows = Arc::make_mut(&mut self.flows);
        let share = Share {
            place: (age(created), key.clone()),
            targets: targets.iter().map(|(endpoint, _)| *endpoint).collect(),
            leads: leads.iter().map(|(asked, _)| Arc::clone(asked)).collect(),
            chains: chains.iter().map(|(name, _)| Arc::clone(name)).collect(),
            sets: sets.iter().map(|(name, _)| Arc::clone(name)).collect(),
            vips: vips.iter().copied().collect(),
            endpoints: endpoints.iter().map(|(endpoint, _)| *endpoint).collect(),
            answers_by: answers_by.iter().cloned().collect(),
            watched: watched.into(),
        };
        flows.endpoints.extend(targets);
        for (asked, leads) in leads {
            self.asked.add(Arc::clone(&asked), ());
            flows.leads.insert(asked, leads);
        }
        chains.into_iter().for_each(|(name, chain)| self.chains.add(name, chain));
        sets.into_iter().for_each(|(name, set)| self.sets.add(name, set));
        vips.into_iter().for_each(|vip| self.vips.add(vip, ()));
        answers_by.into_iter().for_each(|name| self.answers_by.add(name, ()));
        for (endpoint, chain) in endpoints {
            self.touch(endpoint.address);
            self.ports.entry(endpoint.address).or_default().insert((endpoint.protocol, endpoint.port), chain);
        }
        if let Some(egress) = egress {
            self.egress.insert(share.place.clone(), egress);
        }
        share
    }

    pub fn release(&mut self, share: &Share) {
        let flows = Arc::make_mut(&mut self.flows);
        share.targets.iter().for_each(|endpoint| drop(flows.endpoints.remove(endpoint)));
        for asked in &share.leads {
            self.asked.release(asked);
            if !self.asked.values().contains_key(asked) {
                flows.leads.remove(asked);
            }
        }
        share.chains.iter().for_each(|name| self.chains.release(name));
        share.sets.iter().for_each(|name| self.sets.release(name));
        share.vips.iter().for_each(|vip| self.vips.release(vip));
        share.answers_by.iter().for_each(|name| self.answers_by.release(name));
        for endpoint in &share.endpoints {
            self.touch(endpoint.address);
            if let Some(ports) = self.ports.get_mut(&endpoint.address) {
                ports.remove(&(endpoint.protocol, endpoint.port));
                if ports.is_empty() {
                    self.ports.remove(&endpoint.address);
                }
            }
        }
        self.egress.remove(&share.place);
    }

    fn touch(&mut self, address: IpAddr) {
        let ports = &self.ports;
        self.before.entry(address).or_insert_with(|| ports.get(&address).cloned().unwrap_or_default());
    }

    /// Everything has been added and released: makes the ways to the handlers anew where they are others now.
    pub fn settle(&mut self, ground: &Ground) {
        let nothing = Ports::new();
        for (address, before) in std::mem::take(&mut self.before) {
            let now = self.ports.get(&address).unwrap_or(&nothing);
            if before == *now {
                continue;
            }
            let member =
                |(protocol, port): &(Protocol, u16)| SetMember::IpPort { address, protocol: *protocol, port: *port };
            let endpoints = Arc::make_mut(&mut self.endpoints);
            before.keys().filter(|port| !now.contains_key(port)).for_each(|port| _ = endpoints.remove(&member(port)));
            endpoints.extend(now.keys().filter(|port| !before.contains_key(port)).map(member));
            let new = (!now.is_empty()).then(|| {
                let ports: Vec<_> = now.iter().map(|((protocol, port), chain)| (*protocol, *port, &**chain)).collect();
                compile::entry(address, &ports)
            });
            if let Some(Found { chains, .. }) = self.found.remove(&address) {
                chains.iter().for_each(|name| self.chains.release(name));
            }
            if let Some((entry, rules)) = new {
                let chains = rules.chains.keys().cloned().collect();
                rules.chains.into_iter().for_each(|(name, chain)| self.chains.add(name, chain));
                self.found.insert(address, Found { entry, chains });
            }
            self.frame = None;
        }
        // Whoever is translated on the way out may have come, gone, or changed its address.
        if self.frame.is_none() || ground.config.snat {
            self.frame = Some(self.framed(ground));
        }
    }

    fn framed(&self, ground: &Ground) -> (TableRules, Arc<BTreeSet<SetMember>>) {
        let mut ways: BTreeMap<IpAddr, &WayOut> = BTreeMap::new();
        for (way, pods) in self.egress.values() {
            for pod in pods {
                ways.entry(*pod).or_insert(way);
            }
        }
        let mut mapped = MappedPorts::new();
        if !ways.is_empty() {
            for (address, ports) in &self.ports {
                for (protocol, port) in ports.keys() {
                    mapped.entry((*address, *protocol)).or_default().insert(*port);
                }
            }
        }
        let entries: Vec<&Entry> = self.found.values().map(|found| &found.entry).collect();
        compile::nat(&ground.config, &ground.topology, &entries, &mapped, ways)
    }

    /// Puts everything into a plan of the host alone.
    pub fn add_to(&self, ground: &Ground, plan: &mut Plan) {
        let dataplane = &mut plan.dataplane;
        let (mut nat, leaving) = self.frame.clone().unwrap_or_else(|| self.framed(ground));
        // A map is copied in a fraction of the time that it takes to put its entries into another.
        let frame = std::mem::replace(&mut nat.chains, self.chains.values().clone());
        nat.chains.extend(frame);
        dataplane.tables.insert((Family::Ipv4, Table::Nat), nat);
        let base = std::mem::replace(&mut dataplane.sets, self.sets.values().clone());
        dataplane.sets.extend(base);
        fill(dataplane, SET_ENDPOINTS, Arc::clone(&self.endpoints));
        fill(dataplane, SET_EGRESS, leaving);
        let vips = self.vips.values().keys().copied().map(SetMember::Ip);
        fill(dataplane, SET_SERVICES, Arc::new(vips.collect()));
        for name in self.answers_by.values().keys() {
            dataplane.sysctls.insert(Sysctl::Forwarding(name.clone()), "1".to_owned());
        }
        plan.flows = Arc::clone(&self.flows);
    }
}

/// Members of a set that the host's part of the plan has, empty.
fn fill(dataplane: &mut Dataplane, name: &str, members: Arc<BTreeSet<SetMember>>) {
    if let Some(set) = dataplane.sets.get_mut(name) {
        set.members = members;
    }
}

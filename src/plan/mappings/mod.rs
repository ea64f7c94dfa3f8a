//! All Mappings, each planned by itself, and the sums of what they add to the plan. A change plans anew whom it concerns.

mod cluster;
mod part;
mod sums;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::barred::Barred;
use super::claims::Claims;
use super::ground::Ground;
use super::outcome::MappingOutcome;
use super::resolve::ServiceNow;
use super::ways::Ways;
use super::{MappingOutcomes, Plan};
use crate::model::{Changed, ChangedObject, Dense, EndpointSlice, Few, Mapping, ObjectKey, Objects, changes};
use cluster::Cluster;
use part::Judge;
use sums::{Share, Sums};

/// What is known of every Mapping under one configuration and on one host.
#[derive(Default)]
pub struct Mappings {
    /// The objects that it was planned from.
    seen: Arc<Objects>,
    /// Keys of slices by the Service that they name.
    slices: HashMap<ObjectKey, Few<ObjectKey>>,
    /// Mappings by the Service that they name.
    asking: HashMap<ObjectKey, Few<ObjectKey>>,
    /// Mappings to which it matters whether an address is one of the cluster's.
    watching: BTreeSet<(IpAddr, ObjectKey)>,
    cluster: Cluster,
    claims: Claims,
    shares: BTreeMap<ObjectKey, Share>,
    sums: Sums,
    outcomes: Arc<MappingOutcomes>,
}

impl Mappings {
    /// Brings everything to these objects.
    pub fn take(&mut self, objects: &Arc<Objects>, ground: &Ground) {
        let before = std::mem::replace(&mut self.seen, Arc::clone(objects));
        let mappings = changes(&before.mappings, &objects.mappings);
        let services = changes(&before.services, &objects.services);
        let slices = changes(&before.slices, &objects.slices);

        let mut concerned: BTreeSet<ObjectKey> = mappings.iter().map(|c| c.key.clone()).collect();
        let come_or_gone = self.cluster.take(&slices, &services, &ground.topology);
        for address in come_or_gone {
            concerned.extend(self.watching_for(address));
        }
        let mut changed: BTreeSet<ObjectKey> = services.iter().map(|c| c.key.clone()).collect();
        self.index(&slices, &mut changed);
        for service in &changed {
            concerned.extend(self.asking.get(service).into_iter().flatten().cloned());
        }
        concerned.extend(self.claims.take(&mappings, &objects.mappings));
        if concerned.is_empty() {
            return;
        }
        let changed = concerned.len();
        self.renew(concerned, &before, objects, ground);
        self.sums.settle(ground);
        // Mostly a few have changed, and what is shared is not copied for them.
        if changed * 2 > self.shares.len() {
            self.shares.densify(changed);
            self.watching.densify(changed);
            Arc::make_mut(&mut self.outcomes).densify(changed);
            self.sums.densify(changed);
        }
    }

    /// Puts the sums into a plan of the host alone.
    pub fn add_to(&self, ground: &Ground, plan: &mut Plan) {
        for (family, members) in self.cluster.inner() {
            if let Some(set) = plan.dataplane.sets.get_mut(super::compile::inner_set(family)) {
                set.members = Arc::clone(members);
            }
        }
        self.sums.add_to(ground, plan);
        plan.mappings = Arc::clone(&self.outcomes);
    }

    fn watching_for(&self, address: IpAddr) -> impl Iterator<Item = ObjectKey> {
        let first = (address, ObjectKey::new("", ""));
        self.watching.range(first..).take_while(move |(watched, _)| *watched == address).map(|(_, key)| key.clone())
    }

    /// Finds slices by their Service; adds the Services whose slices changed.
    fn index(&mut self, slices: &[ChangedObject<EndpointSlice>], changed: &mut BTreeSet<ObjectKey>) {
        for Changed { key, before, now } in slices {
            if let Some(before) = before {
                let service = key.beside(Arc::clone(&before.service));
                remove(&mut self.slices, &service, key);
                changed.insert(service);
            }
            if let Some(now) = now {
                let service = key.beside(Arc::clone(&now.service));
                self.slices.entry(service.clone()).or_default().insert((*key).clone());
                changed.insert(service);
            }
        }
    }

    fn renew(&mut self, concerned: BTreeSet<ObjectKey>, before: &Objects, objects: &Objects, ground: &Ground) {
        let ways = Ways::of(&ground.host);
        let barred = Barred::of(&ground.host, &ground.topology, &ways);
        for key in &concerned {
            if let Some(mapping) = before.mappings.get(key) {
                remove(&mut self.asking, &service_of(key, mapping), key);
            }
            if let Some(share) = self.shares.remove(key) {
                for address in share.watched() {
                    self.watching.remove(&(*address, key.clone()));
                }
                self.sums.release(&share);
            }
        }
        for key in concerned {
            let Some((key, mapping)) = objects.mappings.get_key_value(&key) else {
                Arc::make_mut(&mut self.outcomes).remove(&key);
                continue;
            };
            let service = service_of(key, mapping);
            let named = self.slices.get(&service).into_iter().flatten();
            let slices: Vec<&EndpointSlice> = named.filter_map(|key| Some(&**objects.slices.get(key)?)).collect();
            let behind =
                ServiceNow { key: &service, service: objects.services.get(&service).map(Arc::as_ref), slices: &slices };
            let in_cluster = |address| self.cluster.has(address, &ground.topology);
            let judge = Judge { ground, ways: &ways, barred: &barred, in_cluster: &in_cluster };
            let (part, outcome) = judge.judge(key, mapping, self.claims.refusal(key), &behind);
            self.watching.extend(part.watched.iter().map(|address| (*address, key.clone())));
            self.shares.insert(key.clone(), self.sums.add(key, mapping.created, part));
            self.asking.entry(service).or_default().insert(key.clone());
            self.say(key, outcome);
        }
    }

    /// An outcome that is the same stays the same value.
    fn say(&mut self, key: &ObjectKey, outcome: MappingOutcome) {
        if self.outcomes.get(key).is_none_or(|known| **known != outcome) {
            Arc::make_mut(&mut self.outcomes).insert(key.clone(), Arc::new(outcome));
        }
    }
}

/// The Service that a Mapping names, also one that is wrong otherwise.
fn service_of(key: &ObjectKey, mapping: &Mapping) -> ObjectKey {
    key.beside(mapping.spec.service_name.as_str())
}

fn remove(index: &mut HashMap<ObjectKey, Few<ObjectKey>>, of: &ObjectKey, key: &ObjectKey) {
    if let Some(keys) = index.get_mut(of) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(of);
        }
    }
}

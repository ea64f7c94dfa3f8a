use std::sync::Arc;
use std::time::Instant;

use crate::apply::WrittenRouting;
use crate::model::{ChangedObject, Host, Objects, World, changes};
use crate::plan::Plan;

/// What is known of the world, and whether it is complete.
pub struct Snapshot {
    world: World,
    /// When routes and rules of ours were last put in by [`Self::wrote`].
    written: Option<Instant>,
}

impl Snapshot {
    pub fn new(world: World) -> Self {
        Snapshot { world, written: None }
    }

    pub fn world(&self) -> &World {
        &self.world
    }

    /// The source of objects has delivered.
    pub fn is_complete(&self) -> bool {
        self.world.objects.is_some()
    }

    /// Whether anything is different now. A look that began before our last write does not show all of it: of ours, what is known is
    /// kept then. The write was an event to the source, which looks again.
    pub fn take_host(&mut self, mut host: Host, begun: Instant) -> bool {
        if self.written.is_some_and(|written| begun <= written) {
            let known = &self.world.host;
            host.own_routes.clone_from(&known.own_routes);
            host.own_rules.clone_from(&known.own_rules);
            host.own_strays.clone_from(&known.own_strays);
        }
        let changed = self.world.host != host;
        self.world.host = host;
        changed
    }

    /// Whether anything is different now.
    pub fn take_objects(&mut self, objects: Arc<Objects>) -> bool {
        let changed = self.world.objects.as_ref().is_none_or(|known| is_changed(known, &objects));
        self.world.objects = Some(objects);
        changed
    }

    /// Routes and rules of ours were written, all that were planned.
    pub fn wrote(&mut self, routing: WrittenRouting) {
        self.world.host.own_routes = routing.routes;
        self.world.host.own_rules = routing.rules;
        self.world.host.own_strays.clear();
        self.written = Some(routing.at);
    }

    /// Slots once given are kept, whatever the kernel's rules say until they are read again.
    pub fn keep_slots(&mut self, plan: &Plan) {
        self.world.slots.clone_from(&plan.slots);
    }
}

/// Compares only what is not the same value: a change of one object among thousands is no reason to compare all.
fn is_changed(known: &Objects, objects: &Objects) -> bool {
    fn any<T: PartialEq>(changed: Vec<ChangedObject<'_, T>>) -> bool {
        changed.iter().any(|c| c.before != c.now)
    }
    any(changes(&known.mappings, &objects.mappings))
        || any(changes(&known.services, &objects.services))
        || any(changes(&known.slices, &objects.slices))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::model::{Family, ObjectKey, Service, ServiceType};
    use crate::ruleset::{PolicyRule, RuleSelector};

    fn objects(name: &str) -> Arc<Objects> {
        let service = Service {
            kind: ServiceType::ClusterIp,
            headless: false,
            cluster_ips: vec![],
            ports: vec![],
            internal_local: false,
            affinity_seconds: None,
        };
        Objects { services: BTreeMap::from([(ObjectKey::new("a", name), service.into())]), ..Objects::default() }.into()
    }

    fn empty() -> Snapshot {
        let world = World { host: Host::default(), objects: None, slots: BTreeMap::new() };
        Snapshot::new(world)
    }

    fn host(own_rules: &[PolicyRule]) -> Host {
        Host { own_rules: own_rules.to_vec(), ..Host::default() }
    }

    #[test]
    fn a_look_older_than_our_own_write_does_not_undo_it_and_a_newer_one_counts() {
        let rule = PolicyRule::lookup(Family::Ipv4, 100, RuleSelector::OutInterface("eth1".into()), 1001);
        let mut snapshot = empty();
        let before = Instant::now();
        let written = before + Duration::from_millis(1);
        snapshot.wrote(WrittenRouting { routes: [].into(), rules: vec![rule.clone()], at: written });
        assert!(!snapshot.take_host(host(&[]), before), "it was not there yet");
        assert_eq!(snapshot.world().host.own_rules, std::slice::from_ref(&rule));
        assert!(!snapshot.take_host(host(&[rule]), written + Duration::from_millis(1)));
        assert!(snapshot.take_host(host(&[]), written + Duration::from_millis(2)), "somebody removed it");
        assert_eq!(snapshot.world().host.own_rules, []);
    }

    #[test]
    fn it_is_complete_when_the_objects_have_come_and_the_same_state_again_is_no_change() {
        let mut snapshot = empty();
        assert!(!snapshot.is_complete());
        assert!(snapshot.take_objects(objects("x")));
        assert!(snapshot.is_complete());
        assert!(!snapshot.take_objects(objects("x")));
        assert!(snapshot.take_objects(Arc::default()));
    }
}

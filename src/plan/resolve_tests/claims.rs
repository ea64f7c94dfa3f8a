use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::model::Endpoint;
use crate::plan::{Refusal, RefusalReason, ResolvedMapping};

fn names(resolution: &Resolution) -> Vec<&str> {
    resolution.served.iter().map(|m| &*m.key.name).collect()
}

fn conflict<'a>(resolution: &'a Resolution, name: &str) -> &'a Refusal {
    let refusal = &resolution.refused[&key(name)];
    assert_eq!(refusal.reason, RefusalReason::Conflict, "{}", refusal.message);
    refusal
}

#[test]
fn the_older_mapping_keeps_its_endpoint_and_the_younger_is_told_who_holds_it() {
    // By name the younger one comes first.
    let resolution = resolve(&config(), &objects([("a", mapping(2, spec())), ("b", mapping(1, spec()))]));
    assert_eq!(names(&resolution), ["b"]);
    let message = &conflict(&resolution, "a").message;
    assert!(message.contains("203.0.113.10:80/tcp") && message.contains("shop/b"), "{message}");
}

#[test]
fn claims_hold_across_namespaces() {
    let mut objects = objects([("web", mapping(1, spec()))]);
    objects.mappings.insert(ObjectKey::new("other", "web"), mapping(2, spec()).into());
    let resolution = resolve(&config(), &objects);
    assert_eq!(names(&resolution), ["web"]);
    assert_eq!(resolution.refused[&ObjectKey::new("other", "web")].reason, RefusalReason::Conflict);
}

#[test]
fn the_same_port_of_another_protocol_or_address_is_no_conflict() {
    let udp = MappingSpec { ports: vec![port(80, 53, "udp")], ..spec() };
    let elsewhere = MappingSpec { addresses: strings(&["203.0.113.11"]), ..spec() };
    let all = objects([("a", mapping(1, spec())), ("b", mapping(2, udp)), ("c", mapping(3, elsewhere))]);
    assert_eq!(names(&resolve(&config(), &all)), ["a", "b", "c"]);
}

#[test]
fn one_contested_endpoint_refuses_the_whole_mapping_which_then_holds_nothing() {
    let wide = MappingSpec { ports: vec![port(80, 8080, "tcp"), port(81, 8080, "tcp")], ..spec() };
    let late = MappingSpec { ports: vec![port(81, 8080, "tcp")], ..spec() };
    let all = objects([("a", mapping(1, spec())), ("b", mapping(2, wide)), ("c", mapping(3, late))]);
    let resolution = resolve(&config(), &all);
    assert_eq!(names(&resolution), ["a", "c"]);
    conflict(&resolution, "b");
}

#[test]
fn equal_age_is_decided_by_namespace_and_name_and_no_age_is_the_youngest() {
    let ageless = Mapping { created: None, ..mapping(0, spec()) };
    let all = objects([("a", ageless.clone()), ("b", mapping(9, spec())), ("c", mapping(9, spec()))]);
    assert_eq!(names(&resolve(&config(), &all)), ["b"]);
    let all = objects([("b", ageless.clone()), ("a", ageless)]);
    assert_eq!(names(&resolve(&config(), &all)), ["a"]);
}

#[test]
fn a_mapping_whose_service_is_gone_keeps_its_endpoints() {
    let orphan = MappingSpec { service_name: "gone".to_owned(), ..spec() };
    let resolution = resolve(&config(), &objects([("a", mapping(1, orphan)), ("b", mapping(2, spec()))]));
    assert_eq!(names(&resolution), [""; 0]);
    assert_eq!(resolution.refused[&key("a")].reason, RefusalReason::ServiceNotFound);
    conflict(&resolution, "b");
}

#[test]
fn a_mapping_refused_by_itself_holds_nothing() {
    let bad = MappingSpec { mode: Some("proxy".to_owned()), ..spec() };
    let resolution = resolve(&config(), &objects([("a", mapping(1, bad)), ("b", mapping(2, spec()))]));
    assert_eq!(names(&resolution), ["b"]);
}

#[test]
fn a_mapping_being_deleted_holds_nothing_and_is_not_served() {
    let deleting = Mapping { deleting: true, ..mapping(1, spec()) };
    let resolution = resolve(&config(), &objects([("a", deleting), ("b", mapping(2, spec()))]));
    assert_eq!(names(&resolution), ["b"]);
    assert_eq!(resolution.refused[&key("a")].reason, RefusalReason::Deleting);
}

fn endpoints(mapping: &ResolvedMapping) -> impl Iterator<Item = Endpoint> {
    mapping.addresses.iter().flat_map(|&address| {
        mapping.ports.iter().map(move |p| Endpoint { address, protocol: p.protocol, port: p.port })
    })
}

/// Few addresses and ports, so that many conflict; some without a Service, some invalid, some being deleted.
fn any_mapping() -> impl Strategy<Value = Mapping> {
    let addresses = prop::collection::btree_set(10u8..14, 1..3);
    let ports = prop::collection::btree_set((80i32..83, any::<bool>()), 1..3);
    (addresses, ports, prop::option::of(0i64..4), 0u8..10).prop_map(|(addresses, ports, created, kind)| Mapping {
        spec: MappingSpec {
            addresses: addresses.iter().map(|a| format!("203.0.113.{a}")).collect(),
            service_name: if kind == 0 { "gone" } else { "web" }.to_owned(),
            mode: Some(if kind == 1 { "proxy" } else { "direct" }.to_owned()),
            ports: ports
                .iter()
                .map(|&(number, tcp)| if tcp { port(number, 8080, "tcp") } else { port(number, 53, "udp") })
                .collect(),
            ..MappingSpec::default()
        },
        created,
        deleting: kind == 2,
        generation: None,
        uid: None,
        unreadable: None,
        held: true,
    })
}

fn any_objects() -> impl Strategy<Value = Objects> {
    prop::collection::btree_map((0u8..3, 0u8..6), any_mapping(), 0..12).prop_map(|mappings| {
        let mut all = objects([]);
        for namespace in ["ns0", "ns1", "ns2"] {
            all.services.insert(ObjectKey::new(namespace, "web"), service().into());
        }
        for ((namespace, name), mapping) in mappings {
            all.mappings.insert(ObjectKey::new(format!("ns{namespace}"), format!("m{name}")), mapping.into());
        }
        all
    })
}

/// What is decided about every Mapping, without its position among the others.
fn verdicts(objects: &Objects) -> BTreeMap<ObjectKey, Option<RefusalReason>> {
    let resolution = resolve(&config(), objects);
    let served = resolution.served.into_iter().map(|m| (m.key, None));
    served.chain(resolution.refused.into_iter().map(|(key, refusal)| (key, Some(refusal.reason)))).collect()
}

fn older(objects: &Objects, a: &ObjectKey, b: &ObjectKey) -> bool {
    let age = |key: &ObjectKey| (objects.mappings[key].created.unwrap_or(i64::MAX), key.clone());
    age(a) < age(b)
}

proptest! {
    #[test]
    fn every_mapping_is_served_or_refused_and_no_endpoint_is_held_twice(objects in any_objects()) {
        let resolution = resolve(&config(), &objects);
        let mut held = BTreeSet::new();
        for mapping in &resolution.served {
            for endpoint in endpoints(mapping) {
                prop_assert!(held.insert(endpoint), "{endpoint} is held twice");
            }
            prop_assert!(!resolution.refused.contains_key(&mapping.key));
        }
        prop_assert_eq!(resolution.served.len() + resolution.refused.len(), objects.mappings.len());
        prop_assert!(resolution.served.is_sorted_by(|a, b| older(&objects, &a.key, &b.key)));
    }

    /// Nobody loses to a younger one: the holder that a refusal names is older, is itself not in conflict, and claims the endpoint.
    #[test]
    fn a_conflict_is_lost_to_an_older_holder(objects in any_objects()) {
        let resolution = resolve(&config(), &objects);
        let verdicts = verdicts(&objects);
        for (key, refusal) in resolution.refused.iter().filter(|(_, r)| r.reason == RefusalReason::Conflict) {
            let mut words = refusal.message.split_whitespace();
            let endpoint = words.next().unwrap();
            let holder = words.find(|w| w.contains('/')).unwrap().trim_end_matches(';');
            let (namespace, name) = holder.split_once('/').unwrap();
            let holder = ObjectKey::new(namespace, name);
            prop_assert!(older(&objects, &holder, key), "{}: {}", key, refusal.message);
            prop_assert!(matches!(verdicts[&holder], None | Some(RefusalReason::ServiceNotFound)), "{}", refusal.message);
            let valid = crate::plan::validate(objects.mappings[&holder].spec.clone(), 50).unwrap();
            prop_assert!(valid.endpoints().any(|e| e.to_string() == endpoint), "{}", refusal.message);
        }
    }

    /// A refused Mapping without claims leaves no trace in what is decided about the others.
    #[test]
    fn a_mapping_that_holds_nothing_can_be_taken_away_unnoticed(objects in any_objects()) {
        let before = verdicts(&objects);
        for (key, reason) in &before {
            if reason.is_none() || *reason == Some(RefusalReason::ServiceNotFound) {
                continue;
            }
            let mut without = objects.clone();
            without.mappings.remove(key);
            let mut expected = before.clone();
            expected.remove(key);
            prop_assert_eq!(verdicts(&without), expected, "without {}", key);
        }
    }

    /// What a younger Mapping does never changes the verdict on an older one.
    #[test]
    fn the_youngest_changes_nothing_for_the_others(objects in any_objects()) {
        let youngest = objects.mappings.keys().reduce(|a, b| if older(&objects, a, b) { b } else { a }).cloned();
        if let Some(youngest) = youngest {
            let mut expected = verdicts(&objects);
            expected.remove(&youngest);
            let mut without = objects.clone();
            without.mappings.remove(&youngest);
            prop_assert_eq!(verdicts(&without), expected);
        }
    }
}

#[test]
fn a_mapping_with_more_ports_than_this_box_serves_keeps_its_claims_as_other_boxes_may_serve_it() {
    let many = MappingSpec { ports: (1..=51).map(|n| port(n, 8080, "tcp")).collect(), ..spec() };
    let young = MappingSpec { ports: vec![port(51, 8080, "tcp")], ..spec() };
    let objects = objects([("old", mapping(1, many)), ("young", mapping(2, young))]);
    let resolution = resolve(&config(), &objects);
    assert_eq!(resolution.refused[&key("old")].reason, RefusalReason::TooManyPorts);
    assert_eq!(resolution.refused[&key("young")].reason, RefusalReason::Conflict);
}

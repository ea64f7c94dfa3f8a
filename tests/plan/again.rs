//! A planner that has seen other worlds plans as one that has not.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use smartnat::model::{
    Host, Mapping, MarkLayout, Neighbour, NeighbourState, Objects, Protocol, Service, ServiceType, World,
};
use smartnat::plan::{Planner, plan};

use crate::world::{Spec, config, key, pod, world};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// What may happen to the world; numbers choose whom and what.
#[derive(Debug, Clone)]
enum Event {
    /// Mappings of few addresses and ports: they come to want the same.
    Put {
        name: usize,
        addresses: Vec<u32>,
        ports: Vec<u16>,
        age: Option<i64>,
        pods: usize,
        affinity: bool,
    },
    /// Another Service, or none.
    Lead {
        name: usize,
        to: usize,
    },
    Sources {
        name: usize,
        sources: Vec<usize>,
    },
    Held(usize),
    Deleting(usize),
    Invalid(usize),
    ByClusterIp(usize),
    RemoveMapping(usize),
    RemoveService(usize),
    RemoveSlice(usize),
    Pods {
        name: usize,
        pods: Vec<(usize, bool)>,
    },
    External {
        name: usize,
    },
    Neighbours(bool),
    Link {
        without: bool,
    },
    Route {
        inside: bool,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let name = || 0..NAMES.len();
    let put = (
        name(),
        prop::collection::vec(0u32..4, 1..3),
        prop::collection::vec(80u16..84, 1..4),
        prop::option::of(0i64..3),
        0usize..4,
        any::<bool>(),
    );
    prop_oneof![
        4 => put.prop_map(|(name, addresses, ports, age, pods, affinity)| Event::Put { name, addresses, ports, age, pods, affinity }),
        1 => (name(), name()).prop_map(|(name, to)| Event::Lead { name, to }),
        1 => (name(), prop::collection::vec(0usize..4, 0..3)).prop_map(|(name, sources)| Event::Sources { name, sources }),
        1 => name().prop_map(Event::Held),
        1 => name().prop_map(Event::Deleting),
        1 => name().prop_map(Event::Invalid),
        1 => name().prop_map(Event::ByClusterIp),
        1 => name().prop_map(Event::RemoveMapping),
        1 => name().prop_map(Event::RemoveService),
        1 => name().prop_map(Event::RemoveSlice),
        2 => (name(), prop::collection::vec((0usize..6, any::<bool>()), 0..5)).prop_map(|(name, pods)| Event::Pods { name, pods }),
        1 => name().prop_map(|name| Event::External { name }),
        1 => any::<bool>().prop_map(Event::Neighbours),
        1 => any::<bool>().prop_map(|without| Event::Link { without }),
        1 => any::<bool>().prop_map(|inside| Event::Route { inside }),
    ]
}

/// Sources of which some are inside: a client's network, an inside network, a pod, an address that a pod may get.
fn sources(chosen: &[usize]) -> Vec<String> {
    let all = ["192.0.2.0/24".to_owned(), "10.0.0.0/24".to_owned(), pod(0).to_string(), "192.0.2.77".to_owned()];
    chosen.iter().map(|i| all[*i].clone()).collect()
}

fn mapping(objects: &mut Objects, name: usize, change: impl FnOnce(&mut Mapping)) {
    objects.mappings.get_mut(&key(NAMES[name])).into_iter().map(Arc::make_mut).for_each(change_once(change));
}

fn change_once<T>(change: impl FnOnce(&mut T)) -> impl FnMut(&mut T) {
    let mut change = Some(change);
    move |value| change.take().into_iter().for_each(|change| change(value))
}

fn happen(event: &Event, world: &mut World) {
    let host = Arc::new(world.host.clone());
    let objects = Arc::make_mut(world.objects.as_mut().unwrap());
    match event {
        Event::Put { name, addresses, ports, age, pods, affinity } => {
            let ports: Vec<_> = ports.iter().map(|port| (Protocol::Tcp, *port)).collect();
            let mut spec = Spec::direct(NAMES[*name], addresses.iter().copied(), &ports).pods(*pods);
            spec.created = *age;
            spec.affinity = affinity.then_some(600);
            let put = crate::world::world(&[spec]);
            let put = put.objects.unwrap();
            objects.mappings.extend(put.mappings.clone());
            objects.services.extend(put.services.clone());
            objects.slices.extend(put.slices.clone());
        }
        Event::Lead { name, to } => mapping(objects, *name, |m| m.spec.service_name = NAMES[*to].to_owned()),
        Event::Sources { name, sources: s } => mapping(objects, *name, |m| m.spec.allowed_sources = sources(s)),
        Event::Held(name) => mapping(objects, *name, |m| m.held = !m.held),
        Event::Deleting(name) => mapping(objects, *name, |m| m.deleting = !m.deleting),
        Event::Invalid(name) => mapping(objects, *name, |m| m.spec.addresses.push("nowhere".to_owned())),
        Event::ByClusterIp(name) => mapping(objects, *name, |m| m.spec.mode = Some("service".to_owned())),
        Event::RemoveMapping(name) => _ = objects.mappings.remove(&key(NAMES[*name])),
        Event::RemoveService(name) => _ = objects.services.remove(&key(NAMES[*name])),
        Event::RemoveSlice(name) => _ = objects.slices.remove(&key(&format!("{}-1", NAMES[*name]))),
        Event::Pods { name, pods } => {
            if let Some(slice) = objects.slices.get_mut(&key(&format!("{}-1", NAMES[*name]))) {
                let slice = Arc::make_mut(slice);
                slice.endpoints = pods
                    .iter()
                    .map(|(i, ready)| smartnat::model::SliceEndpoint {
                        // The last one is an address of which a Mapping's sources may speak.
                        addresses: vec![if *i == 5 { "192.0.2.77".parse().unwrap() } else { pod(*i) }],
                        ready: *ready,
                        serving: true,
                        terminating: !ready,
                        uid: None,
                    })
                    .collect();
            }
        }
        Event::External { name } => {
            let service = objects.services.get_mut(&key(NAMES[*name])).into_iter().map(Arc::make_mut);
            service.for_each(|s: &mut Service| s.kind = ServiceType::ExternalName);
        }
        Event::Neighbours(stale) => {
            let state = if *stale { NeighbourState::Stale } else { NeighbourState::Reachable };
            let address: IpAddr = "203.0.112.1".parse().unwrap();
            world.host.neighbours = vec![Neighbour { interface: "eth1".to_owned(), address, state }];
        }
        Event::Link { without } => {
            let addresses = world.host.links["eth1"].addresses.clone();
            let link = world.host.links.get_mut("eth1").unwrap();
            link.addresses = if *without { addresses.into_iter().take(2).collect() } else { all_addresses() };
        }
        Event::Route { inside } => {
            let mut routes = Host::clone(&host).main_routes;
            routes.retain(|route| route.destination != "10.244.0.0/16".parse().unwrap());
            if *inside {
                routes.extend(crate::world::reference().host.main_routes.into_iter().skip(1).take(1));
            }
            world.host.main_routes = routes;
        }
    }
}

fn begin() -> World {
    let every = Spec::direct("a", 0..4, &[(Protocol::Tcp, 80)]);
    world(&[every])
}

fn all_addresses() -> Vec<smartnat::model::InterfaceAddress> {
    begin().host.links["eth1"].addresses.clone()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn what_was_planned_before_makes_no_difference(
        events in prop::collection::vec(prop::collection::vec(event(), 1..4), 1..12),
        masquerade: bool,
        snat: bool,
        few_ports: bool,
    ) {
        let mut config = config();
        config.masquerade = masquerade;
        config.snat = snat;
        config.marks = MarkLayout::default();
        if few_ports {
            config.max_ports_per_mapping = 2;
        }
        let mut planner = Planner::new(config.clone());
        let mut world = begin();
        for together in events {
            together.iter().for_each(|event| happen(event, &mut world));
            let again = planner.plan(&world);
            let anew = plan(&config, &world);
            prop_assert_eq!(&again, &anew);
            world.slots = again.slots;
        }
        // Everything goes, and nothing is left over.
        world.objects = Some(Arc::default());
        prop_assert_eq!(planner.plan(&world), plan(&config, &world));
        world.objects = None;
        let mut before = BTreeMap::new();
        std::mem::swap(&mut before, &mut world.slots);
        prop_assert_eq!(planner.plan(&world), plan(&config, &world));
    }
}

//! A look at what changed finds what a look at everything finds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{Flow, FlowMemory, FlowTargets, FlowVerdict, GRACE};
use crate::api::ServicePortRef;
use crate::model::{EndpointSlice, Host, Objects, Protocol, Service, ServiceType, SliceEndpoint, World};
use crate::plan::Planner;
use crate::plan::resolve_tests::{config, key, mapping, objects, pod, port, service, slice, spec};

const NAMES: [&str; 3] = ["web", "api", "old"];

#[derive(Debug, Clone)]
enum Event {
    Map {
        name: usize,
        service: usize,
        port: u8,
        udp: bool,
        by_cluster_ip: bool,
        by_name: bool,
    },
    Unmap(usize),
    Service {
        name: usize,
        vip: u8,
        external: bool,
    },
    NoService(usize),
    /// Pods by address, with a uid and whether each is ready.
    Slice {
        name: usize,
        second: bool,
        pods: Vec<(u8, Option<u8>, bool)>,
    },
    NoSlice {
        name: usize,
        second: bool,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let name = || 0..NAMES.len();
    let pods = prop::collection::vec((1u8..5, prop::option::of(0u8..4), any::<bool>()), 0..4);
    prop_oneof![
        2 => (name(), name(), 0u8..3, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(name, service, port, udp, by_cluster_ip, by_name)| Event::Map { name, service, port, udp, by_cluster_ip, by_name }
        ),
        1 => name().prop_map(Event::Unmap),
        1 => (name(), 0u8..3, any::<bool>()).prop_map(|(name, vip, external)| Event::Service { name, vip, external }),
        1 => name().prop_map(Event::NoService),
        4 => (name(), any::<bool>(), pods).prop_map(|(name, second, pods)| Event::Slice { name, second, pods }),
        1 => (name(), any::<bool>()).prop_map(|(name, second)| Event::NoSlice { name, second }),
    ]
}

fn happen(event: &Event, objects: &mut Objects) {
    let slice_key = |name: usize, second: bool| key(&format!("{}-{}", NAMES[name], 1 + u8::from(second)));
    match event {
        Event::Map { name, service, port: number, udp, by_cluster_ip, by_name } => {
            let mut spec = spec();
            let protocol = if *udp { "udp" } else { "tcp" };
            spec.ports = vec![port(80 + i32::from(*number), if *udp { 53 } else { 80 }, protocol)];
            if *by_name {
                spec.ports[0].service_port = Some(ServicePortRef::Name(if *udp { "dns" } else { "http" }.to_owned()));
            }
            spec.service_name = NAMES[*service].to_owned();
            spec.mode = Some(if *by_cluster_ip { "service" } else { "direct" }.to_owned());
            objects.mappings.insert(key(NAMES[*name]), mapping(1, spec).into());
        }
        Event::Unmap(name) => _ = objects.mappings.remove(&key(NAMES[*name])),
        Event::Service { name, vip, external } => {
            let kind = if *external { ServiceType::ExternalName } else { ServiceType::ClusterIp };
            let vip = format!("10.96.0.{}", 10 + vip).parse().unwrap();
            let service = Service { kind, cluster_ips: vec![vip], ..service() };
            objects.services.insert(key(NAMES[*name]), service.into());
        }
        Event::NoService(name) => _ = objects.services.remove(&key(NAMES[*name])),
        Event::Slice { name, second, pods } => {
            let endpoint = |(last, uid, ready): &(u8, Option<u8>, bool)| SliceEndpoint {
                ready: *ready,
                serving: *ready,
                uid: uid.map(|uid| format!("uid-{uid}").into()),
                ..pod(&format!("10.244.1.{last}"))
            };
            let slice =
                EndpointSlice { service: NAMES[*name].into(), ..slice(9090, pods.iter().map(endpoint).collect()) };
            objects.slices.insert(slice_key(*name, *second), slice.into());
        }
        Event::NoSlice { name, second } => _ = objects.slices.remove(&slice_key(*name, *second)),
    }
}

fn anew<K: Ord + Clone, T: Clone>(map: &BTreeMap<K, Arc<T>>) -> BTreeMap<K, Arc<T>> {
    map.iter().map(|(key, value)| (key.clone(), Arc::new(T::clone(value)))).collect()
}

/// The same objects, each another value.
fn objects_anew(objects: &Objects) -> Arc<Objects> {
    let Objects { mappings, services, slices } = objects;
    Objects { mappings: anew(mappings), services: anew(services), slices: anew(slices) }.into()
}

fn targets_of(objects: &Arc<Objects>, planner: &mut Planner) -> Arc<FlowTargets> {
    let world = World { host: Host::default(), objects: Some(Arc::clone(objects)), slots: BTreeMap::new() };
    planner.plan(&world).flows
}

/// Flows to every server that there may be.
fn flows() -> impl Iterator<Item = Flow> {
    let servers =
        (1..5).map(|last| format!("10.244.1.{last}:9090")).chain((10..13).map(|last| format!("10.96.0.{last}:80")));
    let servers: Vec<SocketAddr> = servers.map(|server| server.parse().unwrap()).collect();
    let endpoints =
        [Protocol::Tcp, Protocol::Udp].into_iter().flat_map(|protocol| (80..83).map(move |port| (protocol, port)));
    endpoints.flat_map(move |(protocol, port)| {
        let of = move |server: SocketAddr| Flow {
            protocol,
            client: "192.0.2.10".parse().unwrap(),
            destination: SocketAddr::new("203.0.113.10".parse().unwrap(), port),
            server,
        };
        servers.clone().into_iter().map(of)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_look_at_what_changed_is_a_look_at_everything(
        events in prop::collection::vec((prop::collection::vec(event(), 0..3), 0u64..25), 1..25),
    ) {
        let mut planner = Planner::new(config());
        let (mut again, mut all) = (FlowMemory::new(GRACE), FlowMemory::new(GRACE));
        let mut objects = objects([("web", mapping(1, spec()))]);
        let mut now = Instant::now();
        let mut before = None;
        for (together, seconds) in events {
            together.iter().for_each(|event| happen(event, &mut objects));
            now += Duration::from_secs(seconds);
            let shared = Arc::new(objects.clone());
            again.look(&targets_of(&shared, &mut planner), &shared, now);
            let other = objects_anew(&objects);
            all.look(&targets_of(&other, &mut Planner::new(config())), &other, now);
            prop_assert_eq!(again.policy(), all.policy());
            prop_assert_eq!((again.due(), again.remembered()), (all.due(), all.remembered()));
            prop_assert_eq!(&again.replaced, &all.replaced);
            let kept: Vec<bool> = flows().map(|flow| again.policy().verdict(&flow) == FlowVerdict::Keep).collect();
            if let Some((before, revision)) = before {
                let ended = std::iter::zip::<Vec<bool>, _>(before, &kept).any(|(before, now)| before && !now);
                prop_assert!(!ended || revision != again.revision(), "a flow ends, and nobody looks for it");
            }
            before = Some((kept, again.revision()));
        }
    }
}

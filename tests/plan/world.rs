//! Worlds made of a few words.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use smartnat::api::{MappingPort, MappingSpec};
use smartnat::model::{
    BorderConfig, EndpointSlice, Host, InterfaceAddress, Link, MainRoute, Mapping, MarkLayout, ObjectKey, Objects,
    Opening, Protocol, Service, ServicePort, ServiceType, SliceEndpoint, SlicePort, World,
};

pub fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

pub fn config() -> BorderConfig {
    BorderConfig {
        gateway_interface: "eth0".to_owned(),
        external_pattern: regex::Regex::new("^(?:eth[1-9][0-9]*)$").unwrap(),
        gateway_offsets: 1.into(),
        gateway_addresses: None.into(),
        masquerade: true,
        snat: false,
        accept: true,
        max_ports_per_mapping: 256,
        inside_prefixes: vec![],
        inside_interfaces: Default::default(),
        openings: vec![Opening::IcmpEcho, Opening::Dhcp],
        marks: MarkLayout::default(),
        route_table_base: 1000,
        instance_name: "border".to_owned(),
    }
}

/// A Mapping with its Service and slice.
#[derive(Debug, Clone)]
pub struct Spec {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<(Protocol, u16)>,
    pub pods: usize,
    pub affinity: Option<u32>,
    pub filtered: bool,
    pub created: Option<i64>,
}

impl Spec {
    /// Addresses are given by their place in 203.0.112.0/20, which eth1 has.
    pub fn direct(name: &str, addresses: impl IntoIterator<Item = u32>, ports: &[(Protocol, u16)]) -> Self {
        let address = |i: u32| IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(203, 0, 112, 16)) + i));
        Spec {
            name: name.to_owned(),
            addresses: addresses.into_iter().map(address).collect(),
            ports: ports.to_vec(),
            pods: 2,
            affinity: None,
            filtered: false,
            created: None,
        }
    }

    pub fn pods(mut self, pods: usize) -> Self {
        self.pods = pods;
        self
    }
}

fn address(text: &str) -> InterfaceAddress {
    InterfaceAddress::of(text.parse().unwrap())
}

fn link(index: u32, addresses: &[&str]) -> Link {
    let addresses = addresses.iter().map(|a| address(a)).collect();
    Link { index, up: true, carrier: true, mtu: 1500, addresses, ..Link::default() }
}

fn host(eth1: &[&str]) -> Host {
    let route = |to: &str, dev: &str| MainRoute {
        destination: to.parse().unwrap(),
        interface: Some(dev.to_owned()),
        gateway: Some("10.0.0.1".parse().unwrap()),
        metric: 0,
    };
    Host {
        links: BTreeMap::from([
            ("lo".to_owned(), link(1, &["127.0.0.1/8"])),
            ("eth0".to_owned(), link(2, &["10.0.0.2/24"])),
            ("eth1".to_owned(), link(3, eth1)),
            ("eth2".to_owned(), link(4, &["198.51.100.10/24"])),
        ]),
        main_routes: vec![route("0.0.0.0/0", "eth0"), route("10.244.0.0/16", "eth0"), route("10.96.0.0/16", "eth0")],
        ..Host::default()
    }
}

pub fn pod(i: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 1, 2)) + i as u32))
}

fn add(objects: &mut Objects, spec: &Spec) {
    let port_name = |(protocol, port): &(Protocol, u16)| Some(format!("{protocol}{port}"));
    let mapping = Mapping {
        spec: MappingSpec {
            addresses: spec.addresses.iter().map(IpAddr::to_string).collect(),
            allowed_sources: if spec.filtered { vec!["192.0.2.0/24".to_owned()] } else { vec![] },
            service_name: spec.name.clone(),
            mode: Some("direct".to_owned()),
            ports: spec
                .ports
                .iter()
                .map(|(protocol, port)| MappingPort {
                    port: Some((*port).into()),
                    service_port: None,
                    protocol: Some(protocol.to_string()),
                })
                .collect(),
        },
        created: spec.created,
        deleting: false,
        generation: Some(1),
        uid: None,
        unreadable: None,
        held: true,
    };
    let service = Service {
        kind: ServiceType::ClusterIp,
        headless: false,
        cluster_ips: vec!["10.96.0.10".parse().unwrap()],
        ports: spec
            .ports
            .iter()
            .map(|p| ServicePort { name: port_name(p), protocol: p.0.to_string().to_uppercase(), port: p.1 })
            .collect(),
        internal_local: false,
        affinity_seconds: spec.affinity,
    };
    let slice = EndpointSlice {
        service: spec.name.as_str().into(),
        ports: spec
            .ports
            .iter()
            .map(|p| SlicePort { name: port_name(p), protocol: p.0.to_string().to_uppercase(), port: p.1 })
            .collect(),
        endpoints: (0..spec.pods)
            .map(|i| SliceEndpoint {
                addresses: vec![pod(i)],
                ready: true,
                serving: true,
                terminating: false,
                uid: None,
            })
            .collect(),
    };
    objects.mappings.insert(key(&spec.name), mapping.into());
    objects.services.insert(key(&spec.name), service.into());
    objects.slices.insert(key(&format!("{}-1", spec.name)), slice.into());
}

/// Every address that a spec can have is on eth1, 203.0.112.2/20.
pub fn world(specs: &[Spec]) -> World {
    let mut objects = Objects::default();
    let mut addresses: Vec<String> = vec!["203.0.112.2/20".to_owned()];
    for spec in specs {
        add(&mut objects, spec);
        addresses.extend(spec.addresses.iter().map(|a| format!("{a}/20")));
    }
    addresses.sort();
    addresses.dedup();
    let eth1: Vec<&str> = addresses.iter().map(String::as_str).collect();
    World { host: host(&eth1), objects: Some(objects.into()), slots: BTreeMap::new() }
}

/// One Mapping, two ports, three addresses on two interfaces, two pods.
pub fn reference() -> World {
    let mut objects = Objects::default();
    let mut web = Spec::direct("web", [], &[(Protocol::Tcp, 80), (Protocol::Udp, 53)]);
    web.addresses = ["203.0.113.10", "203.0.113.11", "198.51.100.10"].map(|a| a.parse().unwrap()).to_vec();
    add(&mut objects, &web);
    let host = host(&["203.0.113.10/24", "203.0.113.11/24"]);
    World { host, objects: Some(objects.into()), slots: BTreeMap::new() }
}

/// A Mapping of a world, to be changed.
pub fn mapping_mut<'a>(world: &'a mut World, name: &str) -> &'a mut Mapping {
    Arc::make_mut(objects_mut(world).mappings.get_mut(&key(name)).unwrap())
}

/// The objects of a world, to be changed.
pub fn objects_mut(world: &mut World) -> &mut Objects {
    Arc::make_mut(world.objects.as_mut().unwrap())
}

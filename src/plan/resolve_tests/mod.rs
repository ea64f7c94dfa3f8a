//! Mappings judged against each other and against their Services.

mod barred;
mod claims;
mod resolve;
mod validate;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::api::{MappingPort, MappingSpec, ServicePortRef};
use crate::model::{
    BorderConfig, EndpointSlice, Host, Mapping, MarkLayout, ObjectKey, Objects, Service, ServicePort, ServiceType,
    SliceEndpoint, SlicePort, World,
};
use crate::plan::claims::by_age;
use crate::plan::resolve::{ServiceNow, judged};
use crate::plan::{FlowTargets, Refusal, ResolvedMapping, plan};

pub fn config() -> BorderConfig {
    BorderConfig {
        gateway_interface: "eth0".to_owned(),
        external_pattern: regex::Regex::new("^(?:eth[1-9][0-9]*)$").unwrap(),
        gateway_offsets: 1.into(),
        gateway_addresses: None.into(),
        masquerade: true,
        snat: false,
        accept: true,
        max_ports_per_mapping: 50,
        inside_prefixes: Vec::new(),
        inside_interfaces: Default::default(),
        openings: Vec::new(),
        marks: MarkLayout::default(),
        route_table_base: 1000,
        instance_name: "border-1".to_owned(),
    }
}

pub fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

pub fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&t| t.to_owned()).collect()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn port(port: i32, service_port: i32, protocol: &str) -> MappingPort {
    MappingPort {
        port: Some(port),
        service_port: Some(ServicePortRef::Number(service_port)),
        protocol: Some(protocol.to_owned()),
    }
}

/// 203.0.113.10:80/tcp to port 8080 of Service web, mode direct.
pub fn spec() -> MappingSpec {
    MappingSpec {
        addresses: strings(&["203.0.113.10"]),
        allowed_sources: Vec::new(),
        service_name: "web".to_owned(),
        mode: Some("direct".to_owned()),
        ports: vec![port(80, 8080, "tcp")],
    }
}

pub fn mapping(created: i64, spec: MappingSpec) -> Mapping {
    Mapping { spec, created: Some(created), deleting: false, generation: None, uid: None, unreadable: None, held: true }
}

pub fn service_port(name: &str, number: u16, protocol: &str) -> ServicePort {
    ServicePort { name: (!name.is_empty()).then(|| name.to_owned()), protocol: protocol.to_owned(), port: number }
}

pub fn service() -> Service {
    Service {
        kind: ServiceType::ClusterIp,
        headless: false,
        cluster_ips: vec![ip("10.96.0.10")],
        ports: vec![service_port("http", 8080, "TCP"), service_port("dns", 53, "UDP")],
        internal_local: false,
        affinity_seconds: None,
    }
}

pub fn pod(address: &str) -> SliceEndpoint {
    SliceEndpoint { addresses: vec![ip(address)], ready: true, serving: true, terminating: false, uid: None }
}

pub fn slice(http: u16, endpoints: Vec<SliceEndpoint>) -> EndpointSlice {
    EndpointSlice {
        service: "web".into(),
        ports: vec![SlicePort { name: Some("http".to_owned()), protocol: "TCP".to_owned(), port: http }],
        endpoints,
    }
}

/// Service web with one slice of two ready pods, and these Mappings.
pub fn objects(mappings: impl IntoIterator<Item = (&'static str, Mapping)>) -> Objects {
    let mut objects = Objects::default();
    objects.mappings.extend(mappings.into_iter().map(|(name, m)| (key(name), m.into())));
    objects.services.insert(key("web"), service().into());
    objects.slices.insert(key("web-1"), slice(9090, vec![pod("10.244.1.2"), pod("10.244.2.2")]).into());
    objects
}

/// Every Mapping, either to be served or refused.
pub struct Resolution {
    /// Oldest first.
    pub served: Vec<ResolvedMapping>,
    pub refused: BTreeMap<ObjectKey, Refusal>,
    pub flows: Arc<FlowTargets>,
}

/// As a plan judges them, on a host that has none of their addresses.
pub fn resolve(config: &BorderConfig, objects: &Objects) -> Resolution {
    let world = World { host: Host::default(), objects: Some(objects.clone().into()), slots: BTreeMap::new() };
    let plan = plan(config, &world);
    let refused: BTreeMap<ObjectKey, Refusal> =
        plan.mappings.iter().filter_map(|(key, outcome)| Some((key.clone(), outcome.refused.clone()?))).collect();
    let resolved = |key: &ObjectKey| {
        let mapping = &objects.mappings[key];
        let service = key.beside(mapping.spec.service_name.as_str());
        let of_service = objects.slices.iter().filter(|(k, s)| k.beside(Arc::clone(&s.service)) == service);
        let slices: Vec<&EndpointSlice> = of_service.map(|(_, slice)| &**slice).collect();
        let behind =
            ServiceNow { key: &service, service: objects.services.get(&service).map(|s| &**s), slices: &slices };
        crate::plan::resolve::resolve(config, key, judged(mapping).unwrap(), &behind).unwrap()
    };
    let served = by_age(&objects.mappings).into_iter().filter(|key| !refused.contains_key(key)).map(resolved).collect();
    Resolution { served, refused, flows: plan.flows }
}

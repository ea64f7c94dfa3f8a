//! From objects to what can be programmed: every Mapping validated, its claims judged, its Service and pods found.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::barred::no_host;
use super::claims::{Claims, by_age};
use super::flows::{Asked, FlowTarget, FlowTargets, Leads};
use super::validate::{Faults, MAX_PORTS, PortSelector, ValidatedMapping, ValidatedPort, too_many_ports, validate};
use super::{Backends, Refusal, RefusalReason, ResolvedMapping, ResolvedPort};
use crate::api::{MappingMode, MappingSpec};
use crate::model::{self, BorderConfig, Endpoint, EndpointSlice, ObjectKey, Objects, Protocol, Service, ServiceType};

/// Every Mapping, either to be served or refused.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resolution {
    /// Oldest first. No two of them share an endpoint.
    pub served: Vec<ResolvedMapping>,
    pub refused: BTreeMap<ObjectKey, Refusal>,
    /// Of all that are valid and hold their claims, whether their Service is there or not.
    pub flows: FlowTargets,
}

/// Judges every Mapping. A fault of one concerns that one alone, except that an older Mapping keeps its endpoints from younger ones, also
/// while its Service or pods are missing. A Mapping refused by itself or for a conflict, and one being deleted, hold nothing.
pub fn resolve(config: &BorderConfig, objects: &Objects) -> Resolution {
    let slices = SliceIndex::new(objects);
    let mut claims = Claims::default();
    let mut resolution = Resolution::default();
    for (seniority, key) in by_age(&objects.mappings).into_iter().enumerate() {
        let mapping = &objects.mappings[key];
        let judged = if mapping.deleting {
            Err(Refusal {
                reason: RefusalReason::Deleting,
                message:
                    "metadata.deletionTimestamp is set: the Mapping is being deleted and serves nobody; create it anew \
                          when it is gone"
                        .to_owned(),
            })
        } else {
            readable(mapping)
                .and_then(|spec| validate(spec, MAX_PORTS))
                .and_then(|valid| claims.claim(key, &valid).map(|()| valid))
                .inspect(|valid| {
                    if valid.ports.len() <= config.max_ports_per_mapping {
                        ask(key, valid, objects, &slices, &mut resolution.flows);
                    }
                })
                .and_then(|valid| find_service(key, seniority, valid, objects, &slices))
                // Last, as a matter of this router alone: on others the same Mapping may be served, and holds its claims.
                .and_then(|resolved| within(resolved, config.max_ports_per_mapping))
        };
        match judged {
            Ok(resolved) => resolution.served.push(resolved),
            Err(refusal) => {
                resolution.refused.insert(key.clone(), refusal);
            }
        }
    }
    resolution
}

fn readable(mapping: &model::Mapping) -> Result<MappingSpec, Refusal> {
    match &mapping.unreadable {
        None => Ok(mapping.spec.clone()),
        Some(fault) => Err(Refusal {
            reason: RefusalReason::Unreadable,
            message: format!("spec cannot be read: {fault}; correct it (`smartnat-manager crd` describes every field)"),
        }),
    }
}

fn within(mapping: ResolvedMapping, max_ports: usize) -> Result<ResolvedMapping, Refusal> {
    match mapping.ports.len() {
        n if n > max_ports => Err(too_many_ports(n, max_ports)),
        _ => Ok(mapping),
    }
}

/// Where established flows of a Mapping may lead. What is missing now leads nowhere, and may be back in a moment.
fn ask(
    key: &ObjectKey,
    mapping: &ValidatedMapping,
    objects: &Objects,
    slices: &SliceIndex<'_>,
    flows: &mut FlowTargets,
) {
    let service_key = key.beside(mapping.service_name.as_str());
    let sources = Arc::new(mapping.sources.clone());
    for port in &mapping.ports {
        let asked = Arc::new(Asked {
            service: service_key.clone(),
            mode: mapping.mode,
            protocol: port.protocol,
            port: port.service_port.clone(),
        });
        flows.leads.entry(Arc::clone(&asked)).or_insert_with(|| {
            let Some(service) = objects.services.get(&service_key) else { return Leads::default() };
            let found = find_port(service, port);
            Leads {
                service_port: found.map(|p| p.port),
                service_vip: service.vip(),
                backends: found
                    .map(|p| backends(slices.of(&service_key), p.name.as_deref(), port.protocol))
                    .unwrap_or_default(),
            }
        });
        for address in &mapping.addresses {
            let endpoint = Endpoint { address: *address, protocol: port.protocol, port: port.port };
            let target = FlowTarget { sources: Arc::clone(&sources), asked: Arc::clone(&asked) };
            flows.endpoints.insert(endpoint, target);
        }
    }
}

/// EndpointSlices by their Service.
struct SliceIndex<'a>(HashMap<ObjectKey, Vec<&'a EndpointSlice>>);

impl<'a> SliceIndex<'a> {
    fn new(objects: &'a Objects) -> Self {
        let mut index: HashMap<_, Vec<&EndpointSlice>> = HashMap::new();
        for (key, slice) in &objects.slices {
            index.entry(key.beside(Arc::clone(&slice.service))).or_default().push(slice.as_ref());
        }
        SliceIndex(index)
    }

    fn of(&self, service: &ObjectKey) -> &[&'a EndpointSlice] {
        self.0.get(service).map_or(&[], Vec::as_slice)
    }
}

fn find_service(
    key: &ObjectKey,
    seniority: usize,
    mapping: ValidatedMapping,
    objects: &Objects,
    slices: &SliceIndex<'_>,
) -> Result<ResolvedMapping, Refusal> {
    let service_key = key.beside(mapping.service_name.as_str());
    let service = objects.services.get(&service_key).ok_or_else(|| Refusal {
        reason: RefusalReason::ServiceNotFound,
        message: format!(
            "spec.serviceName: there is no Service {service_key}; create it, or name one in the namespace of the Mapping"
        ),
    })?;
    let service_vip = service.vip();
    supported(&service_key, service, service_vip, mapping.mode)?;

    let mut faults = Faults::default();
    let mut ports = Vec::with_capacity(mapping.ports.len());
    // Validation keeps every port or refuses the Mapping, so positions are those of the spec.
    for (i, port) in mapping.ports.into_iter().enumerate() {
        match find_port(service, &port) {
            Some(found) => ports.push(ResolvedPort {
                port: port.port,
                protocol: port.protocol,
                service_port: found.port,
                service_port_name: found.name.clone().filter(|n| !n.is_empty()),
                backends: backends(slices.of(&service_key), found.name.as_deref(), port.protocol),
                affinity_seconds: service.affinity_seconds,
                barred: BTreeMap::new(),
            }),
            None => faults.add(RefusalReason::ServicePortNotFound, no_such_port(i, &service_key, service, &port)),
        }
    }
    faults.none()?;
    Ok(ResolvedMapping {
        key: key.clone(),
        seniority,
        addresses: mapping.addresses,
        sources: mapping.sources,
        named_sources: mapping.named_sources,
        mode: mapping.mode,
        service: service_key,
        service_vip,
        ports,
    })
}

/// Whether the Service is of a kind that the mode can reach.
fn supported(key: &ObjectKey, service: &Service, vip: Option<IpAddr>, mode: MappingMode) -> Result<(), Refusal> {
    let refuse = |why: &str| {
        Err(Refusal {
            reason: RefusalReason::ServiceNotSupported,
            message: format!("spec.serviceName: Service {key} {why}"),
        })
    };
    if service.kind == ServiceType::ExternalName {
        return refuse("is of type ExternalName and has neither a ClusterIP nor pods; name a Service with a selector");
    }
    if mode == MappingMode::Direct {
        return Ok(());
    }
    if service.headless {
        return refuse("is headless, so there is no ClusterIP to forward to; use mode direct");
    }
    if vip.is_none() {
        return refuse("has no IPv4 ClusterIP to forward to; use mode direct");
    }
    if service.internal_local {
        return refuse(
            "has internalTrafficPolicy Local, by which its ClusterIP reaches only pods on the border router itself; use mode \
             direct",
        );
    }
    Ok(())
}

fn find_port<'a>(service: &'a Service, wanted: &ValidatedPort) -> Option<&'a model::ServicePort> {
    service.ports.iter().find(|p| {
        p.protocol.eq_ignore_ascii_case(wanted.protocol.as_str())
            && match &wanted.service_port {
                PortSelector::Number(number) => p.port == *number,
                PortSelector::Name(name) => p.name.as_deref() == Some(name),
            }
    })
}

fn no_such_port(i: usize, key: &ObjectKey, service: &Service, wanted: &ValidatedPort) -> String {
    let (asked, hint) = match &wanted.service_port {
        PortSelector::Number(number) => (format!("{number}/{}", wanted.protocol), ""),
        PortSelector::Name(name) if name.parse::<u16>().is_ok() => {
            (format!("named {name:?} for {}", wanted.protocol), " (a number is written without quotes)")
        }
        PortSelector::Name(name) => (format!("named {name:?} for {}", wanted.protocol), ""),
    };
    let has = if service.ports.is_empty() {
        "it has no ports".to_owned()
    } else {
        let ports: Vec<_> = service.ports.iter().map(describe_port).collect();
        format!("it has {}", ports.join(", "))
    };
    format!(
        "spec.ports[{i}].servicePort: Service {key} has no port {asked}{hint}; {has}: set servicePort and protocol to one of its ports"
    )
}

fn describe_port(port: &model::ServicePort) -> String {
    let protocol = port.protocol.to_ascii_lowercase();
    match port.name.as_deref() {
        None | Some("") => format!("{}/{protocol}", port.port),
        Some(name) => format!("{}/{protocol} ({name})", port.port),
    }
}

/// The pods behind a Service port: slice ports are matched by the port's name and protocol, their numbers are each slice's own.
fn backends(slices: &[&EndpointSlice], name: Option<&str>, protocol: Protocol) -> Backends {
    let mut backends = Backends::default();
    let mut ready = BTreeSet::new();
    for slice in slices {
        let matching = slice.ports.iter().filter(|p| {
            p.name.as_deref().unwrap_or_default() == name.unwrap_or_default()
                && p.protocol.eq_ignore_ascii_case(protocol.as_str())
        });
        for port in matching {
            for endpoint in &slice.endpoints {
                for address in endpoint.addresses.iter().copied().filter(IpAddr::is_ipv4) {
                    if !is_pod_address(&address) {
                        backends.never.extend(endpoint.ready.then_some(address));
                        continue;
                    }
                    let socket = SocketAddr::new(address, port.port);
                    backends.known.insert(socket);
                    if endpoint.ready || endpoint.serving {
                        backends.serving.insert(socket);
                    }
                    if endpoint.ready {
                        ready.insert(socket);
                    } else if endpoint.serving && endpoint.terminating {
                        backends.draining.insert(socket);
                    }
                }
            }
        }
    }
    backends.chosen = if ready.is_empty() { backends.draining.clone() } else { ready };
    backends
}

/// IPv4 for now, and nothing that would lead clients to the border router itself or to a whole segment.
fn is_pod_address(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if no_host(*v4).is_none())
}

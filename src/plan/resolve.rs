//! From a Mapping to what can be programmed: its spec validated, its Service and pods found. A fault of one concerns that one alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::barred::no_host;
use super::flows::{Asked, Leads};
use super::validate::{Faults, MAX_PORTS, PortSelector, ValidatedMapping, ValidatedPort, too_many_ports, validate};
use super::{Backends, Refusal, RefusalReason, ResolvedMapping, ResolvedPort};
use crate::api::MappingMode;
use crate::model::{self, BorderConfig, EndpointSlice, Few, ObjectKey, Protocol, Service, ServiceType};

/// A Mapping's spec by itself. One that is being deleted is refused too.
pub fn judged(mapping: &model::Mapping) -> Result<ValidatedMapping, Refusal> {
    if mapping.deleting {
        return Err(Refusal {
            reason: RefusalReason::Deleting,
            message:
                "metadata.deletionTimestamp is set: the Mapping is being deleted and serves nobody; create it anew \
                      when it is gone"
                    .to_owned(),
        });
    }
    if let Some(fault) = &mapping.unreadable {
        return Err(Refusal {
            reason: RefusalReason::Unreadable,
            message: format!("spec cannot be read: {fault}; correct it (`smartnat-manager crd` describes every field)"),
        });
    }
    validate(mapping.spec.clone(), MAX_PORTS)
}

/// What a Service is and has now.
pub struct ServiceNow<'a> {
    pub key: &'a ObjectKey,
    pub service: Option<&'a Service>,
    pub slices: &'a [&'a EndpointSlice],
}

/// A valid Mapping that holds its claims, with what stands behind it.
pub fn resolve(
    config: &BorderConfig,
    key: &ObjectKey,
    mapping: ValidatedMapping,
    behind: &ServiceNow<'_>,
) -> Result<ResolvedMapping, Refusal> {
    // Ports come last, as a matter of this router alone: on others the same Mapping may be served, and holds its claims.
    find_service(key, mapping, behind).and_then(|resolved| within(resolved, config.max_ports_per_mapping))
}

fn within(mapping: ResolvedMapping, max_ports: usize) -> Result<ResolvedMapping, Refusal> {
    match mapping.ports.len() {
        n if n > max_ports => Err(too_many_ports(n, max_ports)),
        _ => Ok(mapping),
    }
}

/// Where established flows of a Mapping may lead, port by port. What is missing now leads nowhere, and may be back in a moment.
pub fn asked(mapping: &ValidatedMapping, behind: &ServiceNow<'_>) -> Vec<(Arc<Asked>, Arc<Leads>)> {
    let leads = |port: &ValidatedPort| {
        let Some(service) = behind.service else { return Leads::default() };
        let found = find_port(service, port);
        Leads {
            service_port: found.map(|p| p.port),
            service_vip: service.vip(),
            backends: found.map(|p| backends(behind.slices, p.name.as_deref(), port.protocol)).unwrap_or_default(),
        }
    };
    let of = |port: &ValidatedPort| {
        let asked = Asked {
            service: behind.key.clone(),
            mode: mapping.mode,
            protocol: port.protocol,
            port: port.service_port.clone(),
        };
        (Arc::new(asked), Arc::new(leads(port)))
    };
    mapping.ports.iter().map(of).collect()
}

fn find_service(
    key: &ObjectKey,
    mapping: ValidatedMapping,
    behind: &ServiceNow<'_>,
) -> Result<ResolvedMapping, Refusal> {
    let service_key = behind.key;
    let service = behind.service.ok_or_else(|| Refusal {
        reason: RefusalReason::ServiceNotFound,
        message: format!(
            "spec.serviceName: there is no Service {service_key}; create it, or name one in the namespace of the Mapping"
        ),
    })?;
    let service_vip = service.vip();
    supported(service_key, service, service_vip, mapping.mode)?;

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
                backends: backends(behind.slices, found.name.as_deref(), port.protocol),
                affinity_seconds: service.affinity_seconds,
                barred: BTreeMap::new(),
            }),
            None => faults.add(RefusalReason::ServicePortNotFound, no_such_port(i, service_key, service, &port)),
        }
    }
    faults.none()?;
    Ok(ResolvedMapping {
        key: key.clone(),
        addresses: mapping.addresses,
        sources: mapping.sources,
        named_sources: mapping.named_sources,
        mode: mapping.mode,
        service: service_key.clone(),
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
    let mut ready = Few::default();
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

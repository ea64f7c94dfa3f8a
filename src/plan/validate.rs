//! A Mapping by itself: spec in, [`ValidatedMapping`] out, or a refusal that names every field that is wrong.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::{Refusal, RefusalReason, Sources};
use crate::api::{MappingMode, MappingPort, MappingSpec, ServicePortRef};
use crate::model::{Endpoint, Protocol};

/// So many faults are named in one message; of more, only the number.
const MAX_NAMED: usize = 5;

/// Upper bound of `SNCTRLR_MAX_PORTS_PER_MAPPING`, and of the resource's schema.
pub const MAX_PORTS: usize = 256;

/// A spec in which everything that can be judged without other objects is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatedMapping {
    /// IPv4 for now; in the order of the spec, each once.
    pub addresses: Vec<IpAddr>,
    pub sources: Sources,
    /// As the spec names them, in its order.
    pub named_sources: Vec<IpNet>,
    pub mode: MappingMode,
    pub service_name: String,
    /// In the order of the spec; no two with the same port and protocol.
    pub ports: Vec<ValidatedPort>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatedPort {
    /// The port clients connect to.
    pub port: u16,
    pub protocol: Protocol,
    pub service_port: PortSelector,
}

/// Which port of the Service is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortSelector {
    Number(u16),
    Name(String),
}

impl ValidatedMapping {
    /// What it claims: every address with every port.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        self.addresses.iter().flat_map(|&address| {
            self.ports.iter().map(move |p| Endpoint { address, protocol: p.protocol, port: p.port })
        })
    }
}

/// Checks a spec against everything but other objects.
///
/// `max_ports` is `SNCTRLR_MAX_PORTS_PER_MAPPING`. The refusal's reason is that of the first fault, in the order of the fields; its message
/// names all of them (the first five, if there are more), each with its value and what to do.
pub fn validate(spec: MappingSpec, max_ports: usize) -> Result<ValidatedMapping, Refusal> {
    let mut faults = Faults::default();
    let addresses = addresses(&spec.addresses, &mut faults);
    let named_sources = sources(&spec.allowed_sources, &mut faults);
    let sources = together(&named_sources);
    if spec.service_name.is_empty() {
        faults.add(
            RefusalReason::MissingField,
            "spec.serviceName is missing: name a Service in the namespace of the Mapping",
        );
    }
    let mode = mode(spec.mode.as_deref(), &mut faults);
    let ports = ports(spec.ports, max_ports, &mut faults);
    faults.none()?;
    Ok(ValidatedMapping { addresses, sources, named_sources, mode, service_name: spec.service_name, ports })
}

/// What is wrong, in the order of finding.
#[derive(Default)]
pub(super) struct Faults(Vec<Refusal>);

impl Faults {
    pub(super) fn add(&mut self, reason: RefusalReason, message: impl Into<String>) {
        self.0.push(Refusal { reason, message: message.into() });
    }

    pub(super) fn none(self) -> Result<(), Refusal> {
        let Some(first) = self.0.first() else { return Ok(()) };
        let reason = first.reason;
        let mut message = self.0.iter().take(MAX_NAMED).map(|r| r.message.as_str()).collect::<Vec<_>>().join("; ");
        if self.0.len() > MAX_NAMED {
            message.push_str(&format!("; and {} more", self.0.len() - MAX_NAMED));
        }
        Err(Refusal { reason, message })
    }
}

fn addresses(texts: &[String], faults: &mut Faults) -> Vec<IpAddr> {
    if texts.is_empty() {
        faults.add(RefusalReason::MissingField, "spec.addresses is empty: name at least one external address");
    }
    let mut addresses = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        let field = format!("spec.addresses[{i}]");
        match text.parse() {
            Ok(IpAddr::V4(address)) => match unusable(address) {
                Some(what) => faults.add(
                    RefusalReason::InvalidAddress,
                    format!("{field}: {address} is {what}; name an address of an external interface"),
                ),
                None if addresses.contains(&IpAddr::V4(address)) => {}
                None => addresses.push(IpAddr::V4(address)),
            },
            Ok(IpAddr::V6(address)) => faults.add(
                RefusalReason::AddressFamilyNotSupported,
                format!("{field}: {address} is an IPv6 address, which is not served yet; use IPv4 addresses"),
            ),
            Err(_) if text.parse::<IpNet>().is_ok() => faults.add(
                RefusalReason::InvalidAddress,
                format!("{field}: {text:?} is a network; write single addresses, without a prefix length"),
            ),
            Err(_) => faults.add(
                RefusalReason::InvalidAddress,
                format!(
                    "{field}: {text:?} is no IP address; write four decimal numbers without leading zeros (203.0.113.10)"
                ),
            ),
        }
    }
    addresses
}

/// Why packets through a router can never reach an address, if so.
pub(super) fn unusable(address: Ipv4Addr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("the unspecified address")
    } else if address.is_loopback() {
        Some("a loopback address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if address.is_broadcast() {
        Some("the broadcast address")
    } else {
        None
    }
}

fn sources(texts: &[String], faults: &mut Faults) -> Vec<IpNet> {
    let mut nets = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        let field = format!("spec.allowedSources[{i}]");
        match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
            Ok(net @ IpNet::V4(_)) => nets.push(net.trunc()),
            Ok(IpNet::V6(net)) => faults.add(
                RefusalReason::AddressFamilyNotSupported,
                format!("{field}: {net} is IPv6, which is not served yet; use IPv4 networks or addresses"),
            ),
            Err(_) => faults.add(
                RefusalReason::InvalidSource,
                format!("{field}: {text:?} is neither a network nor an address; write 192.0.2.0/24 or 192.0.2.1"),
            ),
        }
    }
    nets
}

/// Drops what another one covers and merges neighbours; sorted.
fn together(named: &[IpNet]) -> Sources {
    if named.is_empty() {
        return Sources::Everyone;
    }
    let nets = IpNet::aggregate(&named.to_vec());
    if nets.iter().any(|n| n.prefix_len() == 0) { Sources::Everyone } else { Sources::Nets(nets) }
}

fn mode(text: Option<&str>, faults: &mut Faults) -> MappingMode {
    let Some(text) = text else { return MappingMode::default() };
    for mode in [MappingMode::Service, MappingMode::Direct] {
        if text.eq_ignore_ascii_case(mode.as_str()) {
            return mode;
        }
    }
    faults.add(RefusalReason::InvalidMode, format!("spec.mode: {text:?} is no mode; use service or direct"));
    MappingMode::default()
}

fn ports(ports: Vec<MappingPort>, max_ports: usize, faults: &mut Faults) -> Vec<ValidatedPort> {
    if ports.is_empty() {
        faults.add(RefusalReason::MissingField, "spec.ports is empty: name at least one port");
    }
    if ports.len() > max_ports {
        let Refusal { reason, message } = too_many_ports(ports.len(), max_ports);
        faults.add(reason, message);
        // Faults of single ports would only hide this one.
        return Vec::new();
    }
    let mut seen = BTreeMap::new();
    let mut validated = Vec::with_capacity(ports.len());
    for (i, port) in ports.into_iter().enumerate() {
        let Some(port) = validate_port(i, port, faults) else { continue };
        if let Some(first) = seen.get(&(port.protocol, port.port)) {
            faults.add(
                RefusalReason::DuplicatePort,
                format!(
                    "spec.ports[{i}].port: {}/{} is already spec.ports[{first}]; remove one of them",
                    port.port, port.protocol
                ),
            );
            continue;
        }
        seen.insert((port.protocol, port.port), i);
        validated.push(port);
    }
    validated
}

pub(super) fn too_many_ports(ports: usize, max_ports: usize) -> Refusal {
    Refusal {
        reason: RefusalReason::TooManyPorts,
        message: format!(
            "spec.ports has {ports} entries, more than the {max_ports} that SNCTRLR_MAX_PORTS_PER_MAPPING allows; split the \
             Mapping, or raise that setting of the border routers (256 at most)"
        ),
    }
}

fn validate_port(i: usize, port: MappingPort, faults: &mut Faults) -> Option<ValidatedPort> {
    let field = format!("spec.ports[{i}]");
    // First fault of every field, not only of the first field.
    let number = match port.port {
        Some(number) => port_number(&format!("{field}.port"), number, faults),
        None => {
            faults.add(
                RefusalReason::MissingField,
                format!("{field}.port is missing: write the port that clients connect to, 1 to 65535"),
            );
            None
        }
    };
    let protocol = match port.protocol.as_deref() {
        None | Some("") => Some(Protocol::Tcp),
        Some(text) => match text.parse() {
            Ok(protocol) => Some(protocol),
            Err(_) => {
                faults.add(
                    RefusalReason::InvalidProtocol,
                    format!("{field}.protocol: {text:?} is not served; use tcp or udp"),
                );
                None
            }
        },
    };
    let service_port = match port.service_port {
        None => number.map(PortSelector::Number),
        Some(ServicePortRef::Number(n)) => {
            port_number(&format!("{field}.servicePort"), n, faults).map(PortSelector::Number)
        }
        Some(ServicePortRef::Name(name)) if name.is_empty() => {
            faults.add(
                RefusalReason::InvalidPort,
                format!(
                    "{field}.servicePort is empty: write a port of the Service by number or name, or leave the field out"
                ),
            );
            None
        }
        Some(ServicePortRef::Name(name)) => Some(PortSelector::Name(name)),
    };
    Some(ValidatedPort { port: number?, protocol: protocol?, service_port: service_port? })
}

fn port_number(field: &str, number: i32, faults: &mut Faults) -> Option<u16> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Some(port),
        _ => {
            faults.add(RefusalReason::InvalidPort, format!("{field}: {number} is no port; use 1 to 65535"));
            None
        }
    }
}

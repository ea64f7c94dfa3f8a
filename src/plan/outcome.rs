use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::compile::{Handling, LocalMapping};
use super::topology::Topology;
use super::{ResolvedMapping, ResolvedPort};
use super::{notes, unserved};
use crate::model::{FewByKey, InterfaceName, Link, NeighbourState};

/// What is said about one Mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingOutcome {
    pub generation: Option<i64>,
    pub uid: Option<String>,
    /// Why it is not served at all, if so.
    pub refused: Option<Refusal>,
    pub programmed: Programmed,
    pub service_vip: Option<IpAddr>,
    /// Addresses of this box that serve it, each with the pods behind it.
    pub configured: FewByKey<IpAddr, Vec<IpAddr>>,
    /// Endpoints (address, protocol, port) served on this box.
    pub endpoints: usize,
}

/// A refusal names field, value and remedy in its message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    pub reason: RefusalReason,
    pub message: String,
}

/// CamelCase reasons of the condition `Accepted=False`; the documented list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum RefusalReason {
    InvalidAddress,
    InvalidSource,
    InvalidPort,
    InvalidProtocol,
    DuplicatePort,
    TooManyPorts,
    AddressFamilyNotSupported,
    InvalidMode,
    MissingField,
    /// A field has another type than it should; only objects stored before the CRD said so.
    Unreadable,
    Conflict,
    ServiceNotFound,
    ServicePortNotFound,
    ServiceNotSupported,
    Deleting,
}

impl RefusalReason {
    /// Follows from a setting of this box: others may serve the Mapping.
    pub fn is_of_this_box(self) -> bool {
        self == RefusalReason::TooManyPorts
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Programmed {
    pub ok: bool,
    pub reason: ProgrammedReason,
    pub message: String,
}

/// CamelCase reasons of the condition `Programmed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum ProgrammedReason {
    Programmed,
    /// Accepted, and about to be programmed: its finalizer and this router's entry are being written to the API.
    Pending,
    /// Refused; see `Accepted`.
    NotAccepted,
    /// None of its addresses is on an external interface of this box.
    NoAddressHere,
    /// Served, but clients are refused until a pod is ready.
    NoReadyEndpoints,
    /// Mode service: no route to the ClusterIP other than the default one.
    ServiceAddressNotLocal,
    /// The main table leads to the pods through an external interface, where their answers are dropped.
    EndpointsOutside,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InterfaceKind {
    /// The default gateway interface.
    Gateway,
    /// lo, the cluster interface, pod interfaces: what does not match the pattern and stands above nothing external.
    Inside,
    External,
    /// External, known by its slot, but not there now.
    Absent,
    /// Above an external interface, by master or lower link: closed, as what the outside sends may come by it.
    #[serde(rename = "above-external")]
    AboveExternal,
    /// It would be inside, but no rule can name it.
    Closed,
}

impl InterfaceKind {
    /// What comes by it comes from the inside.
    pub fn is_inside(self) -> bool {
        matches!(self, InterfaceKind::Gateway | InterfaceKind::Inside)
    }

    /// As people and programs read it.
    pub fn as_str(self) -> &'static str {
        match self {
            InterfaceKind::Gateway => "gateway",
            InterfaceKind::Inside => "inside",
            InterfaceKind::External => "external",
            InterfaceKind::Absent => "absent",
            InterfaceKind::AboveExternal => "above-external",
            InterfaceKind::Closed => "closed",
        }
    }
}

/// What is said about one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InterfaceOutcome {
    pub name: InterfaceName,
    pub kind: InterfaceKind,
    pub up: bool,
    pub carrier: bool,
    /// Addresses with their prefix as assigned.
    pub addresses: Vec<IpNet>,
    pub slot: Option<u16>,
    pub table: Option<u32>,
    pub gateway: Option<IpAddr>,
    #[serde(skip)]
    pub gateway_neighbour: Option<NeighbourState>,
    /// The external interfaces that it stands above and that close it.
    pub above: Vec<InterfaceName>,
    /// What is wrong with it, with the remedy; it alone is concerned.
    pub problem: Option<String>,
    /// What an operator should know of it although it works.
    pub notes: Vec<String>,
}

impl InterfaceOutcome {
    /// An interface of which no more is known than what it is.
    pub fn down(name: &str, kind: InterfaceKind) -> Self {
        InterfaceOutcome {
            name: name.to_owned(),
            kind,
            up: false,
            carrier: false,
            addresses: Vec::new(),
            slot: None,
            table: None,
            gateway: None,
            gateway_neighbour: None,
            above: Vec::new(),
            problem: None,
            notes: Vec::new(),
        }
    }

    /// An interface as its link is.
    pub(super) fn present(name: &str, kind: InterfaceKind, link: &Link) -> Self {
        let addresses = link.addresses.iter().filter_map(|a| IpNet::new(a.address, a.prefix_len).ok()).collect();
        InterfaceOutcome { up: link.up, carrier: link.carrier, addresses, ..Self::down(name, kind) }
    }
}

pub(super) fn refused(refusal: Refusal) -> MappingOutcome {
    MappingOutcome {
        generation: None,
        uid: None,
        refused: Some(refusal),
        programmed: Programmed {
            ok: false,
            reason: ProgrammedReason::NotAccepted,
            message: "refused; see the condition Accepted".to_owned(),
        },
        service_vip: None,
        configured: FewByKey::default(),
        endpoints: 0,
    }
}

pub(super) fn served_elsewhere(mapping: &ResolvedMapping, topology: &Topology) -> MappingOutcome {
    let addresses: Vec<String> = mapping.addresses.iter().map(IpAddr::to_string).collect();
    let mut message = format!("no external interface of this box serves {}", addresses.join(", "));
    for reason in unserved::reasons(&mapping.addresses, topology) {
        message = format!("{message}; {reason}");
    }
    MappingOutcome {
        generation: None,
        uid: None,
        refused: None,
        programmed: Programmed { ok: false, reason: ProgrammedReason::NoAddressHere, message },
        service_vip: mapping.service_vip,
        configured: FewByKey::default(),
        endpoints: 0,
    }
}

/// Nobody is served: the answers of the pods of a port arrive from outside.
pub(super) fn endpoints_outside((port, pod, interface): (String, IpAddr, &InterfaceName)) -> Programmed {
    Programmed {
        ok: false,
        reason: ProgrammedReason::EndpointsOutside,
        message: format!(
            "clients of {port} get no answer: the main table reaches {pod} through {interface}, which is not inside; is SNCTRLR_DEFAULT_GW_INTERFACE right, and is there a route to the pods by an inside interface?"
        ),
    }
}

/// Has addresses here, but may not be programmed yet.
pub(super) fn pending(local: &LocalMapping) -> MappingOutcome {
    MappingOutcome {
        generation: None,
        uid: None,
        refused: None,
        programmed: Programmed {
            ok: false,
            reason: ProgrammedReason::Pending,
            message: "about to be programmed: its finalizer and this router's entry are being written".to_owned(),
        },
        service_vip: local.mapping.service_vip,
        configured: local.addresses.iter().map(|(a, ..)| (*a, Vec::new())).collect(),
        endpoints: 0,
    }
}

pub(super) fn served_here(local: &LocalMapping, topology: &Topology, note: Option<String>) -> MappingOutcome {
    let mapping = local.mapping;
    let handled: Vec<(String, Handling)> = mapping
        .ports
        .iter()
        .map(|p| (format!("{}/{}", p.protocol, p.port), Handling::of(mapping, p, topology)))
        .collect();
    let ports = |wanted: Handling| -> String {
        let list: Vec<&str> = handled.iter().filter(|(_, h)| *h == wanted).map(|(p, _)| p.as_str()).collect();
        list.join(", ")
    };
    let with = |wanted: &dyn Fn(Handling) -> bool| -> Vec<&ResolvedPort> {
        mapping.ports.iter().zip(&handled).filter(|(_, (_, h))| wanted(*h)).map(|(p, _)| p).collect()
    };
    let endpoints = local.addresses.len() * mapping.ports.len();
    let unanswered = notes::unanswered(with(&|h| h == Handling::NoPods));
    let (ok, reason, message) = if handled.iter().any(|(_, h)| *h == Handling::ServiceUnreachable) {
        let vip = mapping.service_vip.map_or_else(|| "its ClusterIP".to_owned(), |a| a.to_string());
        let message = format!(
            "clients of {} are refused: {vip} is neither an address of this box nor routed other than by default; is kube-proxy up in IPVS mode here? Otherwise use mode direct",
            ports(Handling::ServiceUnreachable)
        );
        (false, ProgrammedReason::ServiceAddressNotLocal, message)
    } else if handled.iter().any(|(_, h)| *h == Handling::NoPods) {
        let message = format!(
            "clients of {} are refused: Service {} has no ready endpoint there{}",
            ports(Handling::NoPods),
            mapping.service,
            if unanswered.is_some() { " that can answer" } else { "" }
        );
        (false, ProgrammedReason::NoReadyEndpoints, message)
    } else {
        (true, ProgrammedReason::Programmed, format!("{endpoints} endpoints on this box"))
    };
    let unserved = unserved::reasons(&mapping.addresses, topology);
    let not_chosen = notes::not_chosen(mapping.mode, with(&|h| h != Handling::NoPods));
    let message = notes::with_notes(message, unanswered.into_iter().chain(not_chosen).chain(note).chain(unserved));
    let reached = mapping.ports.iter().zip(&handled);
    let pods: BTreeSet<IpAddr> = reached
        .filter(|(_, (_, h))| matches!(h, Handling::Pods | Handling::Service(_)))
        .flat_map(|(p, _)| p.backends.chosen.iter().map(|s| s.ip()))
        .collect();
    MappingOutcome {
        generation: None,
        uid: None,
        refused: None,
        programmed: Programmed { ok, reason, message },
        service_vip: mapping.service_vip,
        configured: local.addresses.iter().map(|(a, ..)| (*a, pods.iter().copied().collect())).collect(),
        endpoints,
    }
}

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::model::{InterfaceName, NeighbourState};

/// What is said about one Mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingOutcome {
    pub generation: Option<i64>,
    /// Why it is not served at all, if so.
    pub refused: Option<Refusal>,
    pub programmed: Programmed,
    pub service_vip: Option<IpAddr>,
    /// Addresses of this box that serve it, each with the pods behind it.
    pub configured: BTreeMap<IpAddr, Vec<IpAddr>>,
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
    Conflict,
    ServiceNotFound,
    ServicePortNotFound,
    ServiceNotSupported,
    Deleting,
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
    /// Refused; see `Accepted`.
    NotAccepted,
    /// None of its addresses is on an external interface of this box.
    NoAddressHere,
    /// Served, but clients are refused until a pod is ready.
    NoReadyEndpoints,
    /// Mode service: no route to the ClusterIP other than the default one.
    ServiceAddressNotLocal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InterfaceKind {
    /// The default gateway interface.
    Gateway,
    /// lo, the cluster interface, pod interfaces: everything that does not match the pattern.
    Inside,
    External,
    /// External, known by its slot, but not there now.
    Absent,
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
    /// What is wrong with it, with the remedy; it alone is concerned.
    pub problem: Option<String>,
}

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::MappingStatus;
use super::{rules, schema};

/// What a Mapping asks for. Nothing here is checked beyond its type: [`crate::plan::validate()`] does that and says what is wrong, because
/// an object that cannot be read would stop all others with it.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "smartnat.aureacentral.com",
    version = "v1alpha1",
    kind = "Mapping",
    plural = "mappings",
    namespaced,
    status = "MappingStatus",
    derive = "Default",
    derive = "PartialEq",
    shortname = "snmap",
    doc = "A Mapping makes the border routers forward `external address : port` to a Service of its namespace, for the client sources that it allows.",
    printcolumn = r#"{"name": "Addresses", "type": "string", "jsonPath": ".spec.addresses", "description": "External addresses that clients connect to"}"#,
    printcolumn = r#"{"name": "Ports", "type": "string", "jsonPath": ".spec.ports", "priority": 1, "description": "Ports that clients connect to"}"#,
    printcolumn = r#"{"name": "Service", "type": "string", "jsonPath": ".spec.serviceName", "description": "Service behind it"}"#,
    printcolumn = r#"{"name": "ClusterIP", "type": "string", "jsonPath": ".status.serviceVIP", "priority": 1, "description": "ClusterIP of the Service"}"#,
    printcolumn = r#"{"name": "Mode", "type": "string", "jsonPath": ".spec.mode", "description": "service: by the ClusterIP; direct: straight to the pods"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status", "description": "Whether it is valid and holds its endpoints"}"#,
    printcolumn = r#"{"name": "Programmed", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Programmed\")].status", "description": "Whether border routers serve it"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Programmed\")].reason", "description": "Why it is served or not, as a word"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name": "Message", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Programmed\")].message", "description": "Why it is served or not; last, because it can be long"}"#
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(
    description = "What the Mapping asks for.",
    extend("required" = ["addresses", "serviceName", "ports"]),
    transform = schema::drop_empty_defaults
)]
pub struct MappingSpec {
    /// External addresses that clients connect to, without a prefix length. Each border router serves those that are its own.
    #[serde(deserialize_with = "null_as_default")]
    #[schemars(schema_with = "schema::addresses")]
    pub addresses: Vec<String>,
    /// Who may connect: networks (CIDR) or single addresses. Missing or empty: everyone.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::allowed_sources")]
    pub allowed_sources: Vec<String>,
    /// Name of the Service, in the namespace of the Mapping.
    #[serde(deserialize_with = "null_as_default")]
    #[schemars(schema_with = "schema::service_name")]
    pub service_name: String,
    /// `service` (default): to the Service's ClusterIP, balanced by kube-proxy in IPVS mode on the router. `direct`: straight to its ready
    /// pods, without kube-proxy. Case does not matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::mode")]
    pub mode: Option<String>,
    /// Ports that clients connect to.
    #[serde(deserialize_with = "null_as_default")]
    #[schemars(schema_with = "schema::ports")]
    pub ports: Vec<MappingPort>,
}

/// How a Mapping reaches its pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MappingMode {
    /// To the ClusterIP; kube-proxy in IPVS mode on the router balances.
    #[default]
    Service,
    /// Straight to the ready endpoints of the Service.
    Direct,
}

impl MappingMode {
    pub fn as_str(self) -> &'static str {
        match self {
            MappingMode::Service => "service",
            MappingMode::Direct => "direct",
        }
    }
}

/// One port that clients connect to, and the Service port behind it.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules::port()), transform = schema::drop_empty_defaults)]
pub struct MappingPort {
    /// Port that clients connect to, 1 to 65535.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::port")]
    pub port: Option<i32>,
    /// The Service's port, by number or by name. Default: the same number as `port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::service_port")]
    pub service_port: Option<ServicePortRef>,
    /// `tcp` (default) or `udp`. Case does not matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::protocol")]
    pub protocol: Option<String>,
}

/// A Service port by number or by name; a quoted number is a name, as everywhere in Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "servicePort must be a number or the name of a Service port")]
pub enum ServicePortRef {
    Number(i32),
    Name(String),
}

/// An explicit `null` means the same as a missing field, as it does to the API server.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// What the border routers say about a Mapping.
///
/// Facts of one router stand in its entry of `instances` only. `invalid`, `serviceVIP` and `conditions` follow from the object and from
/// `instances`, so that every router arrives at the same values.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(description = "What the border routers say about the Mapping.")]
pub struct MappingStatus {
    /// `no`, or why the Mapping is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::message")]
    pub invalid: Option<String>,
    /// ClusterIP of the Service.
    #[serde(rename = "serviceVIP", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::address")]
    pub service_vip: Option<String>,
    /// Addresses that are served, each with the pods behind it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::configured_addresses")]
    pub configured_addresses: BTreeMap<String, MappingPodIps>,
    /// `Accepted` and `Programmed`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The generation that `conditions` speak of.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::generation")]
    pub observed_generation: Option<i64>,
    /// One entry per border router, by its name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::instances")]
    pub instances: Vec<MappingInstance>,
}

/// Pods behind one address.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default)]
pub struct MappingPodIps {
    /// Pods that new connections go to.
    #[serde(rename = "podIPs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::pod_ips")]
    pub pod_ips: Vec<String>,
}

/// What one border router has done for a Mapping.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]), transform = schema::drop_empty_defaults)]
pub struct MappingInstance {
    /// Name of the instance.
    #[schemars(schema_with = "schema::instance_name")]
    pub name: String,
    /// Whether it forwards clients to pods.
    pub programmed: bool,
    /// Why or why not, as a CamelCase word.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "schema::reason")]
    pub reason: String,
    /// Why or why not, as a sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "schema::message")]
    pub message: String,
    /// Addresses of this instance that serve the Mapping. The pods behind them stand in the status's `configuredAddresses` only, so that an
    /// object does not grow by all pods with every router.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        schema_with = "schema::instance_addresses",
        description = "Addresses of this instance that serve the Mapping."
    )]
    pub addresses: Vec<String>,
    /// The generation that this entry speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::generation")]
    pub observed_generation: Option<i64>,
    /// Since when the instance has not renewed its Lease; other instances write it. What the entry says is from before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub silent_since: Option<Time>,
}

//! A Mapping in which unknown fields are errors.
//!
//! kubectl refuses unknown fields, and the API server drops them; in a file there is nobody else to notice that `allowedSource` was meant
//! to be `allowedSources` and that everyone is allowed now. The resource's own type cannot be as strict: a field of a later version must
//! not make the watch of an older router fail.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use crate::api::{MappingPort, MappingSpec, ServicePortRef};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct StrictMapping {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    pub metadata: ObjectMeta,
    pub spec: StrictSpec,
    #[serde(rename = "status", default)]
    _status: serde::de::IgnoredAny,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct StrictSpec {
    addresses: Option<Vec<String>>,
    allowed_sources: Option<Vec<String>>,
    service_name: Option<String>,
    mode: Option<String>,
    ports: Option<Vec<StrictPort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StrictPort {
    port: Option<i32>,
    service_port: Option<ServicePortRef>,
    protocol: Option<String>,
}

impl From<StrictSpec> for MappingSpec {
    fn from(spec: StrictSpec) -> Self {
        MappingSpec {
            addresses: spec.addresses.unwrap_or_default(),
            allowed_sources: spec.allowed_sources.unwrap_or_default(),
            service_name: spec.service_name.unwrap_or_default(),
            mode: spec.mode,
            ports: spec.ports.unwrap_or_default().into_iter().map(MappingPort::from).collect(),
        }
    }
}

impl From<StrictPort> for MappingPort {
    fn from(port: StrictPort) -> Self {
        MappingPort { port: port.port, service_port: port.service_port, protocol: port.protocol }
    }
}

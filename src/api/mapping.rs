use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MappingSpec {
    pub addresses: Vec<String>,
    #[serde(default)]
    pub allowed_sources: Vec<String>,
    pub service_name: String,
    #[serde(default)]
    pub mode: MappingMode,
    pub ports: Vec<MappingPort>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MappingMode {
    #[default]
    Service,
    Direct,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MappingPort {
    pub port: Option<u16>,
    pub service_port: Option<ServicePortRef>,
    pub protocol: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ServicePortRef {
    Number(u16),
    Name(String),
}

/// Placeholders; the real type carries kube's derive.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MappingStatus {}
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Mapping {}

//! The Mapping resource of the Kubernetes API.

mod crd;
mod mapping;
mod rules;
mod schema;
mod status;
#[cfg(test)]
mod tests;

pub use crd::{crd, crd_yaml};
pub use mapping::{Mapping, MappingMode, MappingPort, MappingSpec, ServicePortRef};
pub use status::{MappingInstance, MappingPodIps, MappingStatus};

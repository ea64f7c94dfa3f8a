//! The Mapping resource of the Kubernetes API.

mod mapping;

pub use mapping::{Mapping, MappingMode, MappingPort, MappingSpec, MappingStatus, ServicePortRef};

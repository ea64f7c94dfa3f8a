use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::api::MappingStatus;
use crate::model::ObjectKey;

/// A Mapping as it stands in the API, without its spec: what decides about the next write to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub uid: String,
    pub resource_version: String,
    pub generation: Option<i64>,
    /// spec.addresses as written.
    pub addresses: Vec<String>,
    /// metadata.deletionTimestamp, by the API server's clock.
    pub deleting_since: Option<Timestamp>,
    /// [`super::FINALIZER`] is there.
    pub finalizer: bool,
    pub status: MappingStatus,
    /// Fields of the status belong to others than instances of this program: what the first SmartNat left, or somebody's edit. Server-side
    /// apply never removes those.
    pub foreign_status: bool,
}

/// What changed in the API.
#[derive(Debug, Clone)]
pub enum RecordEvent {
    /// A complete list: what is not in it is gone.
    All(BTreeMap<ObjectKey, Arc<Record>>),
    Set(ObjectKey, Arc<Record>),
    Gone(ObjectKey),
}

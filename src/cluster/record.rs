use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::DynamicObject;
use serde_json::Value;

use crate::api::{MappingInstance, MappingStatus};
use crate::model::ObjectKey;
use crate::sources::convert;

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
    pub finalizers: Vec<String>,
    pub status: MappingStatus,
    /// Fields of the status belong to others than instances of this program: what the first SmartNat left, or somebody's edit. Server-side
    /// apply never removes those.
    pub foreign_status: bool,
}

impl Record {
    /// `None` for an object without a name or uid, which the API server never sends. A status that cannot be read counts as foreign: it is
    /// written anew.
    pub fn of(object: &DynamicObject) -> Option<(ObjectKey, Record)> {
        let metadata = &object.metadata;
        let key = convert::key(metadata)?;
        let status = object.data.get("status").cloned().map(serde_json::from_value::<MappingStatus>);
        let unreadable = matches!(status, Some(Err(_)));
        let record = Record {
            uid: metadata.uid.clone()?,
            resource_version: metadata.resource_version.clone()?,
            generation: metadata.generation,
            addresses: strings(&object.data["spec"]["addresses"]),
            deleting_since: metadata.deletion_timestamp.as_ref().map(|t| t.0),
            finalizers: metadata.finalizers.clone().unwrap_or_default(),
            foreign_status: unreadable || metadata.managed_fields.iter().flatten().any(owns_status_as_foreigner),
            status: status.and_then(Result::ok).unwrap_or_default(),
        };
        Some((key, record))
    }

    /// [`super::FINALIZER`] is there.
    pub fn is_held_back(&self) -> bool {
        self.finalizers.iter().any(|f| f == super::FINALIZER)
    }

    /// What this instance said last.
    pub fn entry(&self, instance: &str) -> Option<&MappingInstance> {
        self.status.instances.iter().find(|i| i.name == instance)
    }
}

/// Whether a managedFields entry of somebody who is no instance holds fields of the status.
pub fn owns_status_as_foreigner(entry: &ManagedFieldsEntry) -> bool {
    let ours = entry.manager.as_deref().is_some_and(super::is_field_manager);
    !ours && entry.fields_v1.as_ref().is_some_and(|f| f.0.get("f:status").is_some())
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What changed in the API.
#[derive(Debug, Clone)]
pub enum RecordEvent {
    /// A complete list: what is not in it is gone.
    All(BTreeMap<ObjectKey, Arc<Record>>),
    Set(ObjectKey, Arc<Record>),
    Gone(ObjectKey),
}

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::DynamicObject;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::MappingStatus;
use crate::model::ObjectKey;
use crate::sources::convert;

/// A Mapping as it stands in the API, without its spec: what decides about the next write to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

    /// No other finalizer is there.
    pub fn is_held_back_by_us_alone(&self) -> bool {
        self.is_held_back() && self.finalizers.iter().all(|f| f == super::FINALIZER)
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

/// A [`Record`] as it is kept. There may be ten thousand, of which few are looked at: as text each takes a third of the memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRecord(Arc<str>);

impl KeptRecord {
    pub fn of(record: &Record) -> Self {
        // A record has nothing that JSON could not say.
        KeptRecord(serde_json::to_string(record).unwrap_or_default().into())
    }

    /// `None` never comes: it was written by [`Self::of`].
    pub fn open(&self) -> Option<Record> {
        serde_json::from_str(&self.0).ok()
    }

    /// Which object it is of, and which version of it; costs a fraction of [`Self::open`].
    pub fn head(&self) -> Option<Head<'_>> {
        serde_json::from_str(&self.0).ok()
    }
}

/// What tells one record from another.
#[derive(Debug, PartialEq, Deserialize)]
pub struct Head<'a> {
    #[serde(borrow)]
    pub uid: Cow<'a, str>,
    #[serde(borrow)]
    resource_version: Cow<'a, str>,
}

impl Head<'_> {
    /// Of the same object, and later in time. Versions that are no numbers have no order.
    pub fn is_newer_than(&self, other: &Head<'_>) -> bool {
        let version = |head: &Head<'_>| head.resource_version.parse::<u64>().ok();
        self.uid == other.uid && version(self) > version(other)
    }
}

/// What changed in the API.
#[derive(Debug, Clone)]
pub enum RecordEvent {
    /// A complete list: what is not in it is gone.
    All(BTreeMap<ObjectKey, KeptRecord>),
    Set(ObjectKey, KeptRecord),
    Gone(ObjectKey),
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;
    use crate::api::{MappingInstance, MappingPodIps};

    #[test]
    fn what_is_kept_of_a_record_is_all_of_it() {
        let entry = |name: &str, silent_since| MappingInstance {
            name: name.to_owned(),
            programmed: true,
            reason: "Programmed".to_owned(),
            message: "\"quoted\"\n\u{1b}".to_owned(),
            addresses: vec!["203.0.113.1".to_owned()],
            observed_generation: Some(3),
            silent_since,
        };
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        let record = Record {
            uid: "u".to_owned(),
            resource_version: "7".to_owned(),
            generation: Some(3),
            addresses: vec!["203.0.113.1".to_owned()],
            deleting_since: Some(at),
            finalizers: vec!["f".to_owned()],
            status: MappingStatus {
                conditions: vec![Condition {
                    type_: "Accepted".to_owned(),
                    status: "True".to_owned(),
                    reason: "Accepted".to_owned(),
                    message: String::new(),
                    observed_generation: Some(3),
                    last_transition_time: Time(at),
                }],
                invalid: Some("no".to_owned()),
                service_vip: Some(String::new()),
                configured_addresses: [("203.0.113.1".to_owned(), MappingPodIps { pod_ips: vec![] })].into(),
                observed_generation: Some(3),
                instances: vec![entry("a", None), entry("b", Some(Time(at))), MappingInstance::default()],
            },
            foreign_status: true,
        };
        assert_eq!(KeptRecord::of(&record).head().unwrap().uid, "u");
        assert_eq!(KeptRecord::of(&record).open(), Some(record));
        let nothing = Record {
            uid: String::new(),
            resource_version: String::new(),
            generation: None,
            addresses: vec![],
            deleting_since: None,
            finalizers: vec![],
            status: MappingStatus::default(),
            foreign_status: false,
        };
        assert_eq!(KeptRecord::of(&nothing).open(), Some(nothing));
    }
    #[test]
    fn of_two_records_of_one_object_the_newer_is_known_by_its_version_as_a_number() {
        let kept = |uid: &str, version: &str| {
            let text = serde_json::json!({"uid": uid, "resource_version": version, "later": [1]});
            KeptRecord(text.to_string().into())
        };
        let newer = |a: &KeptRecord, b: &KeptRecord| a.head().unwrap().is_newer_than(&b.head().unwrap());
        assert!(newer(&kept("u", "10"), &kept("u", "9")));
        assert!(!newer(&kept("u", "9"), &kept("u", "10")) && !newer(&kept("u", "9"), &kept("u", "9")));
        assert!(!newer(&kept("u", "10"), &kept("another\n", "9")), "another object of the name");
        assert!(!newer(&kept("u", "x"), &kept("u", "y")));
    }
}

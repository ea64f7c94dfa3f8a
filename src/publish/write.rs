//! One step, as requests to the API server.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::Status;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::decide::Step;
use crate::api::{Mapping, MappingStatus};
use crate::cluster::clock::{self, ClockError};
use crate::cluster::{FINALIZER, Record, Session, field_manager, owns_status_as_foreigner};
use crate::cluster::{explain, is_denied, lacks_right, remedy};
use crate::error_chain;
use crate::model::ObjectKey;

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The object is not any more what was known of it; the watch will tell.
    #[error("{0} was changed meanwhile")]
    Outdated(ObjectKey),
    #[error("Mapping {0} is gone")]
    Gone(ObjectKey),
    #[error("the API server did not answer within {} s", PATIENCE.as_secs())]
    Slow,
    #[error(
        "the API server refuses to let this instance {what}: {message}; apply deploy/rbac.yaml (kubectl apply -k deploy/)"
    )]
    Forbidden { what: &'static str, message: String },
    /// It is this object's alone: others are written all the same.
    #[error("the API server rejects what this instance writes to {what}, Mapping {key}: {message}")]
    Rejected { key: ObjectKey, what: &'static str, message: String },
    #[error(transparent)]
    Clock(#[from] ClockError),
    #[error("this instance could not {what}")]
    Failed { what: &'static str, source: kube::Error },
}

impl WriteError {
    /// In words for people.
    pub fn explain(&self, server: &str) -> String {
        match self {
            WriteError::Failed { source, .. } => format!("{self}: {}", explain(source, server)),
            _ => error_chain(self),
        }
    }
}

impl Step {
    /// Name in metrics; also what could not be done, after "this instance could not".
    pub fn kind(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Step::Nothing | Step::Wait(_) | Step::AskClock => None,
            Step::AddFinalizer => Some(("finalizer_add", "add the finalizer of a Mapping")),
            Step::DropForeign => Some(("status_adopt", "adopt the status of a Mapping")),
            Step::ClearSilence => Some(("status_clear", "take the mark of silence from the status of a Mapping")),
            Step::Apply(_) => Some(("status_apply", "apply the status of a Mapping")),
            Step::Release { .. } => Some(("finalizer_release", "remove the finalizer of a Mapping")),
        }
    }
}

/// Writes to Mappings under one field manager.
#[derive(Clone)]
pub struct Writer {
    pub session: Session,
    pub instance: String,
}

impl Writer {
    /// Takes a step that writes; gives the object as it is then.
    pub async fn take(&self, key: &ObjectKey, record: &Record, step: &Step) -> Result<Record, WriteError> {
        let what = step.kind().map_or("write", |(_, what)| what);
        let request = self.send(key, record, step);
        let answer = tokio::time::timeout(PATIENCE, request).await.map_err(|_| WriteError::Slow)?;
        let object = answer.map_err(|error| judge(key, step, what, error))?;
        Record::of(&object).map(|(_, record)| record).ok_or_else(|| WriteError::Outdated(key.clone()))
    }

    fn api(&self, key: &ObjectKey) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<Mapping>(&());
        Api::namespaced_with(self.session.client.clone(), &key.namespace, &resource)
    }

    async fn send(&self, key: &ObjectKey, record: &Record, step: &Step) -> kube::Result<DynamicObject> {
        let api = self.api(key);
        let manager = field_manager(&self.instance);
        let patch = PatchParams { field_manager: Some(manager.clone()), ..PatchParams::default() };
        let name = &*key.name;
        match step {
            Step::AddFinalizer => api.patch(name, &patch, &json_patch(add_finalizer(record))).await,
            Step::Release { .. } => api.patch(name, &patch, &json_patch(remove_finalizer(record))).await,
            Step::ClearSilence => {
                api.patch_status(name, &patch, &json_patch(clear_silence(record, &self.instance))).await
            }
            Step::DropForeign => {
                // The values first: once the ownership is gone nothing tells that they were foreign.
                let object = api.get(name).await?;
                let operations = drop_foreign_values(record, &object);
                let object = match operations.is_empty() {
                    true => object,
                    false => api.patch_status(name, &patch, &json_patch(operations)).await?,
                };
                // The status subresource does not take managedFields.
                api.patch(name, &patch, &json_patch(drop_foreign_ownership(&object))).await
            }
            Step::Apply(status) => {
                let body = apply_body(key, record, status, &self.instance);
                api.patch_status(name, &PatchParams::apply(&manager).force(), &Patch::Apply(body)).await
            }
            Step::Nothing | Step::Wait(_) | Step::AskClock => api.get(name).await,
        }
    }
}

fn judge(key: &ObjectKey, step: &Step, what: &'static str, error: kube::Error) -> WriteError {
    match &error {
        kube::Error::Api(status) => match status.code {
            // A policy, webhook or quota refused this object, under whatever code; others may pass.
            _ if is_denied(&status.message) => denied(key, what, status),
            403 if !lacks_right(&status.message) => denied(key, what, status),
            409 => WriteError::Outdated(key.clone()),
            // A test of a JSON patch did not hold (RFC 6902, 5). Other answers of that code are about what was sent.
            422 if !matches!(step, Step::Apply(_)) => WriteError::Outdated(key.clone()),
            404 => WriteError::Gone(key.clone()),
            400 | 413 | 422 => WriteError::Rejected { key: key.clone(), what, message: status.message.clone() },
            403 => WriteError::Forbidden { what, message: status.message.clone() },
            _ => WriteError::Failed { what, source: error },
        },
        _ => WriteError::Failed { what, source: error },
    }
}

fn denied(key: &ObjectKey, what: &'static str, status: &Status) -> WriteError {
    let message = format!("{}; {}", status.message.trim(), remedy(status));
    WriteError::Rejected { key: key.clone(), what, message }
}

/// RFC 6902. Always with tests of uid and resourceVersion: what was decided holds for that version only.
fn json_patch(operations: Vec<Value>) -> Patch<Value> {
    // The operations are made below, of the form that json_patch reads.
    Patch::Json(serde_json::from_value(Value::Array(operations)).expect("operations are well-formed"))
}

fn tests(record: &Record) -> Vec<Value> {
    vec![
        json!({"op": "test", "path": "/metadata/uid", "value": record.uid}),
        json!({"op": "test", "path": "/metadata/resourceVersion", "value": record.resource_version}),
    ]
}

fn add_finalizer(record: &Record) -> Vec<Value> {
    let mut operations = tests(record);
    operations.push(match record.finalizers.is_empty() {
        true => json!({"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER]}),
        false => json!({"op": "add", "path": "/metadata/finalizers/-", "value": FINALIZER}),
    });
    operations
}

fn remove_finalizer(record: &Record) -> Vec<Value> {
    let mut operations = tests(record);
    let indexes = record.finalizers.iter().enumerate().filter(|(_, f)| *f == FINALIZER).map(|(i, _)| i);
    // From the end: an index counts at the moment of its operation.
    for index in indexes.rev() {
        operations.push(json!({"op": "test", "path": format!("/metadata/finalizers/{index}"), "value": FINALIZER}));
        operations.push(json!({"op": "remove", "path": format!("/metadata/finalizers/{index}")}));
    }
    operations
}

fn clear_silence(record: &Record, instance: &str) -> Vec<Value> {
    let mut operations = tests(record);
    if let Some(index) = record.status.instances.iter().position(|i| i.name == instance) {
        let entry = format!("/status/instances/{index}");
        operations.push(json!({"op": "test", "path": format!("{entry}/name"), "value": instance}));
        operations.push(json!({"op": "remove", "path": format!("{entry}/silentSince")}));
    }
    operations
}

/// Of a foreign status, what no instance would ever write over or remove: server-side apply leaves alone what another manager owns.
fn drop_foreign_values(record: &Record, object: &DynamicObject) -> Vec<Value> {
    let status = &object.data["status"];
    if status.is_null() {
        return vec![];
    }
    let remove = |path: &str| json!({"op": "remove", "path": format!("/status{path}")});
    let mut operations = tests(record);
    let tests = operations.len();
    if serde_json::from_value::<MappingStatus>(status.clone()).is_err() {
        operations.push(remove(""));
        return operations;
    }
    operations.extend(status.get("serviceVIP").map(|_| remove("/serviceVIP")));
    for address in status["configuredAddresses"].as_object().into_iter().flat_map(|a| a.keys()) {
        if !record.status.instances.iter().any(|i| i.addresses.contains(address)) {
            // RFC 6901: foreign keys may hold its two special characters.
            operations.push(remove(&format!("/configuredAddresses/{}", address.replace('~', "~0").replace('/', "~1"))));
        }
    }
    if operations.len() == tests { vec![] } else { operations }
}

/// Takes ownership of the status from everyone who is no instance.
fn drop_foreign_ownership(object: &DynamicObject) -> Vec<Value> {
    let metadata = &object.metadata;
    let managed = metadata.managed_fields.clone().unwrap_or_default();
    let kept: Vec<ManagedFieldsEntry> = managed.into_iter().filter_map(without_foreign_status).collect();
    // An empty list would mean: leave them as they are. One empty entry takes all away.
    let kept = if kept.is_empty() { vec![ManagedFieldsEntry::default()] } else { kept };
    vec![
        json!({"op": "test", "path": "/metadata/uid", "value": metadata.uid}),
        json!({"op": "test", "path": "/metadata/resourceVersion", "value": metadata.resource_version}),
        json!({"op": "add", "path": "/metadata/managedFields", "value": kept}),
    ]
}

fn without_foreign_status(mut entry: ManagedFieldsEntry) -> Option<ManagedFieldsEntry> {
    if !owns_status_as_foreigner(&entry) {
        return Some(entry);
    }
    let fields = entry.fields_v1.as_mut()?.0.as_object_mut()?;
    fields.remove("f:status");
    (!fields.is_empty()).then_some(entry)
}

/// With the resourceVersion: what is said follows from what the others said in that version.
fn apply_body(key: &ObjectKey, record: &Record, status: &MappingStatus, instance: &str) -> Value {
    let mut status = json!(status);
    for entry in status.get_mut("instances").and_then(Value::as_array_mut).into_iter().flatten() {
        // Of another's entry only the mark.
        if entry["name"] != instance
            && let Some(entry) = entry.as_object_mut()
        {
            entry.retain(|field, _| field == "name" || field == "silentSince");
        }
    }
    json!({
        "apiVersion": "smartnat.aureacentral.com/v1alpha1",
        "kind": "Mapping",
        "metadata": {
            "name": key.name, "namespace": key.namespace, "uid": record.uid, "resourceVersion": record.resource_version,
        },
        "status": status,
    })
}

/// What time it is at least for the API server, and when that was: dates in HTTP are cut to the second, and this one is as old as its way
/// here was long.
pub async fn server_time(session: &Session) -> Result<(Timestamp, Instant), WriteError> {
    let time = clock::server_now(&session.client).await?;
    Ok((time, Instant::now()))
}

//! Takes an instance that is gone for good out of the API: its Lease, its part of every status, and what waited for it.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, Preconditions,
};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::explain::{is_denied, lacks_right, remedy};
use super::{FINALIZER, Record, field_manager, lease};
use crate::api::Mapping;
use crate::model::ObjectKey;

/// Longest time that one request may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often a Lease is looked at to see whether it changes.
const LOOK: Duration = Duration::from_millis(500);
/// Objects of one page of a list.
const PAGE: u32 = 500;
/// Steps of one Mapping: three, and again for each write of somebody else in between.
const STEPS: usize = 20;
/// Between two tries after somebody else's write.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    #[error(
        "instance {name} lives: its Lease {namespace}/{name} was renewed while it was watched, last at {renewed} (by its clock). Stop it \
         first, or see that its machine is off; --force forgets it all the same"
    )]
    Alive { namespace: String, name: String, renewed: String },
    #[error(
        "the API server does not let this user {what}: {message}; name an administrator's kubeconfig by --kubeconfig"
    )]
    Forbidden { what: String, message: String },
    #[error("the API server refuses to {what}: {message}")]
    Denied { what: String, message: String },
    #[error("could not {what}: no answer within {} s", PATIENCE.as_secs())]
    Slow { what: String },
    #[error("could not {what}")]
    Request { what: String, source: kube::Error },
    #[error("Mapping {0} is changed by others all the time ({STEPS} tries)")]
    Contended(ObjectKey),
}

/// Whom to forget.
#[derive(Clone)]
pub struct Forget {
    pub client: Client,
    /// Where the Leases are.
    pub namespace: String,
    pub name: String,
    /// For how long a Lease that does not say it is watched.
    pub duration: Duration,
}

/// What was there of an instance, and is there no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forgotten {
    pub lease: bool,
    pub mappings: Vec<ForgottenMapping>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForgottenMapping {
    pub key: ObjectKey,
    /// Its part of the status was removed.
    pub cleared: bool,
    /// It was being deleted, nobody holds it any more, and it is gone.
    pub released: bool,
}

/// All that the API shows of instances.
#[derive(Debug, Default)]
pub struct Known {
    lease: Option<Lease>,
    mappings: Vec<DynamicObject>,
    /// Names of instances in Leases and in statuses.
    pub names: BTreeSet<String>,
}

impl Known {
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }
}

impl Forget {
    /// Looks at all Leases and Mappings.
    pub async fn look(&self) -> Result<Known, ForgetError> {
        let mut known = Known::default();
        for lease in self.leases().await? {
            known.names.extend(lease.metadata.name.clone());
            if lease.metadata.name.as_deref() == Some(&self.name) {
                known.lease = Some(lease);
            }
        }
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &ApiResource::erase::<Mapping>(&()));
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list = within("list Mappings", api.list(&page)).await?;
            for object in list.items {
                let Some((_, record)) = Record::of(&object) else { continue };
                known.names.extend(record.status.instances.iter().map(|i| i.name.clone()));
                if self.next(&object, &record) != Next::Nothing {
                    known.mappings.push(object);
                }
            }
            match list.metadata.continue_.filter(|c| !c.is_empty()) {
                Some(next) => page = page.continue_token(&next),
                None => return Ok(known),
            }
        }
    }

    async fn leases(&self) -> Result<Vec<Lease>, ForgetError> {
        let labelled = ListParams::default().labels(&format!("{}={}", lease::LABEL, lease::PROGRAM));
        let what = format!("list Leases in namespace {}", self.namespace);
        Ok(within(&what, self.lease_api().list(&labelled)).await?.items)
    }

    fn lease_api(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// How long the Lease has to stand unchanged.
    pub fn watched_for(&self, lease: &Lease) -> Duration {
        lease::duration_of(lease.spec.as_ref(), self.duration)
    }

    /// Watches the Lease for its whole duration, as instances judge each other: clocks are not compared. An error as soon as it is renewed.
    pub async fn see_that_it_is_silent(&self, lease: &Lease) -> Result<(), ForgetError> {
        let end = tokio::time::Instant::now() + self.watched_for(lease);
        while tokio::time::Instant::now() < end {
            tokio::time::sleep(LOOK).await;
            let now = within("look at its Lease", self.lease_api().get_opt(&self.name)).await?;
            // Deleted by somebody else: nobody renewed it.
            let Some(now) = now else { return Ok(()) };
            if now.spec != lease.spec {
                return Err(self.alive(&now));
            }
        }
        Ok(())
    }

    fn alive(&self, lease: &Lease) -> ForgetError {
        let renewed = lease.spec.as_ref().and_then(|s| s.renew_time.as_ref());
        ForgetError::Alive {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            renewed: renewed.map_or_else(|| "an unknown time".to_owned(), |t| format!("{:.0}", t.0)),
        }
    }

    /// Removes it. Whatever of it was removed already is no error, so that it can be repeated after a failure.
    pub async fn remove(&self, known: Known, force: bool) -> Result<Forgotten, ForgetError> {
        let mut done = Forgotten::default();
        if let Some(lease) = &known.lease {
            done.lease = self.delete_lease(lease, force).await?;
        }
        for object in known.mappings {
            done.mappings.extend(self.clear(object).await?);
        }
        Ok(done)
    }

    /// First of all: with it goes what makes others write about this instance.
    async fn delete_lease(&self, lease: &Lease, force: bool) -> Result<bool, ForgetError> {
        let seen = Preconditions { uid: lease.uid(), resource_version: lease.resource_version() };
        let parameters = DeleteParams { preconditions: (!force).then_some(seen), ..DeleteParams::default() };
        match within("delete its Lease", self.lease_api().delete(&self.name, &parameters)).await {
            Ok(_) => Ok(true),
            Err(ForgetError::Request { source: kube::Error::Api(status), .. }) if status.code == 404 => Ok(false),
            Err(ForgetError::Request { source: kube::Error::Api(status), .. }) if status.code == 409 => {
                Err(self.alive(lease))
            }
            Err(error) => Err(error),
        }
    }

    /// One step after the other, each on the object as the one before left it.
    async fn clear(&self, mut object: DynamicObject) -> Result<Option<ForgottenMapping>, ForgetError> {
        let Some((key, _)) = Record::of(&object) else { return Ok(None) };
        let mut done = ForgottenMapping { key: key.clone(), cleared: false, released: false };
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &key.namespace, &ApiResource::erase::<Mapping>(&()));
        for _ in 0..STEPS {
            let Some((_, record)) = Record::of(&object) else { return Ok(None) };
            let next = self.next(&object, &record);
            if next == Next::Nothing {
                return Ok((done.cleared || done.released).then_some(done));
            }
            match within(&format!("write to Mapping {key}"), self.send(&api, &key, &record, &next)).await {
                Ok(after) => {
                    match next {
                        Next::Release(_) => done.released = true,
                        _ => done.cleared = true,
                    }
                    if done.released {
                        return Ok(Some(done));
                    }
                    object = after;
                }
                // 422: a test of a JSON patch did not hold (RFC 6902, 5).
                Err(ForgetError::Request { source: kube::Error::Api(status), .. })
                    if matches!(status.code, 409 | 422) =>
                {
                    tracing::debug!(mapping = %key, message = status.message, "changed meanwhile");
                    tokio::time::sleep(PAUSE).await;
                    match within(&format!("read Mapping {key}"), api.get_opt(&key.name)).await? {
                        Some(fresh) => object = fresh,
                        None => return Ok(done.cleared.then_some(done)),
                    }
                }
                Err(ForgetError::Request { source: kube::Error::Api(status), .. }) if status.code == 404 => {
                    return Ok(done.cleared.then_some(done));
                }
                Err(error) => return Err(error),
            }
        }
        Err(ForgetError::Contended(key))
    }

    fn next(&self, object: &DynamicObject, record: &Record) -> Next {
        let manager = field_manager(&self.name);
        let applied = object.metadata.managed_fields.iter().flatten().any(|entry| {
            entry.manager.as_deref() == Some(&manager)
                && entry.operation.as_deref() == Some("Apply")
                && entry.subresource.as_deref() == Some("status")
        });
        if applied {
            return Next::GiveUpFields;
        }
        if let Some(index) = record.status.instances.iter().position(|i| i.name == self.name) {
            return Next::RemoveEntry(index);
        }
        // Also one that nobody here knows of: a run that ended early may have left it. Addresses without an entry are the first SmartNat's,
        // which may still run.
        let nobody = record.status.instances.is_empty() && record.status.configured_addresses.is_empty();
        match record.finalizers.iter().position(|f| f == FINALIZER) {
            Some(index) if nobody && record.deleting_since.is_some() => Next::Release(index),
            _ => Next::Nothing,
        }
    }

    async fn send(
        &self,
        api: &Api<DynamicObject>,
        key: &ObjectKey,
        record: &Record,
        next: &Next,
    ) -> kube::Result<DynamicObject> {
        let patch = PatchParams { field_manager: Some(lease::PROGRAM.to_owned()), ..PatchParams::default() };
        match next {
            // What this manager alone applied goes, what others apply too stays; no other request knows the difference.
            Next::GiveUpFields => {
                let body = json!({
                    "apiVersion": "smartnat.aureacentral.com/v1alpha1",
                    "kind": "Mapping",
                    "metadata": ObjectMeta {
                        name: Some(key.name.to_string()),
                        namespace: Some(key.namespace.to_string()),
                        uid: Some(record.uid.clone()),
                        resource_version: Some(record.resource_version.clone()),
                        ..ObjectMeta::default()
                    },
                });
                let parameters = PatchParams::apply(&field_manager(&self.name)).force();
                api.patch_status(&key.name, &parameters, &Patch::Apply(body)).await
            }
            // Others have written into its entry since when it is silent, and hold it by that.
            Next::RemoveEntry(index) => {
                let path = format!("/status/instances/{index}");
                let test = json!({"op": "test", "path": format!("{path}/name"), "value": self.name});
                api.patch_status(&key.name, &patch, &remove(record, test, &path)).await
            }
            Next::Release(index) => {
                let path = format!("/metadata/finalizers/{index}");
                let test = json!({"op": "test", "path": path, "value": FINALIZER});
                api.patch(&key.name, &patch, &remove(record, test, &path)).await
            }
            Next::Nothing => api.get(&key.name).await,
        }
    }
}

/// The next step about one Mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Nothing,
    /// What it applied alone, by applying nothing.
    GiveUpFields,
    /// What is left of its entry, at this index.
    RemoveEntry(usize),
    /// The finalizer at this index: the Mapping is being deleted and nobody serves it.
    Release(usize),
}

/// Of this object in this version only.
fn remove(record: &Record, test: Value, path: &str) -> Patch<Value> {
    let operations = json!([
        {"op": "test", "path": "/metadata/uid", "value": record.uid},
        {"op": "test", "path": "/metadata/resourceVersion", "value": record.resource_version},
        test,
        {"op": "remove", "path": path},
    ]);
    Patch::Json(serde_json::from_value(operations).expect("operations are well-formed"))
}

async fn within<T>(what: &str, request: impl Future<Output = kube::Result<T>>) -> Result<T, ForgetError> {
    let what = || what.to_owned();
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 && lacks_right(&status.message) => {
            Err(ForgetError::Forbidden { what: what(), message: status.message })
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 403 || is_denied(&status.message) => {
            let message = format!("{}; {}", status.message.trim(), remedy(&status));
            Err(ForgetError::Denied { what: what(), message })
        }
        Ok(Err(source)) => Err(ForgetError::Request { what: what(), source }),
        Err(_) => Err(ForgetError::Slow { what: what() }),
    }
}

/// When a Lease was last renewed, by the clock of its holder.
pub fn renewed(lease: &Lease) -> Option<Timestamp> {
    lease.spec.as_ref()?.renew_time.as_ref().map(|t| t.0)
}

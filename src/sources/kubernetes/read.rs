use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams};
use serde::de::DeserializeOwned;

use super::watches::{self, PAGE};
use crate::api::Mapping;
use crate::cluster::{RequestError, Session, explain_request, within};
use crate::model::{ObjectKey, Objects};
use crate::sources::convert;

const PATIENCE: Duration = Duration::from_secs(30);

/// A list that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be listed: {reason}")]
pub struct ReadError {
    pub what: &'static str,
    pub reason: String,
    /// Told by the reason; here for who wants to look closer.
    pub error: RequestError,
}

/// The cluster's objects as they are now, for subcommands. Every Mapping counts as held: the daemon takes hold of what it serves.
pub async fn read(session: &Session) -> Result<Objects, ReadError> {
    let mut objects = Objects::default();
    let resource = ApiResource::erase::<Mapping>(&());
    let mapping = |object: &DynamicObject| Some((convert::key(&object.metadata)?, super::mapping::mapping(object)));
    objects.mappings.extend(shared(list(session, "Mappings", resource, "", mapping).await?));
    objects.services.extend(shared(list(session, "Services", (), "", watches::service).await?));
    let slices = list(session, "EndpointSlices", (), convert::SERVICE_NAME_LABEL, watches::slice).await?;
    objects.slices.extend(shared(slices));
    Ok(objects)
}

fn shared<T>(objects: Vec<(ObjectKey, T)>) -> impl Iterator<Item = (ObjectKey, Arc<T>)> {
    objects.into_iter().map(|(key, object)| (key, Arc::new(object)))
}

async fn list<K, T>(
    session: &Session,
    what: &'static str,
    kind: K::DynamicType,
    labels: &str,
    reduce: impl Fn(&K) -> Option<(ObjectKey, T)>,
) -> Result<Vec<(ObjectKey, T)>, ReadError>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug,
{
    let api = Api::<K>::all_with(session.client.clone(), &kind);
    let mut found = Vec::new();
    let mut params = ListParams::default().limit(PAGE).labels(labels);
    loop {
        let page = within(PATIENCE, api.list(&params)).await.map_err(|error| ReadError {
            what,
            reason: explain_request(&error, &session.server),
            error,
        })?;
        found.extend(page.items.iter().filter_map(&reduce));
        match page.metadata.continue_.filter(|c| !c.is_empty()) {
            Some(next) => params.continue_token = Some(next),
            None => return Ok(found),
        }
    }
}

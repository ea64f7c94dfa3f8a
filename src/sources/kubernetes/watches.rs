//! The three watches as tasks. Objects are reduced as they come; what is not used is never kept.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::{FutureExt, StreamExt};
use http::Request;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ApiResource;
use kube::client::Body;
use kube::core::Status;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::mapping::SeenMapping;
use super::working::Change;
use crate::api::Mapping;
use crate::cluster::{self, Session, WATCH_SECONDS};
use crate::model::{self, ObjectKey};
use crate::sources::convert::{self, Converted, SERVICE_NAME_LABEL};

/// Pauses after failures double between these; jitter adds up to as much again. What changed while the API was away is to be here within
/// five seconds of its return.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// A watch that lasted so long had begun well.
const LASTING: Duration = Duration::from_secs(1);
/// Objects per page of a list: what is in memory twice at a time.
pub(super) const PAGE: u32 = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    Mappings,
    Services,
    Slices,
}

impl Resource {
    pub const ALL: [Resource; 3] = [Resource::Mappings, Resource::Services, Resource::Slices];

    fn plural(self) -> &'static str {
        match self {
            Resource::Mappings => "mappings",
            Resource::Services => "services",
            Resource::Slices => "endpointslices",
        }
    }
}

/// What keeps a watch from working.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub what: String,
    pub remedy: &'static str,
}

impl Trouble {
    pub fn of(resource: Resource, error: &watcher::Error, server: &str) -> Trouble {
        let status = match error {
            watcher::Error::InitialListFailed(e)
            | watcher::Error::WatchStartFailed(e)
            | watcher::Error::WatchFailed(e) => match e {
                kube::Error::Api(status) => status,
                other => return Trouble { what: cluster::explain(other, server), remedy: "" },
            },
            watcher::Error::WatchError(status) => status,
            watcher::Error::NoResourceVersion => {
                let what = format!("{server} lists {} without a version; is it Kubernetes?", resource.plural());
                return Trouble { what, remedy: "" };
            }
        };
        match (status.code, resource) {
            (403, _) if cluster::lacks_right(&status.message) && !status.message.contains("\"system:anonymous\"") => {
                Trouble { what: format!("not allowed: {}", status.message), remedy: "apply deploy/rbac.yaml" }
            }
            (404, Resource::Mappings) => Trouble {
                what: format!("{server} knows no Mappings: their CustomResourceDefinition is not installed"),
                remedy: "kubectl apply -k deploy/",
            },
            (404, _) => Trouble {
                what: format!("{server} knows no {} in the version that this program reads", resource.plural()),
                remedy: "Kubernetes 1.31 is the oldest supported",
            },
            _ => Trouble { what: cluster::explain_status(status, server), remedy: "" },
        }
    }
}

/// What the watches say.
#[derive(Debug)]
pub(super) enum Notice {
    Mappings(Change<SeenMapping>),
    Services(Change<model::Service>),
    Slices(Change<model::EndpointSlice>),
    /// The API server has begun to send changes: nothing that happens from now on is missed.
    Watching(Resource),
    Failed(Resource, watcher::Error),
}

/// The tasks of one session; they end with it.
pub(super) struct Watches {
    notices: Option<mpsc::Receiver<Notice>>,
    _tasks: JoinSet<()>,
}

impl Watches {
    pub fn none() -> Self {
        Watches { notices: None, _tasks: JoinSet::new() }
    }

    pub fn begin(session: &Session) -> Self {
        let (sender, notices) = mpsc::channel(256);
        let mut tasks = JoinSet::new();
        let task = |resource| Task { resource, session: session.clone(), notices: sender.clone() };
        let mapping = ApiResource::erase::<Mapping>(&());
        let config = watcher::Config::default().timeout(WATCH_SECONDS).page_size(PAGE);
        tasks.spawn(task(Resource::Mappings).run(mapping, config.clone(), SeenMapping::of, Notice::Mappings));
        tasks.spawn(task(Resource::Services).run((), config.clone(), service, Notice::Services));
        let slices = config.labels(SERVICE_NAME_LABEL);
        tasks.spawn(task(Resource::Slices).run((), slices, slice, Notice::Slices));
        Watches { notices: Some(notices), _tasks: tasks }
    }

    /// Cancel safe. `None` when nothing will come.
    pub async fn next(&mut self) -> Option<Notice> {
        self.notices.as_mut()?.recv().await
    }
}

pub(super) fn service(service: &Service) -> Option<(ObjectKey, model::Service)> {
    let key = convert::key(&service.metadata)?;
    let Converted { object, dropped } = convert::service(service);
    tell_dropped("Service", &key, &dropped);
    Some((key, object))
}

pub(super) fn slice(slice: &EndpointSlice) -> Option<(ObjectKey, model::EndpointSlice)> {
    let key = convert::key(&slice.metadata)?;
    let Converted { object, dropped } = convert::endpoint_slice(slice)?;
    tell_dropped("EndpointSlice", &key, &dropped);
    Some((key, object))
}

fn tell_dropped(kind: &str, key: &ObjectKey, dropped: &[String]) {
    if !dropped.is_empty() {
        tracing::debug!(kind, object = %key, dropped = dropped.join("; "), "left out");
    }
}

struct Task {
    resource: Resource,
    session: Session,
    notices: mpsc::Sender<Notice>,
}

/// Nobody listens any more.
struct Hangup;

impl Task {
    async fn run<K, T>(
        self,
        kind: K::DynamicType,
        config: watcher::Config,
        reduce: fn(&K) -> Option<(ObjectKey, T)>,
        notice: fn(Change<T>) -> Notice,
    ) where
        K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        T: Send,
        K::DynamicType: Send + Sync,
    {
        let begun = Arc::new(Notify::new());
        let api = Api::<K>::all_with(observed(&self.session, Arc::clone(&begun)), &kind);
        let mut pauses = pauses();
        // A watcher that begins to watch from a version that is gone never lists again by itself: another one takes its place.
        while let Ok(pause) = self.watch(&api, &config, &begun, &mut pauses, reduce, notice).await {
            tokio::time::sleep(pause).await;
        }
    }

    /// Until the watch must begin anew, after a pause.
    async fn watch<K, T>(
        &self,
        api: &Api<K>,
        config: &watcher::Config,
        begun: &Notify,
        pauses: &mut Pauses,
        reduce: fn(&K) -> Option<(ObjectKey, T)>,
        notice: fn(Change<T>) -> Notice,
    ) -> Result<Duration, Hangup>
    where
        K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let mut events = pin!(watcher(api.clone(), config.clone()));
        let mut listing = BTreeMap::new();
        let mut outages = self.session.outages();
        // When the watch in force last showed that it is alive.
        let mut alive: Option<Instant> = None;
        loop {
            let event = tokio::select! {
                biased;
                () = begun.notified() => {
                    alive = Some(Instant::now());
                    *pauses = self::pauses();
                    self.send(Notice::Watching(self.resource)).await?;
                    continue;
                }
                event = events.next() => event,
                Ok(()) = outages.changed() => {
                    let noticed = *outages.borrow_and_update();
                    if alive.is_some_and(|alive| noticed.is_some_and(|noticed| alive < noticed)) {
                        tracing::debug!(resource = self.resource.plural(), "the watch is from before an outage; beginning anew");
                        return Ok(Duration::ZERO);
                    }
                    continue;
                }
            };
            if matches!(event, Some(Ok(_))) {
                alive = alive.map(|_| Instant::now());
            }
            let change = match event {
                Some(Ok(Event::Init)) => {
                    listing.clear();
                    continue;
                }
                Some(Ok(Event::InitApply(object))) => {
                    listing.extend(reduce(&object));
                    continue;
                }
                Some(Ok(Event::InitDone)) => Some(Change::All(std::mem::take(&mut listing))),
                Some(Ok(Event::Apply(object))) => match reduce(&object) {
                    Some((key, reduced)) => Some(Change::Set(key, reduced)),
                    None => convert::key(object.meta()).map(Change::Gone),
                },
                Some(Ok(Event::Delete(object))) => convert::key(object.meta()).map(Change::Gone),
                Some(Err(error)) => {
                    // It began, and failed at once.
                    let _ = begun.notified().now_or_never();
                    let lasted = alive.take().is_some_and(|alive| alive.elapsed() > LASTING);
                    let busy = self.session.busy_until().map(|until| until.saturating_duration_since(Instant::now()));
                    let pause = pauses.next().unwrap_or(LAST_PAUSE).max(busy.unwrap_or_default());
                    match gone(&error) {
                        Some(Gone::ListedAnew) => tracing::debug!(%error, "listing anew"),
                        Some(Gone::Stuck) => return Ok(pause),
                        // Connections end. Whether the API is away, the next try tells.
                        None if lasted && matches!(error, watcher::Error::WatchFailed(_)) => {}
                        None => self.failed(error).await?,
                    }
                    tokio::time::sleep(pause).await;
                    continue;
                }
                // A watcher does not end.
                None => return Err(Hangup),
            };
            if let Some(change) = change {
                self.send(notice(change)).await?;
            }
        }
    }

    async fn failed(&self, error: watcher::Error) -> Result<(), Hangup> {
        if status(&error).is_some_and(|s| s.code == 401) {
            self.session.credential_refused();
        }
        self.send(Notice::Failed(self.resource, error)).await
    }

    async fn send(&self, notice: Notice) -> Result<(), Hangup> {
        self.notices.send(notice).await.map_err(|_| Hangup)
    }
}

/// The version to watch from is not known any more.
enum Gone {
    ListedAnew,
    Stuck,
}

fn gone(error: &watcher::Error) -> Option<Gone> {
    let status = status(error)?;
    // etcd was set back to a backup: the version lies in its future.
    let ahead = status.code == 504 && status.message.contains("Too large resource version");
    match error {
        watcher::Error::WatchError(_) if status.code == 410 => Some(Gone::ListedAnew),
        // Lists are given up and begun anew by the watcher.
        watcher::Error::InitialListFailed(_) if status.code == 410 => Some(Gone::ListedAnew),
        _ if status.code == 410 || ahead => Some(Gone::Stuck),
        _ => None,
    }
}

fn status(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::WatchError(status) => Some(status),
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status),
        _ => None,
    }
}

type Pauses = backon::ExponentialBackoff;

fn pauses() -> Pauses {
    let builder = ExponentialBuilder::default().with_min_delay(FIRST_PAUSE).with_max_delay(LAST_PAUSE);
    builder.with_factor(2.0).with_jitter().without_max_times().build()
}

/// The session's client, which tells when a watch has begun: a watcher says nothing until something changes, so its recovery would not be
/// seen.
fn observed(session: &Session, begun: Arc<Notify>) -> Client {
    let session = session.clone();
    let namespace = session.client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (session, begun) = (session.clone(), Arc::clone(&begun));
        async move {
            let is_watch = request.uri().query().is_some_and(|q| q.split('&').any(|p| p == "watch=true"));
            let answer = session.client.send(request).await?;
            if answer.status().is_success() {
                session.credential_accepted();
                if is_watch {
                    begun.notify_one();
                }
            }
            Ok::<_, kube::Error>(answer)
        }
    });
    Client::new(service, namespace)
}

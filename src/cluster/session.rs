use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use http::{HeaderMap, Response, StatusCode};
use kube::Client;
use kube::client::ClientBuilder;
use kube::config::{InClusterError, KubeconfigError};
use tokio::sync::watch;
use tower::BoxError;
use tower::timeout::TimeoutLayer;
use tower::util::{MapRequestLayer, MapResultLayer};

use super::config::{self, Setup};
use super::plugin::PluginError;
use super::proxy::{ProxyError, Way};
use super::renewal::Renewal;
use crate::settings::ObjectSource;

/// For the connection and its TLS handshake. A server that is not there must not keep its return waiting, one that is slow must be heard.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Until an answer begins.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two reads of one connection. A watch may be silent until its own end, after [`WATCH_SECONDS`].
const READ_TIMEOUT: Duration = Duration::from_secs(90);
/// The API server is left alone for no longer, whatever it asks for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);
/// Watches end by themselves after so long.
pub const WATCH_SECONDS: u32 = 60;

/// A way to the API server with credentials as they were when it was made.
#[derive(Clone)]
pub struct Session {
    pub client: Client,
    /// URL of the server, for people, with the proxy that leads there.
    pub server: String,
    /// Directly or through a proxy.
    pub way: Way,
    refused: Refusals,
    outage: Outage,
    busy: Busy,
}

impl Session {
    /// Until when the API server asked, by `Retry-After`, to be left alone; `None` if it did not, or when that is over.
    pub fn busy_until(&self) -> Option<Instant> {
        self.busy.until()
    }

    /// To be told of every answer 401. A client keeps a credential until it expires; when it is refused for long, a new one is got.
    pub fn credential_refused(&self) {
        self.refused.note();
    }

    /// To be told when an answer shows that the credential is good.
    pub fn credential_accepted(&self) {
        self.refused.forget();
    }

    /// Every time that an answer ends an outage, when that outage was noticed. A connection from before it may be dead without a sign.
    pub fn outages(&self) -> watch::Receiver<Option<Instant>> {
        self.outage.ended.subscribe()
    }

    /// How long the credential has been refused by now.
    pub(super) fn refused_for(&self) -> Duration {
        self.refused.lasting()
    }
}

/// Since when a credential is refused.
#[derive(Clone, Default)]
struct Refusals(Arc<Mutex<Option<Instant>>>);

impl Refusals {
    fn note(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
    }

    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn lasting(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// The API server has too much to do, and says when to come again.
#[derive(Clone, Default)]
struct Busy(Arc<Mutex<Option<Instant>>>);

impl Busy {
    fn saw(&self, code: StatusCode, headers: &HeaderMap) {
        if !matches!(code, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            return;
        }
        let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
        let Some(pause) = seconds.map(|s| Duration::from_secs(s).min(LONGEST_RETRY_AFTER)) else { return };
        let mut until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *until = (*until).max(Some(Instant::now() + pause));
    }

    fn until(&self) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).filter(|until| Instant::now() < *until)
    }
}

/// Requests that brought no answer, of whatever task.
#[derive(Clone)]
struct Outage {
    noticed: Arc<Mutex<Option<Instant>>>,
    ended: watch::Sender<Option<Instant>>,
}

impl Outage {
    fn new() -> Self {
        Outage { noticed: Arc::default(), ended: watch::Sender::new(None) }
    }

    fn saw(&self, answered: bool) {
        let mut noticed = self.noticed.lock().unwrap_or_else(PoisonError::into_inner);
        if !answered {
            noticed.get_or_insert_with(Instant::now);
        } else if let Some(noticed) = noticed.take() {
            self.ended.send_replace(Some(noticed));
        }
    }
}

/// The session in force; `None` while there is none (no usable kubeconfig yet). A new one takes its place when credentials change.
pub type Sessions = watch::Receiver<Option<Session>>;

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "no source of objects: name the kubeconfig of the cluster by --kubeconfig FILE or KUBECONFIG, or a directory of manifests by \
         --manifests DIR or SNCTRLR_MANIFESTS; in a pod neither is needed"
    )]
    NoSource,
    #[error(
        "the kubeconfig {files} cannot be used; make it anew with deploy/kubeconfig.sh, or name another by --kubeconfig or KUBECONFIG"
    )]
    Kubeconfig { files: String, source: KubeconfigError },
    #[error(
        "this pod's ServiceAccount cannot be used; set automountServiceAccountToken, or name a kubeconfig by --kubeconfig or KUBECONFIG"
    )]
    InCluster(#[from] InClusterError),
    #[error("the token file {} cannot be used; put a token there that the cluster accepts", .file.display())]
    TokenFile { file: PathBuf, source: std::io::Error },
    #[error("no client can be made for the API server {server}")]
    Client { server: String, source: kube::Error },
    #[error("the credential plugin for the API server {server} gave no credential; run it by hand")]
    Plugin { server: String, source: PluginError },
    #[error(
        "the user for the API server {server} asks the program `{command}` by an auth-provider, which Kubernetes has given up; name it as an \
         exec plugin, or make a new kubeconfig by deploy/kubeconfig.sh"
    )]
    Provider { server: String, command: String },
    #[error(
        "the certificate authority of the kubeconfig holds no certificate; correct certificate-authority in {files}"
    )]
    Authority { files: String, source: rustls::pki_types::pem::Error },
    #[error("the API server cannot be asked through a proxy; correct the kubeconfig's proxy-url or the environment")]
    Proxy(#[from] ProxyError),
}

/// Reads the configuration and makes a client. Sends nothing.
pub async fn connect(source: &ObjectSource) -> Result<Session, ConnectError> {
    Ok(open(config::read(source).await?).await?.0)
}

pub(super) async fn open(setup: Setup) -> Result<(Session, Renewal), ConnectError> {
    let server = setup.server();
    let Setup { mut config, token_file, way, .. } = setup;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    // Every task has its own pace; fifteen tries that double would keep one silent for minutes.
    config.default_retry = false;
    let renewal = Renewal::begin(&mut config.auth_info, token_file, &server).await?;
    let builder = ClientBuilder::try_from(config)
        .map_err(|source| ConnectError::Client { server: server.clone(), source })?
        .with_layer(&TimeoutLayer::new(ANSWER_TIMEOUT));
    let outage = Outage::new();
    let busy = Busy::default();
    let (seen, told) = (outage.clone(), busy.clone());
    let builder = builder.with_layer(&MapResultLayer::new(move |result: Result<Response<_>, BoxError>| {
        seen.saw(result.is_ok());
        if let Ok(answer) = &result {
            told.saw(answer.status(), answer.headers());
        }
        result
    }));
    let client = match renewal.bearer().cloned() {
        None => builder.build(),
        Some(token) => builder.with_layer(&MapRequestLayer::new(move |request| token.sign(request))).build(),
    };
    Ok((Session { client, server, way, refused: Refusals::default(), outage, busy }, renewal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_with_too_much_to_do_is_left_alone_for_as_long_as_it_says() {
        let seconds = |code: u16, value: Option<&str>| {
            let busy = Busy::default();
            let headers = value.map(|value| (RETRY_AFTER, value.parse().unwrap())).into_iter().collect();
            busy.saw(StatusCode::from_u16(code).unwrap(), &headers);
            busy.until().map(|until| (until - Instant::now()).as_secs_f64().ceil())
        };
        assert_eq!(seconds(429, Some("3")), Some(3.0));
        assert_eq!(seconds(503, Some("1")), Some(1.0));
        assert_eq!(seconds(429, Some("86400")), Some(60.0));
        for (code, value) in [(429, None), (429, Some("soon")), (429, Some("0")), (200, Some("3")), (500, Some("3"))] {
            assert_eq!(seconds(code, value), None, "{code} {value:?}");
        }
    }
}

use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::sync::watch;

use crate::settings::ObjectSource;

/// A server that is not there must not keep its return waiting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A way to the API server with credentials as they were when it was made.
#[derive(Clone)]
pub struct Session {
    pub client: Client,
    /// URL of the server, for people.
    pub server: String,
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
    #[error("no client can be made for the API server {server}")]
    Client { server: String, source: kube::Error },
}

/// Reads the configuration and makes a client. Sends nothing.
pub async fn connect(source: &ObjectSource) -> Result<Session, ConnectError> {
    let mut config = config(source).await?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(|source| ConnectError::Client { server: server.clone(), source })?;
    Ok(Session { client, server })
}

async fn config(source: &ObjectSource) -> Result<Config, ConnectError> {
    let files = match source {
        ObjectSource::Kubeconfig(files) => files,
        ObjectSource::InCluster => return Ok(Config::incluster()?),
        ObjectSource::None | ObjectSource::Manifests(_) => return Err(ConnectError::NoSource),
    };
    let failed = |source| {
        let names: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
        ConnectError::Kubeconfig { files: names.join(", "), source }
    };
    let mut merged = Kubeconfig::default();
    for file in files {
        merged = Kubeconfig::read_from(file).and_then(|next| merged.merge(next)).map_err(failed)?;
    }
    Config::from_custom_kubeconfig(merged, &KubeConfigOptions::default()).await.map_err(failed)
}

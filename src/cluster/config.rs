use std::path::{Path, PathBuf};

use kube::Config;
use kube::config::{AuthInfo, Cluster, ExecAuthCluster, Kubeconfig, KubeconfigError};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use super::ConnectError;
use super::proxy::{self, Way};
use crate::settings::ObjectSource;

/// What is known about the way to the API server before anything is sent.
pub(super) struct Setup {
    /// Without the token file, which is read by [`super::token`].
    pub config: Config,
    pub token_file: Option<PathBuf>,
    /// Directly or through a proxy; `config` says the same.
    pub way: Way,
    /// Of the files' content. A client keeps what it read of them; another content needs another client.
    pub fingerprint: [u8; 32],
}

impl Setup {
    /// URL of the server, for people, with the proxy that leads there.
    pub fn server(&self) -> String {
        let url = self.config.cluster_url.to_string();
        let url = url.trim_end_matches('/');
        if self.way.proxy.is_some() { format!("{url} {}", self.way) } else { url.to_owned() }
    }
}

/// Reads kubeconfig or ServiceAccount. Blocks shortly: these are small local files.
pub(super) async fn read(source: &ObjectSource) -> Result<Setup, ConnectError> {
    let mut files = Vec::new();
    let mut proxy_url = None;
    let mut config = match source {
        ObjectSource::Kubeconfig(named) => {
            files.extend(named.iter().cloned());
            let names = || named.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ");
            let failed = |source| ConnectError::Kubeconfig { files: names(), source };
            let mut merged = Kubeconfig::default();
            for file in named {
                merged = Kubeconfig::read_from(file).and_then(|next| merged.merge(next)).map_err(failed)?;
            }
            let chosen = Chosen::of(&merged).map_err(failed)?;
            files.extend(chosen.cluster.certificate_authority.as_ref().map(PathBuf::from));
            proxy_url.clone_from(&chosen.cluster.proxy_url);
            let authorities = chosen.authorities().map_err(failed)?;
            let mut config = chosen.into_config().map_err(failed)?;
            config.root_cert = match authorities {
                None => None,
                Some(pem) => {
                    Some(certificates(&pem).map_err(|source| ConnectError::Authority { files: names(), source })?)
                }
            };
            config
        }
        ObjectSource::InCluster => Config::incluster()?,
        ObjectSource::None | ObjectSource::Manifests(_) => return Err(ConnectError::NoSource),
    };
    files.extend(config.root_cert_file.iter().cloned());
    files.extend(identity_files(&config.auth_info));
    let token_file = token_file(&mut config.auth_info);
    let way = proxy::choose(&config.cluster_url, proxy_url.as_deref(), |name| std::env::var(name).ok())?;
    config.proxy_url.clone_from(&way.proxy);
    Ok(Setup { config, token_file, way, fingerprint: fingerprint(&files) })
}

/// What the current context of a kubeconfig chooses. The client's own reading asks the environment for proxies by rules of its own, and
/// fails on what it does not know there.
struct Chosen {
    namespace: Option<String>,
    cluster: Cluster,
    user: AuthInfo,
}

impl Chosen {
    fn of(kubeconfig: &Kubeconfig) -> Result<Self, KubeconfigError> {
        let current = kubeconfig.current_context.as_ref().ok_or(KubeconfigError::CurrentContextNotSet)?;
        let context = kubeconfig.contexts.iter().find(|c| &c.name == current).and_then(|c| c.context.as_ref());
        let context = context.ok_or_else(|| KubeconfigError::LoadContext(current.clone()))?;
        let cluster = kubeconfig.clusters.iter().find(|c| c.name == context.cluster).and_then(|c| c.cluster.clone());
        let cluster = cluster.ok_or_else(|| KubeconfigError::LoadClusterOfContext(context.cluster.clone()))?;
        // As for kubectl, a user that is missing is nobody.
        let named = |name: &String| kubeconfig.auth_infos.iter().find(|u| &u.name == name);
        let user = context.user.as_ref().and_then(named).and_then(|u| u.auth_info.clone()).unwrap_or_default();
        Ok(Chosen { namespace: context.namespace.clone(), cluster, user })
    }

    /// Certificates of authorities, PEM.
    fn authorities(&self) -> Result<Option<Vec<u8>>, KubeconfigError> {
        Ok(ExecAuthCluster::try_from(&self.cluster)?.certificate_authority_data)
    }

    fn into_config(self) -> Result<Config, KubeconfigError> {
        let Chosen { namespace, cluster, mut user } = self;
        if let Some(exec) = user.exec.as_mut().filter(|exec| exec.provide_cluster_info) {
            exec.cluster = Some(ExecAuthCluster::try_from(&cluster)?);
        }
        let url = cluster.server.ok_or(KubeconfigError::MissingClusterUrl)?;
        let mut config = Config::new(url.parse().map_err(KubeconfigError::ParseClusterUrl)?);
        config.default_namespace = namespace.unwrap_or(config.default_namespace);
        config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or_default();
        config.disable_compression = cluster.disable_compression.unwrap_or_default();
        config.tls_server_name = cluster.tls_server_name;
        config.auth_info = user;
        Ok(config)
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, rustls::pki_types::pem::Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).map(|c| c.map(|c| c.to_vec())).collect();
    found.and_then(|list| if list.is_empty() { Err(rustls::pki_types::pem::Error::NoItemsFound) } else { Ok(list) })
}

/// Certificate and key of the client, where they stand in files of their own.
fn identity_files(user: &AuthInfo) -> impl Iterator<Item = PathBuf> {
    [&user.client_certificate, &user.client_key].into_iter().flatten().map(PathBuf::from)
}

/// Takes the token file out of a user that would use it: a token in the kubeconfig itself comes first.
fn token_file(user: &mut AuthInfo) -> Option<PathBuf> {
    let file = user.token_file.take()?;
    (user.token.is_none() && user.username.is_none()).then(|| PathBuf::from(file))
}

fn fingerprint(files: &[PathBuf]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for file in files {
        // A file that cannot be read is told by whoever needs it.
        let content = std::fs::read(file).unwrap_or_default();
        digest.update(file.as_os_str().as_encoded_bytes());
        digest.update(content.len().to_be_bytes());
        digest.update(content);
    }
    digest.finalize().into()
}

/// The client certificate as PEM.
pub(super) fn client_certificate(user: &AuthInfo) -> Option<Vec<u8>> {
    use base64::Engine;
    match (&user.client_certificate_data, &user.client_certificate) {
        (Some(data), _) => base64::engine::general_purpose::STANDARD.decode(data.trim()).ok(),
        (None, Some(file)) => std::fs::read(Path::new(file)).ok(),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
        let file = dir.join(name);
        std::fs::write(&file, text).unwrap();
        file
    }

    fn kubeconfig(user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: 'https://10.0.0.1:6443', insecure-skip-tls-verify: true}}}}]\n\
             users: [{{name: u, user: {user}}}]\n"
        )
    }

    #[tokio::test]
    async fn another_content_of_a_named_file_is_another_fingerprint_but_not_that_of_a_token() {
        let dir = tempfile::tempdir().unwrap();
        let user = "{client-certificate: cert.pem, client-key: key.pem, tokenFile: token}";
        let source = ObjectSource::Kubeconfig(vec![write(dir.path(), "config", &kubeconfig(user))]);
        for file in ["cert.pem", "key.pem", "token"] {
            write(dir.path(), file, "one");
        }
        let first = read(&source).await.unwrap();
        assert_eq!(first.token_file, Some(dir.path().join("token")));
        write(dir.path(), "token", "two");
        assert_eq!(read(&source).await.unwrap().fingerprint, first.fingerprint);
        write(dir.path(), "key.pem", "two");
        assert_ne!(read(&source).await.unwrap().fingerprint, first.fingerprint);
    }

    #[tokio::test]
    async fn a_token_in_the_kubeconfig_comes_before_a_token_file() {
        let dir = tempfile::tempdir().unwrap();
        let source =
            ObjectSource::Kubeconfig(vec![write(dir.path(), "config", &kubeconfig("{token: t, tokenFile: token}"))]);
        let setup = read(&source).await.unwrap();
        assert_eq!(setup.token_file, None);
        assert!(setup.config.auth_info.token.is_some());
    }

    #[tokio::test]
    async fn a_bad_kubeconfig_is_named_with_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("none");
        let missing = read(&ObjectSource::Kubeconfig(vec![file.clone()])).await.err().unwrap();
        let text = crate::error_chain(&missing);
        assert!(text.contains(file.to_str().unwrap()) && text.contains("No such file"), "{text}");
        let bad = write(dir.path(), "bad", "clusters: [");
        assert!(matches!(
            read(&ObjectSource::Kubeconfig(vec![bad])).await.err().unwrap(),
            ConnectError::Kubeconfig { .. }
        ));
    }
}

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

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
    /// Of all files, that of the token too.
    pub signs: Signs,
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
    let fingerprint = fingerprint(&files);
    files.extend(token_file.clone());
    Ok(Setup { config, token_file, way, fingerprint, signs: Signs::of(files) })
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

/// What tells files from what they were without reading them.
#[derive(Debug, Clone, Default)]
pub(super) struct Signs {
    files: Vec<(PathBuf, Option<Sign>)>,
    /// None of them was changed just before: two changes in a row can have the same time.
    settled: bool,
}

type Sign = (u64, u64, u64, i64, i64);

/// Far longer than two changes that have the same time are apart.
const SETTLED: Duration = Duration::from_secs(2);

impl Signs {
    /// Of files that were read just now.
    fn of(files: Vec<PathBuf>) -> Self {
        Signs::taken(files, SystemTime::now())
    }

    fn taken(files: Vec<PathBuf>, now: SystemTime) -> Self {
        let files: Vec<_> =
            files.into_iter().map(|file| (sign(&file), file)).map(|(sign, file)| (file, sign)).collect();
        let until = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().saturating_sub(SETTLED);
        let until = i64::try_from(until.as_secs()).unwrap_or_default();
        let settled = files.iter().filter_map(|(_, sign)| *sign).all(|(.., changed, _)| changed < until);
        Signs { files, settled }
    }

    /// Whether all files are what they were.
    pub fn stand(&self) -> bool {
        self.settled && self.files.iter().all(|(file, known)| sign(file) == *known)
    }
}

fn sign(file: &Path) -> Option<Sign> {
    let m = std::fs::metadata(file).ok()?;
    Some((m.dev(), m.ino(), m.size(), m.ctime(), m.ctime_nsec()))
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

    #[test]
    fn signs_stand_until_a_file_is_another_and_do_not_say_so_of_one_that_was_just_written() {
        let dir = tempfile::tempdir().unwrap();
        let (file, other) = (write(dir.path(), "a", "one"), write(dir.path(), "b", "one"));
        assert!(!Signs::of(vec![file.clone()]).stand(), "the next write may have the same time");
        let missing = Signs::of(vec![dir.path().join("missing")]);
        assert!(missing.stand());
        write(dir.path(), "missing", "text");
        assert!(!missing.stand());
        let later = SystemTime::now() + SETTLED * 2;
        let signs = Signs::taken(vec![file.clone()], later);
        assert!(signs.stand());
        // Of the same size, by a link to another file.
        std::fs::rename(other, &file).unwrap();
        assert!(!signs.stand());
    }

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

use std::path::{Path, PathBuf};

use kube::Config;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, NamedCluster};
use sha2::{Digest, Sha256};

use super::ConnectError;
use crate::settings::ObjectSource;

/// What is known about the way to the API server before anything is sent.
pub(super) struct Setup {
    /// Without the token file, which is read by [`super::token`].
    pub config: Config,
    pub token_file: Option<PathBuf>,
    /// Of the files' content. A client keeps what it read of them; another content needs another client.
    pub fingerprint: [u8; 32],
}

/// Reads kubeconfig or ServiceAccount. Blocks shortly: these are small local files.
pub(super) async fn read(source: &ObjectSource) -> Result<Setup, ConnectError> {
    let mut files = Vec::new();
    let mut config = match source {
        ObjectSource::Kubeconfig(named) => {
            files.extend(named.iter().cloned());
            let failed = |source| {
                let names: Vec<String> = named.iter().map(|f| f.display().to_string()).collect();
                ConnectError::Kubeconfig { files: names.join(", "), source }
            };
            let mut merged = Kubeconfig::default();
            for file in named {
                merged = Kubeconfig::read_from(file).and_then(|next| merged.merge(next)).map_err(failed)?;
            }
            files.extend(authorities(&merged));
            Config::from_custom_kubeconfig(merged, &KubeConfigOptions::default()).await.map_err(failed)?
        }
        ObjectSource::InCluster => Config::incluster()?,
        ObjectSource::None | ObjectSource::Manifests(_) => return Err(ConnectError::NoSource),
    };
    files.extend(config.root_cert_file.iter().cloned());
    files.extend(identity_files(&config.auth_info));
    let token_file = token_file(&mut config.auth_info);
    Ok(Setup { config, token_file, fingerprint: fingerprint(&files) })
}

/// Certificate and key of the client, where they stand in files of their own.
fn identity_files(user: &AuthInfo) -> impl Iterator<Item = PathBuf> {
    [&user.client_certificate, &user.client_key].into_iter().flatten().map(PathBuf::from)
}

/// The file of the certificate authority that the current context's cluster names.
fn authorities(kubeconfig: &Kubeconfig) -> Option<PathBuf> {
    let current = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|c| &c.name == current)?.context.as_ref()?;
    let NamedCluster { cluster, .. } = kubeconfig.clusters.iter().find(|c| c.name == context.cluster)?;
    cluster.as_ref()?.certificate_authority.as_ref().map(PathBuf::from)
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

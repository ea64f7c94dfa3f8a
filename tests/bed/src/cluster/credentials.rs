use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cluster::{ControlPlane, Credential};

/// Namespace of the daemon's ServiceAccount and Leases.
const SYSTEM: &str = "smartnat-system";

/// Kubeconfigs and what stands in them.
impl ControlPlane {
    /// For user `admin`, who may do everything.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.dir().join("admin.kubeconfig")
    }

    /// For a ServiceAccount, `NAMESPACE/NAME` or a name in `smartnat-system`, with a token for an hour. The account must exist.
    #[track_caller]
    pub fn kubeconfig_for(&self, service_account: &str) -> PathBuf {
        let token = self.token(service_account, 3600);
        self.kubeconfig(&json!({"token": token}))
    }

    /// A token of a ServiceAccount, as [`ControlPlane::kubeconfig_for`] uses. The API server grants ten minutes at least.
    #[track_caller]
    pub fn token(&self, service_account: &str, seconds: u32) -> String {
        let (namespace, name) = service_account.split_once('/').unwrap_or((SYSTEM, service_account));
        self.kubectl(&["create", "token", "-n", namespace, name, "--duration", &format!("{seconds}s")])
            .trim()
            .to_owned()
    }

    /// The files of a ServiceAccount as a pod finds them, with a token for an hour.
    #[track_caller]
    pub fn pod_files(&self, service_account: &str) -> PathBuf {
        let dir = self.dir().join(format!("pod-{}", self.next_number()));
        let authority = self.authority.credential().certificate;
        let write = || {
            fs::create_dir(&dir)?;
            fs::write(dir.join("token"), self.token(service_account, 3600))?;
            fs::write(dir.join("namespace"), SYSTEM)?;
            fs::copy(authority, dir.join("ca.crt")).map(drop)
        };
        write().expect("the control plane's directory can be written");
        dir
    }

    /// A new kubeconfig with this as its `user` (`{"token": ...}`, `{"tokenFile": ...}`, `{"exec": ...}` and so on).
    #[track_caller]
    pub fn kubeconfig(&self, user: &Value) -> PathBuf {
        self.write_kubeconfig(&format!("{}", self.next_number()), user)
    }

    /// The `user` of a kubeconfig that shows a certificate.
    pub fn certificate_user(&self, credential: &Credential) -> Value {
        json!({"client-certificate": credential.certificate, "client-key": credential.key})
    }

    /// A client certificate for a user, signed by the CA that the API server trusts: `/O=group/CN=user`.
    #[track_caller]
    pub fn client_certificate(&self, subject: &str) -> Credential {
        let name = format!("client-{}", self.next_number());
        self.authority.issue(&name, subject, &["extendedKeyUsage=clientAuth"])
    }

    /// The CA of clients and of the API server's own certificate.
    pub fn authority(&self) -> Credential {
        self.authority.credential()
    }

    #[track_caller]
    pub(super) fn write_kubeconfig(&self, name: &str, user: &Value) -> PathBuf {
        let path = self.dir().join(format!("{name}.kubeconfig"));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "bed",
            "clusters": [{"name": "bed", "cluster": {
                "server": self.server(), "certificate-authority": self.authority().certificate,
            }}],
            "users": [{"name": "bed", "user": user}],
            "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": "bed"}}],
        });
        std::fs::write(&path, config.to_string()).expect("the harness' directory can be written");
        path
    }
}

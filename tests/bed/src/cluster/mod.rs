//! A real Kubernetes control plane: etcd and kube-apiserver in a network namespace of their own.
//!
//! [`ControlPlane::for_bed`] puts it beside a bed's cluster router, where the border boxes reach it at [`ControlPlane::ADDRESS`]. A test
//! that needs neither a bed nor an outage uses [`ControlPlane::shared`] and namespaces of its own within it.
//!
//! There is no kubelet and no controller-manager (but see [`ControlPlane::run_controllers`]): EndpointSlices are written by hand,
//! nothing collects garbage, and ClusterRoles that are put together from others (`edit`, `view`) stay empty.

mod api;
mod audit;
mod binaries;
mod credentials;
mod outage;
mod pki;
mod process;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

pub use audit::{AuditEntry, Mark};
pub use binaries::{binary, version};
pub use pki::{Authority, Credential};

use crate::http::Call;
use crate::wait::eventually_within;
use crate::{Bed, Layout, Namespace, reaper};
use process::Process;

/// Starting takes two seconds on an idle machine.
const START: Duration = Duration::from_secs(90);
const ETCD_PORT: u16 = 2379;
/// Of `kubectl proxy`, the harness' own way in: plain HTTP on the namespace's loopback, as admin.
const PROXY_PORT: u16 = 8001;

/// etcd and kube-apiserver with RBAC, an audit log, and a certificate authority. Gone when dropped, after a panic or a signal too.
pub struct ControlPlane {
    // Dropped first to last: processes before their files and their namespace.
    api: Process,
    etcd: Process,
    proxy: Process,
    controllers: Process,
    authority: Authority,
    /// Of the files that are made as they are asked for.
    number: Mutex<u32>,
    dir: TempDir,
    namespace: Namespace,
}

impl ControlPlane {
    /// Where the API server listens, in its own namespace and for every bed that it is connected to.
    pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 2);
    pub const PORT: u16 = 6443;
    /// ClusterIPs come from here.
    pub const SERVICE_RANGE: &'static str = "10.96.0.0/16";
    const CORE_END: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 1);

    /// Starts one and waits until it serves.
    #[track_caller]
    pub fn start() -> ControlPlane {
        ControlPlane::start_with(&[])
    }

    /// As [`ControlPlane::start`], with more arguments for kube-apiserver.
    #[track_caller]
    pub fn start_with(arguments: &[&str]) -> ControlPlane {
        let prefix = format!("{}-api", reaper::new_prefix());
        let namespace = Namespace::create(prefix.clone());
        namespace.ip(&format!("address add {}/32 dev lo", Self::ADDRESS));
        // The reaper knows it by its name, as it knows namespaces.
        let dir = tempfile::Builder::new().prefix(&format!("{prefix}-")).tempdir();
        let dir = dir.expect("a temporary directory can be made");
        let path = dir.path();
        std::fs::create_dir(path.join("home")).expect("a directory can be made in a new one");
        std::fs::write(path.join("audit-policy.yaml"), audit::POLICY).expect("a new directory can be written");

        let etcd = Process::new("etcd", etcd_arguments(path), path);
        etcd.start(&namespace);
        let authority = Authority::create(path);
        let serving = format!(
            "subjectAltName=IP:{},IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes.default.svc",
            Self::ADDRESS
        );
        let serving = authority.issue("serving", "/CN=kube-apiserver", &[&serving, "extendedKeyUsage=serverAuth"]);
        let admin = authority.issue("admin", "/O=system:masters/CN=admin", &["extendedKeyUsage=clientAuth"]);
        let service_accounts = authority.signing_key("service-accounts");
        let mut api = api_arguments(path, &authority.credential(), &serving, &service_accounts);
        api.extend(arguments.iter().map(|&a| a.to_owned()));
        let control = ControlPlane {
            api: Process::new("kube-apiserver", api, path),
            etcd,
            proxy: Process::new("kubectl", proxy_arguments(path), path),
            controllers: Process::new(
                "kube-controller-manager",
                controllers_arguments(path, &authority.credential()),
                path,
            ),
            authority,
            number: Mutex::new(0),
            dir,
            namespace,
        };
        control.write_kubeconfig("admin", &control.certificate_user(&admin));
        control.start_api();
        control
    }

    /// Starts one that the bed's border boxes reach through `core`.
    #[track_caller]
    pub fn for_bed(bed: &Bed) -> ControlPlane {
        let control = ControlPlane::start();
        control.connect(bed);
        control
    }

    /// One for all tests of a process that do nothing destructive to it; it lives as long as the process.
    pub fn shared() -> &'static ControlPlane {
        static SHARED: OnceLock<ControlPlane> = OnceLock::new();
        SHARED.get_or_init(ControlPlane::start)
    }

    fn connect(&self, bed: &Bed) {
        self.connect_to(&bed.core);
        if bed.options.layout == Layout::SameSubnet {
            bed.border.ip(&format!("route add {} via {} dev eth0", Self::ADDRESS, Bed::SAME_CORE));
        }
    }

    /// A cable to a router of somebody's own making.
    #[track_caller]
    pub fn connect_to(&self, router: &Namespace) {
        router.ip(&format!(
            "link add name api up type veth peer name bed netns {}\naddress add {} peer {} dev api",
            self.namespace.name(),
            Self::CORE_END,
            Self::ADDRESS
        ));
        let core = Self::CORE_END;
        self.namespace.ip(&format!("link set bed up\nroute add {core} dev bed\nroute add default via {core} dev bed"));
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// `https://ADDRESS:PORT`.
    pub fn server(&self) -> String {
        format!("https://{}:{}", Self::ADDRESS, Self::PORT)
    }

    /// A directory for what a test needs beside it; gone with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts kube-controller-manager with two controllers alone, unless it runs: one signs the certificates of approved requests, one
    /// puts ClusterRoles such as `edit` together.
    #[track_caller]
    pub fn run_controllers(&self) {
        self.controllers.ensure(&self.namespace);
    }

    /// This moment: what is asked for from now on comes after it.
    #[track_caller]
    pub fn audit_mark(&self) -> Mark {
        let name = format!("audit-mark-{}", self.next_number());
        let object = serde_json::json!({"metadata": {"name": name}}).to_string();
        let (_, offset) = audit::read(&self.audit_log(), 0);
        self.request("POST", "/api/v1/namespaces/default/configmaps?dryRun=All", "application/json", &object);
        eventually_within(START, "the audit log has come so far", || {
            let (entries, _) = audit::read(&self.audit_log(), offset);
            let own = entries.into_iter().find(|e| e.name == name)?;
            Some(Mark { offset, received: own.received })
        })
    }

    /// Every request for a change that was received since then and answered, refused ones too.
    #[track_caller]
    pub fn writes_since(&self, mark: &Mark) -> Vec<AuditEntry> {
        let (mut entries, _) = audit::read(&self.audit_log(), mark.offset);
        entries.retain(|e| e.received > mark.received);
        entries
    }

    fn audit_log(&self) -> PathBuf {
        self.dir.path().join("audit.log")
    }

    #[track_caller]
    fn await_ready(&self) {
        eventually_within(START, "the API server is ready", || {
            self.etcd.assert_runs();
            self.api.assert_runs();
            self.proxy.assert_runs();
            let ready = Call::get("/readyz").send(&self.namespace, PROXY_PORT).ok()?.code == 200;
            // Made by the API server itself, a moment later.
            let namespace = || Call::get("/api/v1/namespaces/default").send(&self.namespace, PROXY_PORT).ok();
            // What a definition brings is served a moment later still, and answered with 429 until then; without the definition it is 404.
            let mappings = || Call::get("/apis/smartnat.aureacentral.com/v1alpha1/mappings?limit=1");
            let served = || mappings().send(&self.namespace, PROXY_PORT).ok();
            (ready && namespace()?.code == 200 && matches!(served()?.code, 200 | 404)).then_some(())
        });
    }

    fn next_number(&self) -> u32 {
        let mut number = self.number.lock().unwrap_or_else(PoisonError::into_inner);
        *number += 1;
        *number
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        for process in [&self.controllers, &self.proxy, &self.api, &self.etcd] {
            process.kill();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.api.log_end());
        }
    }
}

fn etcd_arguments(dir: &Path) -> Vec<String> {
    let client = format!("http://127.0.0.1:{ETCD_PORT}");
    let peer = "http://127.0.0.1:2380";
    vec![
        format!("--data-dir={}", dir.join("etcd").display()),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
    ]
}

fn api_arguments(dir: &Path, authority: &Credential, serving: &Credential, service_accounts: &Path) -> Vec<String> {
    let key = service_accounts.display();
    vec![
        format!("--etcd-servers=http://127.0.0.1:{ETCD_PORT}"),
        format!("--service-cluster-ip-range={}", ControlPlane::SERVICE_RANGE),
        format!("--secure-port={}", ControlPlane::PORT),
        format!("--advertise-address={}", ControlPlane::ADDRESS),
        format!("--tls-cert-file={}", serving.certificate.display()),
        format!("--tls-private-key-file={}", serving.key.display()),
        format!("--client-ca-file={}", authority.certificate.display()),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={key}"),
        format!("--service-account-signing-key-file={key}"),
        "--authorization-mode=RBAC".to_owned(),
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--profiling=false".to_owned(),
        format!("--audit-policy-file={}", dir.join("audit-policy.yaml").display()),
        format!("--audit-log-path={}", dir.join("audit.log").display()),
    ]
}

fn proxy_arguments(dir: &Path) -> Vec<String> {
    let kubeconfig = dir.join("admin.kubeconfig");
    vec![format!("--kubeconfig={}", kubeconfig.display()), "proxy".to_owned(), format!("--port={PROXY_PORT}")]
}

fn controllers_arguments(dir: &Path, authority: &Credential) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", dir.join("admin.kubeconfig").display()),
        "--controllers=certificatesigningrequest-signing-controller,clusterrole-aggregation-controller".to_owned(),
        format!("--cluster-signing-cert-file={}", authority.certificate.display()),
        format!("--cluster-signing-key-file={}", authority.key.display()),
        "--leader-elect=false".to_owned(),
    ]
}

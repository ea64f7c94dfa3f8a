use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{ControlPlane, PROXY_PORT, binary};
use crate::eventually;
use crate::http::Call;

/// Kinds that tests deal with, and where their objects are.
const KINDS: [(&str, &str, bool); 15] = [
    ("mapping", "apis/smartnat.aureacentral.com/v1alpha1", true),
    ("service", "api/v1", true),
    ("endpointslice", "apis/discovery.k8s.io/v1", true),
    ("configmap", "api/v1", true),
    ("secret", "api/v1", true),
    ("pod", "api/v1", true),
    ("serviceaccount", "api/v1", true),
    ("lease", "apis/coordination.k8s.io/v1", true),
    ("event", "apis/events.k8s.io/v1", true),
    ("daemonset", "apis/apps/v1", true),
    ("namespace", "api/v1", false),
    ("node", "api/v1", false),
    ("clusterrole", "apis/rbac.authorization.k8s.io/v1", false),
    ("certificatesigningrequest", "apis/certificates.k8s.io/v1", false),
    ("customresourcedefinition", "apis/apiextensions.k8s.io/v1", false),
];

/// The admin's ways to the objects: `kubectl`, and for what is done often, plain requests that need no process each.
impl ControlPlane {
    /// `kubectl` as admin; its output.
    ///
    /// # Panics
    /// When it fails, with its stderr.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).unwrap_or_else(|e| panic!("kubectl {}: {e}", arguments.join(" ")))
    }

    /// As [`ControlPlane::kubectl`]; a failure is an `Err` with its stderr.
    #[track_caller]
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        self.kubectl_as(&self.admin_kubeconfig(), arguments, "")
    }

    /// `kubectl` with another kubeconfig, and a text on its standard input.
    #[track_caller]
    pub fn kubectl_as(&self, kubeconfig: &Path, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = Command::new(binary("kubectl"));
        command.args(arguments).env("KUBECONFIG", kubeconfig);
        let Output { status, stdout, stderr } = self.run(&mut command, input);
        if status.success() {
            return Ok(String::from_utf8_lossy(&stdout).into_owned());
        }
        Err(String::from_utf8_lossy(&stderr).into_owned())
    }

    /// Runs a command in the control plane's namespace, with `kubectl` of its version in the path, the admin's kubeconfig unless another
    /// is set, and a home directory of its own: kubectl caches by address, which is the same for all control planes.
    #[track_caller]
    pub fn run(&self, command: &mut Command, input: &str) -> Output {
        let own = |name: &str| command.get_envs().any(|(key, _)| key == name);
        if !own("KUBECONFIG") {
            command.env("KUBECONFIG", self.admin_kubeconfig());
        }
        let programs = binary("kubectl").parent().map(Path::to_owned).unwrap_or_default();
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let path = std::iter::once(programs).chain(std::env::split_paths(&inherited).collect::<Vec<PathBuf>>());
        command.env("PATH", std::env::join_paths(path).expect("no directory here has a colon in its name"));
        command.env("HOME", self.dir().join("home"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            self.namespace.within(|| command.spawn()).unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read its input closes it early; its exit code decides.
            _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output().expect("a child can be waited for")
    }

    /// `kubectl apply --server-side` of objects as YAML or JSON.
    #[track_caller]
    pub fn apply(&self, objects: impl ToString) -> String {
        self.try_apply(objects).unwrap_or_else(|e| panic!("kubectl apply: {e}"))
    }

    /// As [`ControlPlane::apply`]; a refusal is an `Err` with what kubectl said.
    #[track_caller]
    pub fn try_apply(&self, objects: impl ToString) -> Result<String, String> {
        let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.kubectl_as(&self.admin_kubeconfig(), &arguments, &objects.to_string())
    }

    /// Any request as admin, without a process: its HTTP status and what was answered (JSON, or text as a JSON string).
    ///
    /// # Panics
    /// When the harness' own way in is gone; an API server that is away is a 500 or 502.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, content_type: &str, body: &str) -> (u16, Value) {
        let call = Call { method, path, content_type, body, timeout: Duration::from_secs(30) };
        let reply = call.send(&self.namespace, PROXY_PORT).unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        let value = serde_json::from_str(&reply.body).unwrap_or(Value::String(reply.body));
        (reply.code, value)
    }

    /// An object; kinds as `mapping`, `service`, `lease` (see the source for all; else there is `kubectl`). The namespace of a kind that
    /// has none is ignored.
    #[track_caller]
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Value {
        self.try_get(kind, namespace, name).unwrap_or_else(|| panic!("there is no {kind} {namespace}/{name}"))
    }

    /// As [`ControlPlane::get`]; `None` when there is no such object.
    #[track_caller]
    pub fn try_get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let (code, value) = self.request("GET", &object_path(kind, namespace, name), "application/json", "");
        match code {
            200 => Some(value),
            404 => None,
            _ => panic!("GET {kind} {namespace}/{name}: {code} {value}"),
        }
    }

    /// All objects of a kind in a namespace.
    #[track_caller]
    pub fn list(&self, kind: &str, namespace: &str) -> Vec<Value> {
        let (code, value) = self.request("GET", &object_path(kind, namespace, ""), "application/json", "");
        assert_eq!(code, 200, "list of {kind} in {namespace}: {value}");
        value["items"].as_array().cloned().unwrap_or_default()
    }

    /// Creates one object in its own namespace; quicker than [`ControlPlane::apply`]. The `Err` is the HTTP status and the API server's message.
    #[track_caller]
    pub fn try_create(&self, object: &Value) -> Result<Value, (u16, String)> {
        let kind = object["kind"].as_str().expect("an object has a kind").to_lowercase();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        let path = object_path(&kind, namespace, "");
        let (code, answer) = self.request("POST", &path, "application/json", &object.to_string());
        if code == 201 { Ok(answer) } else { Err((code, answer["message"].as_str().unwrap_or_default().to_owned())) }
    }

    /// Creates many objects, one after the other; those that are there already stay as they are.
    #[track_caller]
    pub fn create_all(&self, objects: impl IntoIterator<Item = Value>) {
        for object in objects {
            match self.try_create(&object) {
                Ok(_) | Err((409, _)) => {}
                Err((code, message)) => panic!("{code} {message}: {object}"),
            }
        }
    }

    /// As [`ControlPlane::try_create`]; panics with the API server's message.
    #[track_caller]
    pub fn create(&self, object: &Value) -> Value {
        self.try_create(object).unwrap_or_else(|(code, message)| panic!("{code} {message}: {object}"))
    }

    /// A namespace of a test's own.
    #[track_caller]
    pub fn create_namespace(&self, name: &str) {
        self.create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    }

    /// A merge patch; the object as it is then.
    #[track_caller]
    pub fn patch(&self, kind: &str, namespace: &str, name: &str, patch: &Value) -> Value {
        let path = object_path(kind, namespace, name);
        let (code, value) = self.request("PATCH", &path, "application/merge-patch+json", &patch.to_string());
        assert_eq!(code, 200, "patch of {kind} {namespace}/{name}: {value}");
        value
    }

    /// Asks for the deletion of an object, which a finalizer may hold up.
    #[track_caller]
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let (code, value) = self.request("DELETE", &object_path(kind, namespace, name), "application/json", "");
        assert!(code == 200 || code == 202, "deletion of {kind} {namespace}/{name}: {code} {value}");
    }

    /// `kubectl apply -k deploy/`: the CustomResourceDefinition, the rights and the daemon's ServiceAccount.
    #[track_caller]
    pub fn install(&self) {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
        self.kubectl(&["apply", "-k", &deploy.to_string_lossy()]);
        eventually("the API server serves Mappings", || {
            let path = "/apis/smartnat.aureacentral.com/v1alpha1/mappings";
            (self.request("GET", path, "application/json", "").0 == 200).then_some(())
        });
    }
}

#[track_caller]
fn object_path(kind: &str, namespace: &str, name: &str) -> String {
    let known = KINDS.iter().find(|(known, ..)| *known == kind);
    let (kind, group, namespaced) = known.unwrap_or_else(|| panic!("the harness does not know {kind}: use kubectl()"));
    let within = if *namespaced { format!("namespaces/{namespace}/") } else { String::new() };
    let name = if name.is_empty() { String::new() } else { format!("/{name}") };
    format!("/{group}/{within}{kind}s{name}")
}

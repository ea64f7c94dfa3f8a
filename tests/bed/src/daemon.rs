use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{Call, Reply};
use crate::{Bed, Manifests, Namespace, eventually};

const PORT: u16 = 8080;

/// Runs its further arguments as a container would. `ip netns exec` gives a mount namespace of its own.
const CONTAINED: &str = r#"
mount --bind "$0" "$0"
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -o remount,bind,ro /
exec setpriv --bounding-set=-all,+net_admin,+net_raw --inh-caps=-all --ambient-caps=-all --no-new-privs "$@"
"#;

/// `ip netns exec` gives a mount namespace of its own, so nobody else sees this.
const IN_POD: &str = r#"
files=/run/secrets/kubernetes.io/serviceaccount
mount -t tmpfs none /run
mkdir -p $files
mount --bind "$0" $files
exec "$@"
"#;

/// Where its objects come from.
#[derive(Debug)]
enum Source {
    Manifests(PathBuf),
    Kubeconfig(PathBuf),
    /// A directory with the files that a pod finds of its ServiceAccount.
    Pod(PathBuf),
}

impl Source {
    fn arguments(&self) -> Vec<&std::ffi::OsStr> {
        match self {
            Source::Manifests(dir) => vec!["--manifests".as_ref(), dir.as_os_str()],
            Source::Kubeconfig(file) => vec!["--kubeconfig".as_ref(), file.as_os_str()],
            Source::Pod(_) => vec![],
        }
    }
}

/// `smartnat-manager` in the namespace of a border box. Killed when dropped; its log is printed when the test fails.
pub struct Daemon<'a> {
    bed: &'a Bed,
    namespace: &'a Namespace,
    program: PathBuf,
    settings: BTreeMap<String, String>,
    source: Source,
    machine_id: Option<String>,
    contained: bool,
    own_pids: bool,
    state: TempDir,
    child: Option<Child>,
}

impl<'a> Daemon<'a> {
    /// A daemon with the bed's settings, not yet started. The periodic look at the kernel is left at its minute: what a test sees
    /// earlier came from an event.
    pub fn new(bed: &'a Bed, program: &str, manifests: &Manifests) -> Daemon<'a> {
        Daemon::from(bed, program, Source::Manifests(manifests.dir().to_owned()))
    }

    /// As [`Daemon::new`], with the Kubernetes API as its source.
    pub fn with_kubeconfig(bed: &'a Bed, program: &str, kubeconfig: &Path) -> Daemon<'a> {
        Daemon::from(bed, program, Source::Kubeconfig(kubeconfig.to_owned()))
    }

    /// As in a pod: nothing but the kubelet's environment and the ServiceAccount's files (`files`: token, ca.crt, namespace) say where the
    /// API server at `server` is.
    pub fn in_pod(bed: &'a Bed, program: &str, server: SocketAddrV4, files: &Path) -> Daemon<'a> {
        Daemon::from(bed, program, Source::Pod(files.to_owned()))
            .set("KUBERNETES_SERVICE_HOST", &server.ip().to_string())
            .set("KUBERNETES_SERVICE_PORT", &server.port().to_string())
    }

    fn from(bed: &'a Bed, program: &str, source: Source) -> Daemon<'a> {
        let settings = [
            ("SNCTRLR_DEFAULT_GW_INTERFACE", "eth0"),
            ("SNCTRLR_INTERFACES_PATTERN", "eth[1-9][0-9]*"),
            ("SNCTRLR_MONITOR_PORT", "8080"),
            ("SNCTRLR_INSTANCE_NAME", "border"),
            ("SNCTRLR_DEBUG_ENABLED", "true"),
        ];
        Daemon {
            bed,
            namespace: &bed.border,
            program: PathBuf::from(program),
            settings: settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            source,
            machine_id: None,
            contained: false,
            own_pids: false,
            state: tempfile::tempdir().expect("a temporary directory can be made"),
            child: None,
        }
    }

    /// Puts it on the second border box, as instance `border2`.
    ///
    /// # Panics
    /// When the bed was built without one.
    #[must_use]
    #[track_caller]
    pub fn on_second(mut self) -> Self {
        self.namespace = self.bed.second();
        self.set("SNCTRLR_INSTANCE_NAME", "border2")
    }

    /// Another machine id than that of this host (32 hexadecimal digits), seen by the daemon alone.
    #[must_use]
    pub fn machine_id(mut self, id: &str) -> Self {
        self.machine_id = Some(id.to_owned());
        self
    }

    /// The daemon (not its subcommands) has what the DaemonSet's container gives it: two capabilities, no way to more, a root and kernel
    /// parameters that are read-only. What is a mount of its own on this host stays as it is.
    #[must_use]
    pub fn contained(mut self) -> Self {
        self.contained = true;
        self
    }

    /// The daemon and its subcommands have a pid namespace of their own, as in a container without `hostPID`.
    #[must_use]
    pub fn own_pids(mut self) -> Self {
        self.own_pids = true;
        self
    }

    /// Sets an environment variable for the next start.
    #[must_use]
    pub fn set(mut self, variable: &str, value: &str) -> Self {
        self.settings.insert(variable.to_owned(), value.to_owned());
        self
    }

    /// Looks at the kernel every second.
    #[must_use]
    pub fn refreshing(self) -> Self {
        self.set("SNCTRLR_AUTOREFRESH_PERIOD_SEC", "1")
    }

    fn log_file(&self) -> PathBuf {
        self.state.path().join("log")
    }

    /// Everything that it has said, all starts after one another.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// The directory given as `--state-dir`.
    pub fn state_dir(&self) -> PathBuf {
        self.state.path().join("state")
    }

    fn invocation(&self, arguments: &[&str], contained: bool) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.namespace.name()]);
        if let Source::Pod(files) = &self.source {
            command.args(["sh", "-ec", IN_POD]).arg(files);
        }
        if contained {
            command.args(["sh", "-ec", CONTAINED]).arg(self.state_dir());
        }
        if let Some(id) = &self.machine_id {
            let file = self.state.path().join("machine-id");
            fs::write(&file, format!("{id}\n")).expect("a temporary directory can be written");
            // `ip netns exec` gives a mount namespace of its own.
            command.args(["sh", "-c", r#"mount --bind "$0" /etc/machine-id && exec "$@""#]).arg(&file);
        }
        if self.own_pids {
            command.args(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        }
        command.arg(&self.program).args(arguments);
        command.env_remove("NOTIFY_SOCKET").env_remove("KUBECONFIG").envs(&self.settings);
        if let Source::Kubeconfig(file) = &self.source {
            // For subcommands; the daemon itself is told by a flag.
            command.env("KUBECONFIG", file);
        }
        command
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    pub fn start(mut self) -> Self {
        self.start_again();
        self
    }

    /// As [`Daemon::start`], after it was killed or stopped.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.launch();
        eventually("the daemon is ready", || {
            self.assert_runs();
            (self.get("/readyz")?.code == 200).then_some(())
        });
    }

    /// Starts it without waiting.
    #[track_caller]
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "the daemon runs already");
        fs::create_dir_all(self.state_dir()).expect("a state directory can be made");
        let log = File::options().create(true).append(true).open(self.log_file()).expect("a log file can be opened");
        let mut command = self.invocation(&[], self.contained);
        command.args(self.source.arguments()).arg("--state-dir").arg(self.state_dir());
        command.stdout(log.try_clone().expect("a descriptor can be doubled")).stderr(log);
        self.child = Some(command.spawn().expect("ip is there: the bed was made with it"));
    }

    #[track_caller]
    fn assert_runs(&mut self) {
        if let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().ok().flatten()) {
            panic!("the daemon ended by itself: {status}");
        }
    }

    /// SIGKILL.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a killed child ends");
    }

    /// SIGTERM, as systemd stops it; it must end by itself.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the daemon runs");
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).expect("a child can be told to end");
        eventually("the daemon ends after SIGTERM", || child.try_wait().expect("a child can be waited for"))
    }

    /// Runs a subcommand with the same settings, state directory and kubeconfig (manifests are not passed on).
    #[track_caller]
    pub fn command(&self, subcommand: &[&str]) -> Output {
        let mut command = self.invocation(subcommand, false);
        command.arg("--state-dir").arg(self.state_dir());
        command.output().expect("ip is there: the bed was made with it")
    }

    /// GET from its box's own loopback; `None` while nobody listens.
    pub fn get(&self, path: &str) -> Option<Reply> {
        Call::get(path).send(self.namespace, PORT).ok()
    }

    /// `/status`.
    #[track_caller]
    pub fn status(&self) -> Value {
        let reply = self.get("/status").expect("the daemon answers");
        serde_json::from_str(&reply.body).unwrap_or_else(|e| panic!("/status is no JSON: {e}\n{}", reply.body))
    }

    /// What `/status` says of a Mapping in namespace `default`.
    pub fn mapping(&self, name: &str) -> Option<Value> {
        let reply: Value = serde_json::from_str(&self.get("/status")?.body).ok()?;
        reply["mappings"].as_array()?.iter().find(|m| m["name"] == name).cloned()
    }

    /// The sum of a metric over those of its series whose labels contain `labels` (empty: all); 0 while it has no series.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let body = self.get("/metrics").expect("the daemon answers").body;
        body.lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(labels))
            .map(|line| {
                line.rsplit(' ').next().and_then(|v| v.parse::<f64>().ok()).unwrap_or_else(|| panic!("odd: {line}"))
            })
            .sum()
    }

    /// Waits until the last writing of the manifests is in the kernel.
    #[track_caller]
    pub fn settle(&self, manifests: &Manifests) {
        let generation = manifests.generation();
        eventually(&format!("the daemon has applied generation {generation}"), || {
            let marker = self.mapping(Manifests::MARKER)?;
            (marker["status"]["observedGeneration"] == generation).then_some(())
        });
    }

    /// Waits for two more whole passes, so that whatever the daemon has to do by itself is done.
    #[track_caller]
    pub fn passes(&self, more: u32) {
        let before = self.metric("smartnat_passes_total", "");
        eventually(&format!("{more} more passes"), || {
            (self.metric("smartnat_passes_total", "") >= before + f64::from(more)).then_some(())
        });
    }

    /// Makes a change that it notices by itself, and waits until it has looked at it.
    #[track_caller]
    pub fn pass_over<T>(&self, change: impl FnOnce() -> T) -> T {
        let passes = || self.metric("smartnat_passes_total", "");
        // Counted before: the pass may be over by the time the change is made known to us.
        let before = passes();
        let outcome = change();
        eventually("a pass after the change", || (passes() > before).then_some(()));
        outcome
    }

    /// Its process id.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// The program that it runs.
    pub fn program(&self) -> &Path {
        &self.program
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            _ = child.kill();
            _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- what the daemon said ---\n{}--- end ---", self.log());
        }
    }
}

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::peer::connect;
use crate::{Bed, Manifests, eventually};

const PORT: u16 = 8080;

/// An HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub body: String,
}

/// `smartnat-manager` in the border's namespace. Killed when dropped; its log is printed when the test fails.
pub struct Daemon<'a> {
    bed: &'a Bed,
    program: PathBuf,
    settings: BTreeMap<String, String>,
    manifests: PathBuf,
    state: TempDir,
    child: Option<Child>,
}

impl<'a> Daemon<'a> {
    /// A daemon with the bed's settings, not yet started. The periodic look at the kernel is left at its minute: what a test sees
    /// earlier came from an event.
    pub fn new(bed: &'a Bed, program: &str, manifests: &Manifests) -> Daemon<'a> {
        let settings = [
            ("SNCTRLR_DEFAULT_GW_INTERFACE", "eth0"),
            ("SNCTRLR_INTERFACES_PATTERN", "eth[1-9][0-9]*"),
            ("SNCTRLR_MONITOR_PORT", "8080"),
            ("SNCTRLR_INSTANCE_NAME", "border"),
            ("SNCTRLR_DEBUG_ENABLED", "true"),
        ];
        Daemon {
            bed,
            program: PathBuf::from(program),
            settings: settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            manifests: manifests.dir().to_owned(),
            state: tempfile::tempdir().expect("a temporary directory can be made"),
            child: None,
        }
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

    fn invocation(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.bed.border.name()]).arg(&self.program).args(arguments);
        command.env_remove("NOTIFY_SOCKET").envs(&self.settings);
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
        let mut command = self.invocation(&[]);
        command.arg("--manifests").arg(&self.manifests).arg("--state-dir").arg(self.state_dir());
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

    /// Runs a subcommand with the same settings, state and manifests.
    #[track_caller]
    pub fn command(&self, subcommand: &[&str]) -> Output {
        let mut command = self.invocation(subcommand);
        command.arg("--state-dir").arg(self.state_dir());
        command.output().expect("ip is there: the bed was made with it")
    }

    /// GET from the border's own loopback; `None` while nobody listens.
    pub fn get(&self, path: &str) -> Option<Reply> {
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT);
        let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let mut stream = self.bed.border.within(|| connect(from, to, Duration::from_secs(5))).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: border\r\n\r\n").as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some(Reply { code: head.split_whitespace().nth(1)?.parse().ok()?, body: body.to_owned() })
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

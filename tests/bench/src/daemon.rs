use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bed::{Call, Namespace, Reply};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::{Cgroup, memory};
use crate::hand::Cost;

const PORT: u16 = 8080;
/// How often is asked whether it is ready: what that costs the daemon is below a hundredth of a core.
const ASK: Duration = Duration::from_millis(10);

/// Which program, with which settings, from which source.
#[derive(Debug, Clone)]
pub struct Setup {
    pub program: PathBuf,
    pub settings: Vec<(String, String)>,
    /// `--manifests DIR` or `--kubeconfig FILE`.
    pub source: [String; 2],
}

impl Setup {
    pub fn manifests(program: &Path, dir: &Path) -> Setup {
        Setup::of(program, ["--manifests".to_owned(), dir.display().to_string()])
    }

    pub fn kubeconfig(program: &Path, file: &Path) -> Setup {
        Setup::of(program, ["--kubeconfig".to_owned(), file.display().to_string()])
    }

    /// Nothing is set but what has to be, and what was asked for on the command line.
    fn of(program: &Path, source: [String; 2]) -> Setup {
        let settings = [
            ("SNCTRLR_DEFAULT_GW_INTERFACE", "eth0"),
            ("SNCTRLR_INTERFACES_PATTERN", "eth1"),
            ("SNCTRLR_INSTANCE_NAME", "bench"),
        ];
        let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Setup { program: program.to_owned(), settings, source }
    }

    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Setup {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn set_all(mut self, settings: &[(String, String)]) -> Setup {
        self.settings.extend_from_slice(settings);
        self
    }
}

/// What must outlive a daemon on its box: its state directory, and its log.
pub struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Home {
        Home { dir: tempfile::tempdir().expect("a temporary directory can be made") }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// The last warning or error in the log, else its last line.
    pub fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&fs::read(self.log()).unwrap_or_default()).into_owned();
        let grave = text.lines().rev().find(|l| l.contains("ERROR") || l.contains("WARN"));
        grave.or(text.lines().last()).unwrap_or("nothing").chars().take(400).collect()
    }
}

/// A daemon in a namespace, in a control group of its own. Killed when dropped.
pub struct Daemon<'a> {
    ns: &'a Namespace,
    home: &'a Home,
    child: Child,
    // Removed after the child is gone.
    pub cgroup: Cgroup,
    begin: Instant,
}

impl<'a> Daemon<'a> {
    pub fn launch(ns: &'a Namespace, home: &'a Home, setup: &Setup) -> Daemon<'a> {
        let cgroup = Cgroup::new();
        let log = File::options().create(true).append(true).open(home.log()).expect("a log can be opened");
        let mut command = invocation(&cgroup, ns, home, setup);
        command.args(&setup.source).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a descriptor can be doubled")).stderr(log);
        let begin = Instant::now();
        let child = command.spawn().expect("sh is there");
        Daemon { ns, home, child, cgroup, begin }
    }

    /// Waits until it is ready; how long that took since it was launched, and what it cost until it was quiet again.
    pub fn ready(&mut self, patience: Duration) -> Result<Cost, String> {
        loop {
            if self.get("/readyz").is_some_and(|r| r.code == 200) {
                break;
            }
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return Err(format!("it ended: {status}; it said: {}", self.home.last_words()));
            }
            if self.begin.elapsed() > patience {
                let seconds = patience.as_secs();
                return Err(format!("not ready within {seconds} s; it said: {}", self.home.last_words()));
            }
            sleep(ASK);
        }
        let wall = self.begin.elapsed();
        Ok(Cost { wall, processor: self.quiet(Duration::from_secs(10)) })
    }

    /// Processor time of it and all its children, once it hardly uses any for half a second, or `patience` is over.
    pub fn quiet(&self, patience: Duration) -> Duration {
        self.unchanged_for(Duration::from_millis(500), patience)
    }

    /// As [`Daemon::quiet`], for a tenth of a second.
    pub fn settled(&self, patience: Duration) -> Duration {
        self.unchanged_for(Duration::from_millis(100), patience)
    }

    fn unchanged_for(&self, time: Duration, patience: Duration) -> Duration {
        let begin = Instant::now();
        let mut before = self.cgroup.used();
        loop {
            sleep(time);
            let now = self.cgroup.used();
            if now - before < time / 100 || begin.elapsed() > patience {
                return now;
            }
            before = now;
        }
    }

    pub fn get(&self, path: &str) -> Option<Reply> {
        let call = Call { timeout: Duration::from_secs(30), ..Call::get(path) };
        call.send(self.ns, PORT).ok()
    }

    /// The sum of all series of a metric.
    pub fn metric(&self, name: &str) -> f64 {
        let body = self.get("/metrics").map(|r| r.body).unwrap_or_default();
        let of = body.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        of.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// A field of its /proc/PID/status, in MiB.
    pub fn memory(&self, field: &str) -> f64 {
        memory(self.child.id(), field).unwrap_or(f64::NAN)
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(mut self) -> Result<(), String> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).expect("a child can be told to end");
        let begin = Instant::now();
        while self.child.try_wait().expect("a child can be waited for").is_none() {
            if begin.elapsed() > Duration::from_secs(30) {
                return Err("it did not end within 30 s of SIGTERM".to_owned());
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Runs a subcommand to its end, with what it cost.
pub fn subcommand(
    ns: &Namespace,
    home: &Home,
    setup: &Setup,
    words: &[&str],
    patience: Duration,
) -> Result<Cost, String> {
    let cgroup = Cgroup::new();
    let log = File::options().create(true).append(true).open(home.log()).expect("a log can be opened");
    let mut command = invocation(&cgroup, ns, home, setup);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let begin = Instant::now();
    let mut child = command.spawn().expect("sh is there");
    let told = words.join(" ");
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            let cost = Cost { wall: begin.elapsed(), processor: cgroup.used() };
            return if status.success() { Ok(cost) } else { Err(format!("{told}: {status}: {}", home.last_words())) };
        }
        if begin.elapsed() > patience {
            _ = child.kill();
            _ = child.wait();
            return Err(format!("{told} did not end within {} s", patience.as_secs()));
        }
        sleep(Duration::from_millis(2));
    }
}

fn invocation(cgroup: &Cgroup, ns: &Namespace, home: &Home, setup: &Setup) -> Command {
    let mut command = cgroup.command("ip");
    command.args(["netns", "exec", ns.name()]).arg(&setup.program);
    command.arg("--state-dir").arg(home.dir.path().join("state"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SNCTRLR_")) {
        command.env_remove(name);
    }
    for name in ["NOTIFY_SOCKET", "KUBECONFIG", "RUST_LOG"] {
        command.env_remove(name);
    }
    // A file of this machine is not for the daemon that is measured.
    command.env("SNCTRLR_ENV_FILE", "");
    command.envs(setup.settings.iter().map(|(k, v)| (k, v)));
    command
}

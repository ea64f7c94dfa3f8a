use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, Output, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns};

/// The packages (Debian 12) that hold what the bed calls.
pub const INSTALL: &str = "apt-get install -y iproute2 iptables ipset conntrack nftables";

/// A network namespace made by `ip netns add`, removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// # Panics
    /// When it cannot be made, with the remedy: the bed needs root and iproute2.
    #[track_caller]
    pub fn create(name: String) -> Namespace {
        assert!(
            nix::unistd::geteuid().is_root(),
            "network namespaces need root: run the tests as root (sudo -E cargo test)"
        );
        let namespace = Namespace { name };
        must("ip", &["netns", "add", &namespace.name], "");
        namespace.ip("link set lo up");
        namespace
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a closure in a thread of this namespace; threads that it starts stay there, sockets that it opens belong there.
    #[track_caller]
    pub fn within<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.name);
        let outcome = thread::scope(|scope| {
            scope
                .spawn(|| {
                    let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
                    setns(file.as_fd(), CloneFlags::CLONE_NEWNET)
                        .unwrap_or_else(|e| panic!("cannot enter {path}: {e}"));
                    f()
                })
                .join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Commands of `ip`, one a line, as one batch.
    #[track_caller]
    pub fn ip(&self, batch: &str) {
        must("ip", &["-n", &self.name, "-batch", "-"], batch);
    }

    /// Runs a command (words separated by blanks) here; its output.
    ///
    /// # Panics
    /// When it cannot be run or fails, with its stderr.
    #[track_caller]
    pub fn run(&self, command: &str) -> String {
        self.feed(command, "")
    }

    /// As [`Namespace::run`], with a text on its standard input.
    #[track_caller]
    pub fn feed(&self, command: &str, input: &str) -> String {
        self.attempt(command, input).unwrap_or_else(|e| panic!("in {}: {e}", self.name))
    }

    /// As [`Namespace::feed`]; a command that fails is an `Err` with its stderr.
    #[track_caller]
    pub fn attempt(&self, command: &str, input: &str) -> Result<String, String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        self.within(|| checked(words[0], &words[1..], input))
    }

    /// Reads or writes a kernel parameter below /proc/sys.
    #[track_caller]
    pub fn sysctl(&self, path: &str) -> String {
        let file = format!("/proc/sys/{path}");
        self.within(|| std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}"))).trim().to_owned()
    }

    #[track_caller]
    pub fn set_sysctl(&self, path: &str, value: &str) {
        let file = format!("/proc/sys/{path}");
        self.within(|| std::fs::write(&file, value).unwrap_or_else(|e| panic!("{file}: {e}")));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What still runs here would keep the namespace, without a name, for ever.
        if let Ok(pids) = checked("ip", &["netns", "pids", &self.name], "") {
            for pid in pids.split_whitespace() {
                _ = checked("kill", &["-9", pid], "");
            }
        }
        if let Err(e) = checked("ip", &["netns", "del", &self.name], "") {
            eprintln!("namespace {} stays behind: {e}", self.name);
        }
    }
}

#[track_caller]
fn must(program: &str, arguments: &[&str], input: &str) -> String {
    checked(program, arguments, input).unwrap_or_else(|e| panic!("{e}"))
}

#[track_caller]
fn checked(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let told = || format!("{program} {}", arguments.join(" "));
    let Output { status, stdout, stderr } = output(program, arguments, input)
        .unwrap_or_else(|e| panic!("cannot run `{}`: {e}; install it with `{INSTALL}`", told()));
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let input = if input.is_empty() { String::new() } else { format!("\nstdin:\n{input}") };
    Err(format!(
        "`{}`: {status}\n{}{}{input}",
        told(),
        String::from_utf8_lossy(&stderr),
        String::from_utf8_lossy(&stdout)
    ))
}

fn output(program: &str, arguments: &[&str], input: &str) -> std::io::Result<Output> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input closes it early; its exit code decides.
        _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

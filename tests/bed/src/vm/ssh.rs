use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::Namespace;

/// Where QEMU takes connections for the guest's ssh, on the loopback of its namespace.
pub const PORT: u16 = 2222;

/// The way into the guest: one connection for all commands.
pub struct Ssh<'a> {
    namespace: &'a Namespace,
    key: PathBuf,
    /// The master's socket.
    control: PathBuf,
}

impl<'a> Ssh<'a> {
    pub fn new(namespace: &'a Namespace, key: &Path, dir: &Path) -> Ssh<'a> {
        Ssh { namespace, key: key.to_owned(), control: dir.join("ssh") }
    }

    fn command(&self, limit: Duration) -> Command {
        let mut command = Command::new("timeout");
        command.arg(limit.as_secs().to_string()).arg("ssh").arg("-i").arg(&self.key).arg("-S").arg(&self.control);
        command.args(["-p", &PORT.to_string(), "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]);
        command.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=20"]);
        command
    }

    /// Makes the connection that the commands use.
    ///
    /// # Errors
    /// What ssh said.
    pub fn connect(&self) -> Result<(), String> {
        self.close();
        let mut command = self.command(Duration::from_secs(30));
        // The master stays in the background, so nothing of ours may be open in it.
        command.args([
            "-f",
            "-N",
            "-M",
            "-o",
            "ServerAliveInterval=10",
            "-o",
            "ServerAliveCountMax=6",
            "root@127.0.0.1",
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = self.namespace.within(|| command.status());
        let status = status.map_err(|e| format!("cannot run ssh: {e}; apt-get install -y openssh-client"))?;
        if !status.success() {
            return Err(format!("ssh: {status}"));
        }
        let answer = self.run("true", Duration::from_secs(20))?;
        answer.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&answer.stderr).into_owned())
    }

    /// Ends it, if there is one.
    pub fn close(&self) {
        if self.control.exists() {
            let mut command = self.command(Duration::from_secs(5));
            command.args(["-O", "exit", "root@127.0.0.1"]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            _ = self.namespace.within(|| command.status());
            _ = std::fs::remove_file(&self.control);
        }
    }

    /// A shell command; exit code 124 where it took longer than `limit`, 255 where the connection broke.
    pub fn run(&self, command: &str, limit: Duration) -> Result<Output, String> {
        let mut ssh = self.command(limit);
        ssh.args(["root@127.0.0.1", command]).stdin(Stdio::null());
        self.namespace
            .within(|| ssh.output())
            .map_err(|e| format!("cannot run ssh: {e}; apt-get install -y openssh-client"))
    }

    /// A shell command with a text on its standard input.
    pub fn feed(&self, command: &str, input: &str) -> Result<Output, String> {
        let mut ssh = self.command(Duration::from_secs(30));
        ssh.args(["root@127.0.0.1", command]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.namespace.within(|| ssh.spawn()).map_err(|e| format!("cannot run ssh: {e}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).map_err(|e| e.to_string())?;
        }
        child.wait_with_output().map_err(|e| e.to_string())
    }
}

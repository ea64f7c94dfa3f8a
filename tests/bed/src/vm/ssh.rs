use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::standstill::Standstill;
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
        command.arg(limit.as_secs().to_string()).arg("ssh").args(self.options());
        command
    }

    fn options(&self) -> Vec<std::ffi::OsString> {
        let mut options = vec!["-i".into(), self.key.clone().into(), "-S".into(), self.control.clone().into()];
        let port = PORT.to_string();
        let words = ["-p", &port, "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o"];
        options.extend(words.map(Into::into));
        let words = ["UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=120"];
        options.extend(words.map(Into::into));
        options
    }

    /// Whether the guest's ssh greets within `patience`. QEMU takes connections for a guest that does not hear of them.
    pub fn greets(&self, patience: Duration) -> bool {
        self.namespace.within(|| {
            let mut greeting = [0; 4];
            TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).is_ok_and(|mut stream| {
                stream.set_read_timeout(Some(patience)).is_ok() && stream.read_exact(&mut greeting).is_ok()
            }) && greeting == *b"SSH-"
        })
    }

    /// Makes the connection that the commands use.
    ///
    /// # Errors
    /// What ssh said.
    pub fn connect(&self) -> Result<(), String> {
        self.close();
        let mut command = self.command(Duration::from_secs(180));
        // The master stays in the background, so nothing of ours may be open in it.
        command.args([
            "-f",
            "-N",
            "-M",
            "-o",
            "ServerAliveInterval=30",
            "-o",
            "ServerAliveCountMax=10",
            "root@127.0.0.1",
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = self.namespace.within(|| command.status());
        let status = status.map_err(|e| format!("cannot run ssh: {e}; apt-get install -y openssh-client"))?;
        if !status.success() {
            return Err(format!("ssh: {status}"));
        }
        let answer = self.run("true", Duration::from_secs(180))?;
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

    /// A shell command that may take as long as it goes on printing; what it printed.
    ///
    /// # Errors
    /// When it stands still, with what it had printed.
    pub fn run_while_it_tells(&self, command: &str) -> Result<Output, String> {
        let mut ssh = Command::new("ssh");
        ssh.args(self.options())
            .args(["root@127.0.0.1", command])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = self.namespace.within(|| ssh.spawn()).map_err(|e| format!("cannot run ssh: {e}"))?;
        let mut stdout = child.stdout.take().ok_or("ssh has no output")?;
        let told = Mutex::new(Vec::new());
        let text = || told.lock().unwrap_or_else(PoisonError::into_inner);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut chunk = [0; 4096];
                while let Ok(n @ 1..) = stdout.read(&mut chunk) {
                    text().extend_from_slice(&chunk[..n]);
                }
            });
            let mut standstill = Standstill::new();
            while !reader.is_finished() {
                if let Some(why) = standstill.reached(text().len()) {
                    _ = child.kill();
                    _ = child.wait();
                    return Err(format!("{why}; until then it printed\n{}", String::from_utf8_lossy(&text())));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let status = child.wait().map_err(|e| e.to_string())?;
            Ok(Output { status, stdout: std::mem::take(&mut text()), stderr: Vec::new() })
        })
    }

    /// A shell command with a text on its standard input.
    pub fn feed(&self, command: &str, input: &str) -> Result<Output, String> {
        let mut ssh = self.command(Duration::from_secs(300));
        ssh.args(["root@127.0.0.1", command]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.namespace.within(|| ssh.spawn()).map_err(|e| format!("cannot run ssh: {e}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).map_err(|e| e.to_string())?;
        }
        child.wait_with_output().map_err(|e| e.to_string())
    }
}

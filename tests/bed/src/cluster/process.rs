use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Namespace;
use crate::cluster::binaries::binary;

/// A program of the control plane, running or not, with its log.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    arguments: Vec<String>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// Not yet started.
    pub fn new(name: &'static str, arguments: Vec<String>, dir: &Path) -> Process {
        Process { name, arguments, log: dir.join(format!("{name}.log")), child: Mutex::new(None) }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[track_caller]
    pub fn start(&self, namespace: &Namespace) {
        assert!(self.ensure(namespace), "{} runs already", self.name);
    }

    /// Starts it unless that was done; whether it did.
    #[track_caller]
    pub fn ensure(&self, namespace: &Namespace) -> bool {
        let mut child = self.child();
        if child.is_some() {
            return false;
        }
        let log = File::options().create(true).append(true).open(&self.log).expect("a log file can be opened");
        let mut command = Command::new(binary(self.name));
        command.args(&self.arguments).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a descriptor can be doubled")).stderr(log);
        let spawned = namespace.within(|| command.spawn());
        *child = Some(spawned.unwrap_or_else(|e| panic!("cannot run {}: {e}", self.name)));
        true
    }

    /// # Panics
    /// When it was started and has ended by itself.
    #[track_caller]
    pub fn assert_runs(&self) {
        let ended = self.child().as_mut().and_then(|c| c.try_wait().ok().flatten());
        if let Some(status) = ended {
            panic!("{} ended by itself: {status}\n{}", self.name, self.log_end());
        }
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let child = self.child();
        let child = child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name));
        kill(Pid::from_raw(child.id().cast_signed()), signal).expect("a child can be sent a signal");
    }

    /// SIGKILL, which also ends what is paused.
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            _ = child.kill();
            _ = child.wait();
        }
    }

    /// The last lines of its log.
    pub fn log_end(&self) -> String {
        let text = String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        format!("--- the end of {}'s log ---\n{}\n", self.name, lines[lines.len().saturating_sub(25)..].join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

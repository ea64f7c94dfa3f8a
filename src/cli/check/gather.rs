use std::io::ErrorKind;
use std::time::Duration;

use tokio::process::Command;

/// What came of running a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ran {
    /// Its stdout.
    Well(String),
    /// It is not installed.
    Missing,
    /// It ended with an error, or not at all; its stderr or the reason.
    Badly(String),
}

impl Ran {
    pub(super) fn stdout(&self) -> Option<&str> {
        match self {
            Ran::Well(text) => Some(text),
            _ => None,
        }
    }
}

/// Reads facts about this box and changes nothing.
pub(super) struct Gather {
    patience: Duration,
}

impl Gather {
    pub(super) fn new(patience: Duration) -> Self {
        Gather { patience }
    }

    /// A small text file without white space around it.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
    }

    pub(super) async fn run(&self, program: &str, args: &[&str]) -> Ran {
        let output = Command::new(program).args(args).stdin(std::process::Stdio::null()).kill_on_drop(true).output();
        match tokio::time::timeout(self.patience, output).await {
            Err(_) => Ran::Badly(format!("it did not end within {} s", self.patience.as_secs())),
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => Ran::Missing,
            Ok(Err(error)) => Ran::Badly(error.to_string()),
            Ok(Ok(output)) if output.status.success() => {
                Ran::Well(String::from_utf8_lossy(&output.stdout).into_owned())
            }
            Ok(Ok(output)) => {
                let stderr = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
                Ran::Badly(if stderr.is_empty() { output.status.to_string() } else { stderr })
            }
        }
    }
}

use std::io::ErrorKind;
use std::time::Duration;

use crate::apply::{ToolError, Tools};
use crate::error_chain;

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
    tools: Tools,
}

impl Gather {
    pub(super) fn new(patience: Duration) -> Self {
        Gather { tools: Tools::new(patience) }
    }

    /// A small text file without white space around it.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
    }

    pub(super) async fn run(&self, program: &str, args: &[&str]) -> Ran {
        match self.tools.read(program, args).await {
            Ok(stdout) => Ran::Well(stdout),
            Err(ToolError::Start { source, .. }) if source.kind() == ErrorKind::NotFound => Ran::Missing,
            Err(ToolError::Failed { stderr, .. }) if !stderr.is_empty() => Ran::Badly(stderr.replace('\n', " ")),
            Err(error) => Ran::Badly(error_chain(&error)),
        }
    }
}

//! Where log lines go: the journal with fields when stderr is connected to it, else human lines on stderr.

use std::io::{self, IsTerminal, Write};

use systemd_journal_logger::{JournalLog, connected_to_journal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::journal::JournalLayer;

/// How much is logged when `RUST_LOG` does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// Subcommands that answer on stdout: warnings only.
    Quiet,
    /// The daemon.
    Normal,
    /// `SNCTRLR_DEBUG_ENABLED`.
    Debug,
}

impl Verbosity {
    fn directives(self) -> &'static str {
        match self {
            // What the Kubernetes client complains about at every try, its caller tells once, with a remedy.
            Verbosity::Quiet => "warn,kube_client=off,kube_runtime=off",
            Verbosity::Normal => "info,kube_client=off,kube_runtime=off",
            // Libraries at debug level (netlink above all) would drown our own lines.
            Verbosity::Debug => "info,kube_client=off,kube_runtime=off,smartnat=debug,smartnat_manager=debug",
        }
    }
}

/// Sets the process's logging up; once, before anything is logged.
pub fn init(verbosity: Verbosity) {
    let given = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|v| !v.is_empty());
    let (filter, complaint) = filter(given.as_deref(), verbosity);
    let registry = tracing_subscriber::registry().with(filter);
    let journal = if connected_to_journal() { JournalLog::new().ok() } else { None };
    let installed = match journal {
        Some(log) => registry.with(JournalLayer::new(log)).try_init(),
        None => {
            let terminal = std::io::stderr().is_terminal();
            let lines = tracing_subscriber::fmt::layer().with_writer(|| OneLine(std::io::stderr())).with_ansi(terminal);
            registry.with(lines.with_target(verbosity == Verbosity::Debug)).try_init()
        }
    };
    // A second call in one process (tests) keeps the first set-up.
    if installed.is_ok()
        && let Some(complaint) = complaint
    {
        tracing::warn!(rust_log = given, "{complaint}");
    }
}

/// Writes each event as one line, whatever the texts in it are: the formatter gives it whole, with a line break at its end.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let (line, end) = match event.strip_suffix(b"\n") {
            Some(line) => (line, b"\n".as_slice()),
            None => (event, b"".as_slice()),
        };
        let mut out = Vec::with_capacity(event.len());
        for byte in line {
            match byte {
                b'\n' => out.extend(b"\\n"),
                b'\r' => out.extend(b"\\r"),
                other => out.push(*other),
            }
        }
        out.extend(end);
        self.0.write_all(&out)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The filter, and what is wrong with `RUST_LOG` if it cannot be used.
fn filter(given: Option<&str>, verbosity: Verbosity) -> (EnvFilter, Option<String>) {
    match given.map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (
            EnvFilter::new(verbosity.directives()),
            Some(format!("RUST_LOG is not used ({error}); write for example RUST_LOG=smartnat=debug")),
        ),
        None => (EnvFilter::new(verbosity.directives()), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let mut lines = OneLine(Vec::new());
        lines.write_all(b"a name\r\n2026 INFO all is well\n").unwrap();
        assert_eq!(lines.0, b"a name\\r\\n2026 INFO all is well\n");
    }

    #[test]
    fn rust_log_wins_over_the_setting_and_a_bad_one_is_told() {
        let text = |given, verbosity| {
            let (filter, complaint) = filter(given, verbosity);
            (filter.to_string(), complaint)
        };
        assert!(text(None, Verbosity::Normal).0.split(',').any(|directive| directive == "info"));
        assert!(text(None, Verbosity::Debug).0.contains("smartnat=debug"));
        assert_eq!(text(Some("smartnat=trace"), Verbosity::Quiet), ("smartnat=trace".into(), None));
        let (filter, complaint) = text(Some("smartnat=loud"), Verbosity::Quiet);
        assert!(filter.split(',').any(|directive| directive == "warn"), "{filter}");
        assert!(complaint.unwrap().contains("RUST_LOG is not used"));
    }
}

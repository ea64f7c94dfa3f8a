//! Running the kernel's tools: every call is bounded in time and counted, and a failure says what was run, how it ended, what it said,
//! and which line of its input it stumbled over.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::OnceCell;

use super::alias::Alias;
use crate::model::Family;
use crate::process::{self, Limits, RunError};
use crate::sources::tables::Ledger;

/// Bytes of one answer. The largest table that was tried, with 10,000 endpoints, is some megabytes.
const LONGEST_ANSWER: u64 = 256 << 20;

/// Lines of input for which a tool has the time limit; for more it has it again. A second's work at the most.
const LINES: usize = 10_000;

/// A tool that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error("`{command}` could not be started; is the package that holds it installed and on PATH?")]
    Start { command: String, source: io::Error },
    #[error(
        "`{command}` did not end within {} s and was ended; raise SNCTRLR_IPTABLES_TIMEOUT_SEC if the box is heavily loaded",
        limit.as_secs_f32()
    )]
    Timeout { command: String, limit: Duration },
    #[error("`{command}` wrote more than {} MiB and was ended", LONGEST_ANSWER >> 20)]
    TooMuch { command: String },
    #[error("`{command}` failed ({status}): {}{}", said(stderr), at(line))]
    Failed {
        command: String,
        status: ExitStatus,
        stderr: String,
        /// The line of the input that the tool named, if it named one.
        line: Option<String>,
    },
}

impl ToolError {
    /// What was run, with its arguments.
    pub fn command(&self) -> &str {
        match self {
            ToolError::Start { command, .. }
            | ToolError::Timeout { command, .. }
            | ToolError::TooMuch { command }
            | ToolError::Failed { command, .. } => command,
        }
    }
}

fn said(stderr: &str) -> &str {
    if stderr.is_empty() { "it gave no reason" } else { stderr }
}

fn at(line: &Option<String>) -> String {
    line.as_ref().map_or_else(String::new, |l| format!("; offending line: `{l}`"))
}

/// Runs tools. Clones share the counter and the ledger.
#[derive(Clone)]
pub struct Tools(Arc<Shared>);

struct Shared {
    limit: Duration,
    directory: Option<PathBuf>,
    calls: AtomicUsize,
    ledger: Ledger,
    /// Time limits that passed in calls that have several.
    extensions: AtomicUsize,
    commits_in_blocks: OnceCell<bool>,
    alias: Option<Alias>,
    warnings: Warnings,
}

impl Tools {
    /// `limit` bounds every call (`SNCTRLR_IPTABLES_TIMEOUT_SEC`).
    pub fn new(limit: Duration) -> Self {
        Self::build(limit, None, None)
    }

    /// As [`Tools::new`], for who watches the tables: in a pid namespace of our own the writers get a name of theirs, by links below
    /// `state`.
    pub fn recognisable(limit: Duration, state: &Path) -> Self {
        let alias = Alias::needed_in(state).unwrap_or_else(|error| {
            tracing::warn!(
                %error,
                "own changes of the tables look as if others had made them, which costs a look each; see SNCTRLR_STATE_DIR"
            );
            None
        });
        Self::build(limit, None, alias)
    }

    /// Takes the writing tools from one directory instead of PATH (fakes in tests).
    pub fn from_directory(limit: Duration, directory: PathBuf) -> Self {
        Self::build(limit, Some(directory), None)
    }

    fn build(limit: Duration, directory: Option<PathBuf>, alias: Option<Alias>) -> Self {
        let ledger = alias.as_ref().map_or_else(Ledger::default, |alias| Ledger::of_writers_named(alias.name()));
        Tools(Arc::new(Shared {
            limit,
            directory,
            calls: AtomicUsize::new(0),
            extensions: AtomicUsize::new(0),
            commits_in_blocks: OnceCell::new(),
            alias,
            ledger,
            warnings: Warnings::default(),
        }))
    }

    /// Processes started so far.
    pub fn calls(&self) -> usize {
        self.0.calls.load(Ordering::Relaxed)
    }

    /// In which our own writes of tables stand.
    pub fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// Grows with each call, and within those that may take long: as long as it does, work gets on.
    pub fn progress(&self) -> usize {
        self.calls() + self.0.extensions.load(Ordering::Relaxed)
    }

    /// Whether large changes are written in several blocks by this `iptables-restore`: not in the legacy variant, which
    /// writes the whole table at each COMMIT, nor before 1.8.5, which reads the whole at each.
    pub async fn commits_in_blocks(&self, restore: &str) -> bool {
        let ask = || async { self.read(restore, &["--version"]).await.is_ok_and(|said| is_quick_in_blocks(&said)) };
        *self.0.commits_in_blocks.get_or_init(ask).await
    }

    /// Runs a tool that reads and returns its stdout.
    pub async fn read(&self, program: &str, args: &[&str]) -> Result<String, ToolError> {
        self.run(program, args, None).await
    }

    /// Feeds `input` to a tool that writes. What it does to tables is known as our own.
    pub async fn write(&self, program: &str, args: &[&str], input: String) -> Result<(), ToolError> {
        self.run(program, args, Some(input)).await.map(drop)
    }

    async fn run(&self, program: &str, args: &[&str], input: Option<String>) -> Result<String, ToolError> {
        let alias = self.0.alias.as_ref().and_then(|alias| alias.of(program)).filter(|_| input.is_some());
        let named = || self.0.directory.as_ref().map_or_else(|| PathBuf::from(program), |d| d.join(program));
        let path = alias.unwrap_or_else(named);
        self.run_path(&path, program, args, input).await
    }

    async fn run_path(
        &self,
        path: &Path,
        program: &str,
        args: &[&str],
        input: Option<String>,
    ) -> Result<String, ToolError> {
        let command = [&[program], args].concat().join(" ");
        let mut child = Command::new(path);
        child.args(args);
        if path.file_name() != Some(program.as_ref()) {
            child.arg0(program);
        }
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        let mut call = None;
        let started = |pid| {
            if input.is_some() && program != "ipset" {
                call = self.0.ledger.begin(pid);
            }
        };
        // The limit is for a tool that hangs, not for one that has much to do.
        let lines = input.as_deref().map_or(0, |input| input.bytes().filter(|byte| *byte == b'\n').count());
        let times = 1 + u32::try_from(lines / LINES).unwrap_or(u32::MAX - 1);
        let limit = self.0.limit.saturating_mul(times);
        let limits = Limits { time: limit, output: LONGEST_ANSWER };
        let result = self.in_sight(process::run(child, input.as_deref(), limits, started)).await;
        drop(call);
        match result {
            Ok(output) => finish(command, output, input.as_deref(), &self.0.warnings),
            Err(RunError::TooMuch) => Err(ToolError::TooMuch { command }),
            Err(RunError::Timeout) => Err(ToolError::Timeout { command, limit }),
            Err(RunError::Start(source) | RunError::Wait(source)) => Err(ToolError::Start { command, source }),
        }
    }

    /// What a tool of PATH answers to `input`, which asks and changes nothing.
    pub(super) async fn ask(&self, program: &str, args: &[&str], input: String) -> Result<String, ToolError> {
        self.run_path(Path::new(program), program, args, Some(input)).await
    }

    /// Counts the time limits that pass.
    async fn in_sight<T>(&self, running: impl Future<Output = T>) -> T {
        tokio::pin!(running);
        loop {
            tokio::select! {
                result = &mut running => return result,
                () = tokio::time::sleep(self.0.limit) => drop(self.0.extensions.fetch_add(1, Ordering::Relaxed)),
            }
        }
    }

    /// `iptables ARGUMENTS`, or `ip6tables`: for reading, from PATH as above.
    pub async fn iptables(&self, family: Family, args: &[&str]) -> Result<String, ToolError> {
        let program = program(family);
        self.run_path(Path::new(program), program, &[&["--wait"], args].concat(), None).await
    }
}

/// By what `iptables-restore --version` says (`iptables-restore v1.8.9 (nf_tables)`).
fn is_quick_in_blocks(said: &str) -> bool {
    let mut words = said.split_whitespace();
    let numbers = words.find_map(|word| word.strip_prefix('v')).unwrap_or_default();
    let version: Vec<u32> = numbers.split('.').map_while(|number| number.parse().ok()).collect();
    version.as_slice() >= [1, 8, 5].as_slice() && words.next() == Some("(nf_tables)")
}

/// The tool that lists a family's tables.
fn program(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "iptables",
        Family::Ipv6 => "ip6tables",
    }
}

/// What tools that succeeded said on stderr. Tables are read all the time, and what stands is said once.
#[derive(Default)]
struct Warnings(Mutex<BTreeSet<String>>);

impl Warnings {
    /// More texts than that would be a tool that never says the same.
    const REMEMBERED: usize = 64;

    fn is_new(&self, text: &str) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.len() < Self::REMEMBERED && said.insert(text.to_owned())
    }
}

fn finish(command: String, output: Output, input: Option<&str>, warnings: &Warnings) -> Result<String, ToolError> {
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if !output.status.success() {
        let line = input.and_then(|text| named_line(&stderr, text));
        return Err(ToolError::Failed { command, status: output.status, stderr, line });
    }
    if !stderr.lines().all(is_of_nft) {
        if warnings.is_new(&stderr) {
            tracing::warn!(command, stderr, "a tool warned; it succeeded; the same words are not logged again");
        } else {
            tracing::debug!(command, stderr, "a tool warned as before");
        }
    }
    // Megabytes, and mostly text already.
    Ok(String::from_utf8(output.stdout).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

/// What nft says of every table of iptables: that another tool keeps it.
fn is_of_nft(line: &str) -> bool {
    line.starts_with("# Warning: table ") && line.contains(" is managed by iptables-nft")
}

/// The input line whose number a tool names (`line 3: ...`, `Error occurred at line: 3`, `Error in line 2: ...`). Only for the message.
fn named_line(stderr: &str, input: &str) -> Option<String> {
    let number = stderr.match_indices("line").find_map(|(at, word)| {
        let digits = stderr[at + word.len()..].trim_start_matches([':', ' ']);
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        digits[..end].parse::<usize>().ok()
    })?;
    input.lines().nth(number.checked_sub(1)?).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_new_once() {
        let warnings = Warnings::default();
        let new: Vec<bool> = ["legacy", "legacy", "other", "legacy"].iter().map(|text| warnings.is_new(text)).collect();
        assert_eq!(new, [true, false, true, false]);
    }

    #[test]
    fn the_line_that_a_tool_names_is_found_in_what_it_was_fed() {
        let input = "*nat\n:A - [0:0]\n-A A -g B\nCOMMIT\n";
        for stderr in [
            "Set nope doesn't exist.\n\nError occurred at line: 3\nTry `iptables-restore -h'",
            "iptables-restore v1.8.9 (nf_tables): \nline 3: CHAIN_DEL failed (Device or resource busy): chain A",
            "iptables-restore: line 3 failed: No chain/target/match by that name.",
            "ipset v7.17: Error in line 3: The set with the given name does not exist",
        ] {
            assert_eq!(named_line(stderr, input).as_deref(), Some("-A A -g B"), "{stderr}");
        }
        assert_eq!(named_line("no number here: a line", input), None);
        assert_eq!(named_line("line 99", input), None);
        assert_eq!(named_line("line 0", input), None);
    }

    #[test]
    fn large_changes_are_divided_for_tools_that_take_the_parts_as_such() {
        for (said, expected) in [
            ("iptables-restore v1.8.9 (nf_tables)\n", true),
            ("ip6tables-restore v1.8.5 (nf_tables)", true),
            ("iptables-restore v1.10 (nf_tables)", true),
            ("iptables-restore v1.8.4 (nf_tables)", false),
            ("iptables-restore v1.8.9 (legacy)", false),
            ("iptables-restore v1.6.1", false),
            ("", false),
        ] {
            assert_eq!(is_quick_in_blocks(said), expected, "{said}");
        }
    }

    #[tokio::test]
    async fn a_tool_with_much_to_do_has_more_time_and_shows_that_it_gets_on() {
        let tools = Tools::new(Duration::from_millis(300));
        let text = "line\n".repeat(LINES * 4);
        // It reads, then works for longer than one limit.
        tools.write("sh", &["-c", "cat > /dev/null; sleep 0.7"], text).await.unwrap();
        assert!(tools.progress() > tools.calls());
        let error = tools.write("sh", &["-c", "cat > /dev/null; sleep 60"], "line\n".to_owned()).await.unwrap_err();
        assert!(matches!(error, ToolError::Timeout { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_tool_that_is_not_there_is_named() {
        let error = Tools::new(Duration::from_secs(5)).read("no-such-tool-at-all", &["-x"]).await.unwrap_err();
        assert!(matches!(&error, ToolError::Start { .. }));
        assert!(error.to_string().contains("`no-such-tool-at-all -x`"), "{error}");
    }

    #[tokio::test]
    async fn a_tool_that_hangs_is_given_up_at_the_limit() {
        let started = std::time::Instant::now();
        let error = Tools::new(Duration::from_millis(50)).read("sleep", &["60"]).await.unwrap_err();
        assert!(matches!(error, ToolError::Timeout { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn a_large_input_is_fed_while_the_output_is_read() {
        let text = "0123456789abcdef\n".repeat(100_000);
        let tools = Tools::new(Duration::from_secs(20));
        let out = tools.run("cat", &[], Some(text.clone())).await.unwrap();
        assert_eq!(out.len(), text.len());
        assert_eq!(tools.calls(), 1);
    }
}

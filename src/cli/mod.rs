//! The command line: `smartnat-manager` alone runs the daemon, subcommands ask and tell.

mod check;
mod cleanup;
mod foreign;
mod forget;
mod http;
mod manual;
mod plan;
mod print;
mod status;
mod table;
mod trace;
mod view;
mod world;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::daemon::{self, DaemonError};
use crate::error_chain;
use crate::model::{printable_json, printable_lines};
use crate::report::logging::{self, Verbosity};
use crate::settings::{FILE_VARIABLE, SettingsArgs, SettingsError, SettingsFile, SettingsFileError};

/// Ends of the program, as `--help` and docs/configuration.md tell them.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it failed; the message says what and why
  2  the command line or a setting is wrong
  3  the answer is no: `check` found a failure, `plan --diff` found differences, `cleanup` or `forget` refused";

#[derive(Debug, Parser)]
#[command(name = "smartnat-manager", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon (what happens without a subcommand)
    Run,
    /// Close the border alone and exit: for early boot, before any network is up
    Border,
    /// Print what would be programmed
    Plan(plan::PlanArgs),
    /// Follow a packet through what would be programmed: which Mapping and rule decide, and the verdict
    Trace(trace::TraceArgs),
    /// Show what the running daemon says about Mappings, interfaces and sources
    Status(status::StatusArgs),
    /// Look for what would keep SmartNat from working on this box, with a remedy for each
    Check,
    /// Remove all that SmartNat programmed, the border last
    Cleanup(cleanup::CleanupArgs),
    /// Take a border router that is gone for good out of the API: its Lease, what it said about Mappings, and deletions that wait for it
    Forget(forget::ForgetArgs),
    /// Print the CustomResourceDefinition of Mappings
    Crd,
    /// Print completions for a shell
    Completions(manual::CompletionsArgs),
    /// Print the manual page, or write one for each subcommand
    Man(manual::ManArgs),
}

/// How a subcommand ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Done,
    No,
}

/// Why a subcommand failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    SettingsFile(#[from] SettingsFileError),
    /// The command line asks for what cannot be.
    #[error("{0}")]
    Usage(String),
    #[error("{context}")]
    Failed { context: String, source: Box<dyn Error + Send + Sync> },
    #[error("{0}")]
    Plain(String),
}

impl CliError {
    fn failed(context: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        CliError::Failed { context: context.into(), source: source.into() }
    }

    fn code(&self) -> u8 {
        match self {
            CliError::Settings(_) | CliError::SettingsFile(_) | CliError::Usage(_) => 2,
            CliError::Failed { .. } | CliError::Plain(_) => 1,
        }
    }
}

/// What goes to stderr. Names and messages come from others, as in [`say`].
fn complain(text: &str) {
    eprintln!("{}", printable_lines(text));
}

/// Runs what the command line says; errors go to stderr.
pub fn run(cli: Cli) -> ExitCode {
    match dispatch(cli) {
        Ok(Answer::Done) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(3),
        Err(error) => {
            complain(&format!("smartnat-manager: {}", error_chain(&error)));
            ExitCode::from(error.code())
        }
    }
}

fn dispatch(cli: Cli) -> Result<Answer, CliError> {
    let Cli { settings, command } = cli;
    let command = command.unwrap_or(Command::Run);
    // The units have the file's content in their environment already; it says the same.
    let settings = match command {
        Command::Crd | Command::Completions(_) | Command::Man(_) => settings,
        _ => settings.or_from(&SettingsFile::of_this_box(std::env::var_os(FILE_VARIABLE).map(Into::into))?),
    };
    match command {
        Command::Run => {
            let settings = settings.validate()?;
            logging::init(if settings.debug { Verbosity::Debug } else { Verbosity::Normal });
            match block_on_to_the_end(daemon::run(settings))? {
                Ok(()) => Ok(Answer::Done),
                Err(e @ DaemonError::NoSource) => Err(CliError::Usage(e.to_string())),
                Err(e) => Err(CliError::failed("the daemon ended", e)),
            }
        }
        Command::Border => {
            let settings = settings.validate()?;
            logging::init(if settings.debug { Verbosity::Debug } else { Verbosity::Normal });
            block_on(daemon::border(&settings))?.map_err(|e| CliError::failed("the border is not closed", e))?;
            Ok(Answer::Done)
        }
        Command::Plan(args) => {
            let settings = settings.validate()?;
            quiet(settings.debug);
            block_on(plan::run(settings, args))?
        }
        Command::Trace(args) => {
            let settings = settings.validate()?;
            quiet(settings.debug);
            block_on(trace::run(settings, args))?
        }
        Command::Check => {
            let settings = settings.validate()?;
            quiet(settings.debug);
            block_on(check::run(settings))?
        }
        Command::Status(args) => {
            let settings = settings.validate_local()?;
            quiet(settings.debug);
            block_on(status::run(settings, args))?
        }
        Command::Cleanup(args) => {
            let mark_bits = settings.mark_bits.clone();
            let settings = settings.validate_local()?;
            logging::init(if settings.debug { Verbosity::Debug } else { Verbosity::Normal });
            block_on(cleanup::run(settings, mark_bits, args))?
        }
        Command::Forget(args) => {
            let settings = settings.validate_cluster()?;
            quiet(settings.debug);
            block_on(forget::run(settings, args))?
        }
        Command::Crd => {
            say(&crate::api::crd_yaml())?;
            Ok(Answer::Done)
        }
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    }
}

fn quiet(debug: bool) {
    logging::init(if debug { Verbosity::Debug } else { Verbosity::Quiet });
}

/// Beside the main thread, on which the loop runs. More of them, one a processor, would not be busy, and each keeps memory of its own.
const WORKERS: usize = 2;
/// How long what was begun may take to end with the program. A name that is being resolved cannot be ended.
const LAST_WORK: Duration = Duration::from_secs(1);

/// Asked to end, it drops what it does, and with that the programs that it started: they are in process groups of their own, where no
/// signal of the terminal reaches them.
fn block_on<F: Future>(future: F) -> Result<F::Output, CliError> {
    block_on_to_the_end(async {
        let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        tokio::select! {
            output = future => Ok(output),
            _ = terminate.recv() => Err(CliError::Plain("ended by SIGTERM before it was done".to_owned())),
            _ = interrupt.recv() => Err(CliError::Plain("ended by SIGINT before it was done".to_owned())),
        }
    })?
}

/// For who minds signals itself.
fn block_on_to_the_end<F: Future>(future: F) -> Result<F::Output, CliError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(WORKERS).enable_all().build();
    let runtime = runtime.map_err(|e| CliError::failed("no threads could be started", e))?;
    let output = runtime.block_on(future);
    // Other tasks are dropped before the program ends: they end what they started.
    runtime.shutdown_timeout(LAST_WORK);
    Ok(output)
}

fn listen(kind: SignalKind) -> Result<Signal, CliError> {
    signal(kind).map_err(|e| CliError::failed("signals could not be listened for", e))
}

/// Writes to stdout. A reader that closed the pipe (`| head`) has seen enough.
fn say(text: &str) -> Result<(), CliError> {
    // Names and messages come from others: none of them moves the cursor of whoever reads.
    write(&printable_lines(text))
}

/// As [`say`], for programs.
fn say_json(document: &serde_json::Value) -> Result<(), CliError> {
    write(&printable_json(&format!("{document:#}\n")))
}

fn write(text: &str) -> Result<(), CliError> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(CliError::failed("stdout cannot be written", e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_stand_before_or_behind_the_subcommand() {
        for words in [["--monitor-port", "9", "status"], ["status", "--monitor-port", "9"]] {
            let cli = Cli::try_parse_from([&["smartnat-manager"][..], &words[..]].concat()).unwrap();
            assert_eq!(cli.settings.validate_local().unwrap().monitor.port, 9, "{words:?}");
        }
        let cli = Cli::try_parse_from(["smartnat-manager", "plan", "--gw-address-offset", "-1", "--diff"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Plan(_))));
    }

    #[test]
    fn json_with_names_of_others_is_json_and_moves_no_cursor() {
        let document = serde_json::json!({ "name": "e\u{7f}\u{9b}\u{202e}\u{1b}\n\"", "list": [1, 2] });
        let printed = printable_json(&format!("{document:#}\n"));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&printed).unwrap(), document);
        assert!(printed.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{printed:?}");
    }

    #[test]
    fn no_subcommand_is_the_daemon() {
        assert!(Cli::try_parse_from(["smartnat-manager"]).unwrap().command.is_none());
    }

    #[test]
    fn bad_settings_and_failures_end_with_different_codes() {
        let cli = Cli::try_parse_from(["smartnat-manager", "--monitor-port", "x", "status"]).unwrap();
        assert_eq!(dispatch(cli).unwrap_err().code(), 2);
        assert_eq!(CliError::Plain("x".into()).code(), 1);
    }

    #[test]
    fn every_setting_exit_code_and_subcommand_stands_in_the_reference() {
        let reference = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md")).unwrap();
        let command = Cli::command();
        let settings: Vec<_> = command.get_arguments().filter(|a| a.get_env().is_some()).collect();
        assert_eq!(settings.len(), 25);
        for argument in settings {
            let env = argument.get_env().unwrap().to_str().unwrap();
            let flag = format!("`--{}`", argument.get_long().unwrap());
            let row = reference
                .lines()
                .find(|l| l.starts_with('|') && l.contains(&format!("`{env}`")) && l.contains(&flag))
                .unwrap_or_else(|| panic!("{env} with {flag} has no row in docs/configuration.md"));
            let help = argument.get_help().unwrap().to_string();
            if let Some(default) = help.split("[default: ").nth(1).and_then(|d| d.split(']').next()) {
                assert!(row.contains(default), "the default of {env} is {default}, and its row says otherwise: {row}");
            }
        }
        for sub in command.get_subcommands() {
            assert!(reference.contains(&format!("`{}`", sub.get_name())), "{} is not described", sub.get_name());
        }
        for line in EXIT_CODES.lines().skip(1) {
            let code = line.trim().split(' ').next().unwrap();
            assert!(reference.lines().any(|l| l.starts_with(&format!("| {code} |"))), "exit code {code}");
        }
    }
}

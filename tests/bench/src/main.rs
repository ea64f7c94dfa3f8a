//! Measures what `docs/performance.md` says. See `tests/bench/run.sh`.

#![forbid(unsafe_code)]

mod cgroup;
mod cluster;
mod daemon;
mod figures;
mod fixture;
mod growth;
mod hand;
mod machine;
mod net;
mod probe;
mod rows;
mod worst;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use figures::Figures;
use fixture::Size;
use rows::ROWS;

/// Measures the daemon at scale. Without arguments: everything, as docs/performance.md has it.
#[derive(Debug, Clone, Parser)]
pub struct Options {
    /// Only these rows (separated by commas)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,

    /// Names of all rows, with what they measure
    #[arg(long)]
    list: bool,

    /// How often each figure is taken; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// Sizes instead of the row's own: MAPPINGSxPORTS, separated by commas. Bounds hold for a row's own sizes alone
    #[arg(long, value_delimiter = ',')]
    size: Vec<Size>,

    /// How many changes the rows of single changes make
    #[arg(long, default_value_t = 200)]
    events: usize,

    /// How long the idle daemon is watched, in seconds
    #[arg(long, default_value_t = 600)]
    idle: u64,

    /// How long is waited for a daemon to be ready, in seconds
    #[arg(long, default_value_t = 120)]
    patience: u64,

    /// A setting of the daemon that differs from its default: NAME=VALUE
    #[arg(long, value_parser = setting)]
    set: Vec<(String, String)>,

    /// The daemon that is measured
    #[arg(long)]
    program: PathBuf,

    /// The version before, for the upgrade
    #[arg(long)]
    previous: Option<PathBuf>,

    /// What the daemon was built from, for the table's head
    #[arg(long, default_value = "an unknown revision")]
    revision: String,

    /// Where table and plots go
    #[arg(long)]
    out: Option<PathBuf>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Options {
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }

    /// The row's own sizes, unless others are asked for.
    pub fn sizes(&self, own: &[Size]) -> Vec<Size> {
        if self.size.is_empty() { own.to_vec() } else { self.size.clone() }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        ROWS.iter().for_each(|row| println!("{:14} {}", row.name, row.about));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = options.only.iter().find(|name| ROWS.iter().all(|row| row.name != **name)) {
        eprintln!("there is no row {unknown}; --list names all");
        return ExitCode::from(2);
    }
    let machine = machine::described(&options.revision);
    eprintln!("{machine}");
    // What broke off is told in the table.
    std::panic::set_hook(Box::new(|_| ()));
    let mut figures = Figures::new();
    for row in ROWS.iter().filter(|row| options.only.is_empty() || options.only.iter().any(|o| o == row.name)) {
        figures.say(format_args!("{}: {}", row.name, row.about));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (row.measure)(&options, &mut figures))) {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            figures.fail(row.name, "it broke off", text.unwrap_or("for an unknown reason"));
        }
    }
    let table = format!("{machine}\n\n{}", figures.table());
    println!("\n{table}");
    figures.say("the end");
    if let Some(out) = &options.out {
        std::fs::write(out.join("table.md"), &table).expect("the directory for results can be written");
    }
    if figures.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

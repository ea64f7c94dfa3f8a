use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    smartnat::cli::run(smartnat::cli::Cli::parse())
}

//! What a package installs beside the program: completions for shells and manual pages, from the command line's own definition.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

use super::{Answer, Cli, CliError, say};

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell that reads them
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Directory for the pages of the program and of every subcommand; without it the program's own page is printed
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<Answer, CliError> {
    let mut script = Vec::new();
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    say(&String::from_utf8_lossy(&script))?;
    Ok(Answer::Done)
}

pub(super) fn man(args: &ManArgs) -> Result<Answer, CliError> {
    let mut program = Cli::command();
    // Subcommands get the settings, which are everywhere, and their full names.
    program.build();
    let Some(directory) = &args.directory else {
        say(&page(program).map_err(|e| CliError::failed("the page cannot be made", e))?)?;
        return Ok(Answer::Done);
    };
    let subcommands: Vec<Command> = program.get_subcommands().filter(|c| c.get_name() != "help").cloned().collect();
    for subcommand in subcommands {
        let name = format!("{}-{}", program.get_name(), subcommand.get_name());
        write(directory, subcommand.display_name(name))?;
    }
    write(directory, program)?;
    Ok(Answer::Done)
}

fn page(command: Command) -> io::Result<String> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn write(directory: &Path, command: Command) -> Result<(), CliError> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let path = directory.join(format!("{name}.1"));
    page(command)
        .and_then(|page| fs::File::create(&path)?.write_all(page.as_bytes()))
        .map_err(|e| CliError::failed(format!("{} cannot be written; does the directory exist?", path.display()), e))
}

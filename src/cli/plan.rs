use clap::{Args, ValueEnum};
use serde_json::json;

use super::view::{View, print_changes};
use super::world::{self, HostArgs};
use super::{Answer, CliError, print, say, say_json};
use crate::apply::{self, Tools};
use crate::plan;
use crate::settings::Settings;

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// Show only what differs from what is programmed on this box; exit code 3 when something does
    #[arg(long, conflicts_with = "host")]
    diff: bool,
    #[command(flatten)]
    host: HostArgs,
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

pub(super) async fn run(settings: Settings, args: PlanArgs) -> Result<Answer, CliError> {
    let world = world::world(&settings, &args.host).await?;
    let plan = plan::plan(&settings.border, &world);
    if !args.diff {
        match args.output {
            Output::Text => say(&print::text(&plan, world.objects.is_some()))?,
            Output::Json => say_json(&print::json(&plan))?,
        }
        return Ok(Answer::Done);
    }
    let held = apply::held(&Tools::new(settings.tool_timeout))
        .await
        .map_err(|e| CliError::failed("what is programmed cannot be read back", e))?;
    let held = View::of_held(&held, &world.host, &plan.dataplane.sysctls);
    let changes = held.changes_to(&View::of(&plan.dataplane));
    match args.output {
        Output::Text if changes.is_empty() => say("Everything planned is programmed, and nothing else of ours.\n")?,
        Output::Text => say(&print_changes(&changes))?,
        Output::Json => say_json(&json!({ "changes": changes }))?,
    }
    Ok(if changes.is_empty() { Answer::Done } else { Answer::No })
}

use clap::Args;

use super::{Answer, CliError, pending, say, world};
use crate::settings::LocalSettings;

#[derive(Debug, Args)]
pub(super) struct CleanupArgs {
    /// Also where the cluster would then be open to the external interfaces
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(settings: LocalSettings, args: CleanupArgs) -> Result<Answer, CliError> {
    let host = world::host(None).await?;
    match pending::cleanup(&settings, &host, args.force).await? {
        None => {
            say("All that SmartNat programmed is removed.\n")?;
            Ok(Answer::Done)
        }
        Some(reason) => {
            eprintln!("smartnat-manager: nothing was removed: {reason}");
            Ok(Answer::No)
        }
    }
}

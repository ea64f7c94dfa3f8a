//! Adapters to parts that are not merged yet; goes away with the merge.

use std::path::Path;

use super::CliError;
use super::view::View;
use crate::model::{Host, Objects};
use crate::settings::{LocalSettings, Settings};

fn absent<T>(what: &str) -> Result<T, CliError> {
    Err(CliError::Plain(format!("{what} is not part of this build")))
}

/// crate::daemon::run(settings)
pub(super) async fn run(settings: Settings) -> Result<(), CliError> {
    crate::daemon::run(settings).await.map_err(|e| CliError::failed("the daemon could not start", e))
}

/// crate::daemon::border(settings)
pub(super) async fn border(settings: Settings) -> Result<(), CliError> {
    crate::daemon::border(&settings).await.map(drop).map_err(|e| CliError::failed("the border is not closed", e))
}

/// crate::sources::describe::parse_host(&text), with the path in the message
pub(super) fn parse_host(_path: &Path, _text: &str) -> Result<Host, CliError> {
    absent("the host description")
}

/// crate::sources::manifests::load_dir(&dir)
pub(super) fn load_dir(dir: &Path) -> Result<Objects, CliError> {
    crate::sources::manifests::load_dir(dir).map_err(|e| CliError::failed("the manifests cannot be used", e))
}

/// What the kernel holds of ours: the chains and sets read back by crate::apply, as text like View::of prints a Dataplane.
pub(super) async fn held(_settings: &Settings, _host: &Host) -> Result<View, CliError> {
    absent("reading back what is programmed")
}

/// crate::apply::cleanup::cleanup(tools, state_dir, &host, force): `Ok(Some(reason))` when it refuses without --force
pub(super) async fn cleanup(settings: &LocalSettings, host: &Host, force: bool) -> Result<Option<String>, CliError> {
    use crate::apply::{CleanupError, Tools, cleanup};
    match cleanup(Tools::new(settings.tool_timeout), &settings.state_dir, host, force).await {
        Ok(_) => Ok(None),
        Err(error @ CleanupError::WouldOpen { .. }) => Ok(Some(error.to_string())),
        Err(error) => Err(CliError::failed("cleanup stopped; what is left can be removed by running it again", error)),
    }
}

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
pub(super) async fn run(_settings: Settings) -> Result<(), CliError> {
    absent("the daemon")
}

/// crate::daemon::border(settings)
pub(super) async fn border(_settings: Settings) -> Result<(), CliError> {
    absent("the border")
}

/// crate::sources::describe::parse_host(&text), with the path in the message
pub(super) fn parse_host(_path: &Path, _text: &str) -> Result<Host, CliError> {
    absent("the host description")
}

/// crate::sources::manifests::load_dir(&dir)
pub(super) fn load_dir(_dir: &Path) -> Result<Objects, CliError> {
    absent("reading manifests")
}

/// What the kernel holds of ours: the chains and sets read back by crate::apply, as text like View::of prints a Dataplane.
pub(super) async fn held(_settings: &Settings, _host: &Host) -> Result<View, CliError> {
    absent("reading back what is programmed")
}

/// crate::apply::cleanup::cleanup(tools, state_dir, &host, force): `Ok(Some(reason))` when it refuses without --force
pub(super) async fn cleanup(_settings: &LocalSettings, _host: &Host, _force: bool) -> Result<Option<String>, CliError> {
    absent("cleanup")
}

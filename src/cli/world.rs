use std::path::{Path, PathBuf};

use clap::Args;

use super::CliError;
use crate::model::{Host, Objects, World};
use crate::plan::slots;
use crate::settings::{ObjectSource, Settings};
use crate::sources::describe::parse_host;
use crate::sources::host::read_host;
use crate::sources::manifests::load_dir;

/// Where `plan` and `trace` take the host from.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct HostArgs {
    /// Take the host from this YAML description instead of this box: works without privileges
    #[arg(long, value_name = "FILE")]
    pub(super) host: Option<PathBuf>,
}

/// The world as the daemon would see it now.
pub(super) async fn world(settings: &Settings, args: &HostArgs) -> Result<World, CliError> {
    let host = host(args.host.as_deref()).await?;
    let objects = objects(settings)?;
    let slots = slots::remembered(&settings.border, &host.own_rules);
    Ok(World { host, objects: objects.map(Into::into), slots })
}

pub(super) async fn host(description: Option<&Path>) -> Result<Host, CliError> {
    let Some(path) = description else {
        return read_host().await.map_err(|e| CliError::failed("this box cannot be looked at", e));
    };
    let text = std::fs::read_to_string(path)
        .map_err(|e| CliError::failed(format!("the host description {} cannot be read", path.display()), e))?;
    parse_host(&text)
        .map_err(|e| CliError::failed(format!("the host description {} cannot be used", path.display()), e))
}

/// `None` when no source of objects is set: the plan is then that of the border alone.
pub(super) fn objects(settings: &Settings) -> Result<Option<Objects>, CliError> {
    let load = |dir: &Path| load_dir(dir).map_err(|e| CliError::failed("the objects cannot be read", e));
    match &settings.objects {
        ObjectSource::Manifests(dir) => load(dir).map(Some),
        _ => Ok(None),
    }
}

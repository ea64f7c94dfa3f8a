use std::error::Error;
use std::path::{Path, PathBuf};

use clap::Args;

use super::CliError;
use crate::cluster;
use crate::model::{Host, Objects, World};
use crate::plan::slots;
use crate::settings::{ObjectSource, Settings};
use crate::sources::describe::parse_host;
use crate::sources::host::read_host;
use crate::sources::kubernetes;
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
    let objects = objects(settings).await?;
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
pub(super) async fn objects(settings: &Settings) -> Result<Option<Objects>, CliError> {
    let failed = |e: Box<dyn Error + Send + Sync>| CliError::failed("the objects cannot be read", e);
    match &settings.objects {
        ObjectSource::Manifests(dir) => load_dir(dir).map(Some).map_err(|e| failed(e.into())),
        ObjectSource::None => Ok(None),
        source => {
            let session = cluster::connect(source).await.map_err(|e| failed(e.into()))?;
            kubernetes::read(&session).await.map(Some).map_err(|e| failed(e.into()))
        }
    }
}

use std::io;
use std::time::SystemTime;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::Daemon;
use super::snapshot::Snapshot;
use crate::apply::{Applied, Applier, ApplyError, LockError, Scope, Tools, WriterLock};
use crate::error_chain;
use crate::model::World;
use crate::plan::{self, slots};
use crate::report::{self, Monitor, Report};
use crate::ruleset::Sysctl;
use crate::settings::{ObjectSource, Settings};
use crate::sources::host::{HostError, read_host};
use crate::sources::{SourceState, host, manifests, tables};

/// Name of the manifests source.
const MANIFESTS: &str = "manifests";

#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("no source of objects; name a directory of manifests with --manifests DIR or SNCTRLR_MANIFESTS")]
    NoSource,
    #[error(transparent)]
    Running(LockError),
    #[error("the host's interfaces, addresses and routes could not be read by netlink")]
    Host(#[from] HostError),
    #[error("signals could not be listened for")]
    Signals(#[source] io::Error),
    #[error("the border could not be closed")]
    Border(#[from] ApplyError),
}

/// The daemon: until SIGTERM or SIGINT. The dataplane stays when it ends.
pub async fn run(settings: Settings) -> Result<(), DaemonError> {
    let ObjectSource::Manifests(directory) = settings.objects.clone() else { return Err(DaemonError::NoSource) };
    let stop = stop_signal()?;
    let _lock = only_writer(&settings)?;
    let host = read_host().await?;
    let kept = slots::remembered(&settings.border, &host.own_rules);
    let snapshot = Snapshot::new(World { host, objects: None, slots: kept });

    let tools = Tools::new(settings.tool_timeout);
    let writers = tools.own_writers();
    let (reports, readers) = watch::channel(Report::new(SystemTime::now()));
    for source in ["host", MANIFESTS] {
        reports.send_modify(|r| r.source_state(source, SourceState::Syncing, SystemTime::now()));
    }

    let (sender, mut events) = mpsc::channel(64);
    tokio::spawn(host::run(settings.autorefresh, sender.clone()));
    tokio::spawn(tables::run(move |pid| writers.contains(pid), sender.clone()));
    tokio::spawn(manifests::run(directory, sender));
    tokio::spawn(report::serve(settings.monitor, monitor(&settings, readers)));

    Daemon::new(settings, snapshot, tools, reports).run(&mut events, stop).await;
    Ok(())
}

/// Refuses to be the second writer. A state directory that cannot be used is no reason to leave the border open: the pass that needs it
/// says so.
fn only_writer(settings: &Settings) -> Result<Option<WriterLock>, DaemonError> {
    match WriterLock::take(&settings.state_dir) {
        Ok(lock) => Ok(Some(lock)),
        Err(held @ LockError::Held { .. }) => Err(DaemonError::Running(held)),
        Err(error) => {
            tracing::warn!(
                error = error_chain(&error),
                "going on without a lock; see that no other smartnat-manager runs here (SNCTRLR_STATE_DIR)"
            );
            Ok(None)
        }
    }
}

fn monitor(settings: &Settings, report: watch::Receiver<Report>) -> Monitor {
    // The loop shows itself at every refresh, and in a pass between two calls of tools.
    let stuck_after = settings.autorefresh.max(settings.tool_timeout).max(super::HEARTBEAT) * 3;
    Monitor { report, instance: settings.border.instance_name.as_str().into(), stuck_after }
}

/// Closes the border alone: what follows from the host (which may have no interface yet), without enabling forwarding.
pub async fn border(settings: &Settings) -> Result<Applied, DaemonError> {
    let host = read_host().await?;
    let kept = slots::remembered(&settings.border, &host.own_rules);
    let mut dataplane = plan::border(&settings.border, &host, &kept).dataplane;
    dataplane.sysctls.remove(&Sysctl::IpForward);
    let mut applier = Applier::new(Tools::new(settings.tool_timeout), settings.state_dir.clone());
    Ok(applier.apply(&dataplane, &host, Scope::Border).await?)
}

fn stop_signal() -> Result<impl Future<Output = &'static str>, DaemonError> {
    let listen = |kind| signal(kind).map_err(DaemonError::Signals);
    let mut terminate: Signal = listen(SignalKind::terminate())?;
    let mut interrupt: Signal = listen(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

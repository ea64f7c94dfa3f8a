use std::io;
use std::time::SystemTime;

use tokio::sync::{mpsc, watch};

use super::Daemon;
use super::snapshot::Snapshot;
use super::stop::Stop;
use crate::apply::{Applied, Applier, ApplyError, LockError, Scope, Tools, WriterLock};
use crate::cluster::lease::{self, LeaseSettings};
use crate::cluster::{self, ConnectError};
use crate::error_chain;
use crate::model::World;
use crate::plan::{self, slots};
use crate::publish;
use crate::report::{self, Monitor, Report};
use crate::settings::{ObjectSource, Settings};
use crate::sources::host::{HostError, read_host};
use crate::sources::{SourceEvent, SourceName, SourceState, host, kubernetes, manifests, tables};

#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("{}", ConnectError::NoSource)]
    NoSource,
    #[error(transparent)]
    Running(LockError),
    #[error("the host's interfaces, addresses and routes could not be read by netlink")]
    Host(#[from] HostError),
    #[error(transparent)]
    Connect(#[from] crate::cluster::ConnectError),
    #[error("signals could not be listened for")]
    Signals(#[source] io::Error),
    #[error("the border could not be closed")]
    Border(#[from] ApplyError),
}

/// The daemon: until SIGTERM or SIGINT. The dataplane stays when it ends.
pub async fn run(settings: Settings) -> Result<(), DaemonError> {
    let objects_from = source_name(&settings.objects).ok_or(DaemonError::NoSource)?;
    let stop = Stop::by_signals().map_err(DaemonError::Signals)?;
    let _lock = only_writer(&settings)?;
    let host = read_host().await?;
    let kept = slots::remembered(&settings.border, &host.own_rules);
    let snapshot = Snapshot::new(World { host, objects: None, slots: kept });

    let tools = Tools::recognisable(settings.tool_timeout, &settings.state_dir);
    let (reports, readers) = watch::channel(Report::new(SystemTime::now()));
    for source in ["host", objects_from] {
        reports.send_modify(|r| r.source_state(source, SourceState::Syncing, SystemTime::now()));
    }

    let (sender, mut events) = mpsc::channel(64);
    tokio::spawn(host::run(settings.autorefresh, sender.clone()));
    tokio::spawn(tables::run(tools.ledger().clone(), sender.clone()));
    spawn_objects(&settings, sender, &reports);
    tokio::spawn(report::serve(settings.monitor, monitor(&settings, readers)));

    Daemon::new(settings, snapshot, tools, reports).run(&mut events, stop).await;
    Ok(())
}

/// Under which the source of objects reports.
fn source_name(objects: &ObjectSource) -> Option<SourceName> {
    match objects {
        ObjectSource::Manifests(_) => Some(manifests::SOURCE),
        ObjectSource::Kubeconfig(_) | ObjectSource::InCluster => Some(kubernetes::SOURCE),
        ObjectSource::None => None,
    }
}

/// What reads the objects; with the Kubernetes API as their source also what answers there.
fn spawn_objects(settings: &Settings, events: mpsc::Sender<SourceEvent>, reports: &watch::Sender<Report>) {
    if let ObjectSource::Manifests(directory) = &settings.objects {
        tokio::spawn(manifests::run(directory.clone(), events));
        return;
    }
    let instance = settings.border.instance_name.clone();
    let sessions = cluster::keep_session(settings.objects.clone(), reports.clone());
    let lease =
        LeaseSettings { namespace: settings.namespace.clone(), instance: instance.clone(), duration: settings.lease };
    let fleet = lease::run(sessions.clone(), lease, reports.clone());
    let (records, answers) = mpsc::channel(64);
    let publishing =
        publish::Settings { instance: instance.clone(), max_wait: settings.max_finalize_wait, lease: settings.lease };
    tokio::spawn(publish::run(publishing, answers, sessions.clone(), fleet.clone(), reports.clone()));
    tokio::spawn(kubernetes::run(sessions, fleet, instance, events, records));
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
    dataplane.sysctls.retain(|sysctl, _| !sysctl.is_forwarding());
    let mut applier = Applier::new(Tools::new(settings.tool_timeout), settings.state_dir.clone());
    Ok(applier.apply(&dataplane, &host, Scope::Border).await?)
}

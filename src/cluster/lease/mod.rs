//! The Lease by which this instance holds its name, and those of the others.
//!
//! Every quarter of a Lease's duration the own Lease is renewed and all are listed. A list is a look at what the API server holds now; a watch that
//! hears nothing may also be one that broke.

mod claim;
mod observer;
mod trouble;

use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{ListParams, PostParams};
use tokio::sync::watch;

use self::claim::{Claim, Step};
pub use self::observer::duration_of;
use self::observer::{Look, Observer};
use self::trouble::Trouble;
use super::{Fleet, Session, Sessions, Standing, machine};
use crate::report::Report;
use crate::sources::{SourceName, SourceState};

/// The name under which this task speaks.
pub const SOURCE: SourceName = "lease";

/// Leases of instances carry this label with the value [`PROGRAM`].
pub const LABEL: &str = "app.kubernetes.io/name";
pub const PROGRAM: &str = "smartnat";

/// A try that failed is repeated at least so often.
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// Bounds of how long one request may take: a quarter of the duration, within these.
const SHORTEST_PATIENCE: Duration = Duration::from_secs(2);
const LONGEST_PATIENCE: Duration = Duration::from_secs(10);
/// Others write to the own Lease rarely; more conflicts than this in one round are told.
const CONFLICTS: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseSettings {
    /// Where the Leases are.
    pub namespace: String,
    /// The own one's name.
    pub instance: String,
    /// Unrenewed for so long, an instance counts as silent.
    pub duration: Duration,
}

/// Holds this instance's Lease and watches those of the others, in a task of its own until nobody listens any more.
///
/// The Lease stays when the program ends: a restart is nothing that others should see.
pub fn run(sessions: Sessions, settings: LeaseSettings, reports: watch::Sender<Report>) -> watch::Receiver<Fleet> {
    let (fleet, readers) = watch::channel(Fleet::default());
    let LeaseSettings { namespace, instance, duration } = settings;
    let registrar = Registrar {
        observer: Observer::new(instance.clone(), duration, duration / 2),
        claim: Claim::new(namespace, instance, machine::id(), duration),
        period: duration / 4,
        retry: (duration / 8).min(LONGEST_RETRY),
        patience: (duration / 4).clamp(SHORTEST_PATIENCE, LONGEST_PATIENCE),
        own: None,
        fleet,
        teller: Teller { reports, told: None },
    };
    registrar.teller.state(SourceState::Syncing);
    tokio::spawn(registrar.run(sessions));
    readers
}

struct Registrar {
    observer: Observer,
    claim: Claim,
    period: Duration,
    retry: Duration,
    patience: Duration,
    /// The own Lease as this process wrote it last.
    own: Option<Lease>,
    fleet: watch::Sender<Fleet>,
    teller: Teller,
}

impl Registrar {
    async fn run(mut self, mut sessions: Sessions) {
        loop {
            let session = sessions.borrow_and_update().clone();
            let began = tokio::time::Instant::now();
            let pause = match session {
                // Who makes sessions says why there is none.
                None => self.period,
                Some(session) => match self.round(&session).await {
                    Ok(()) => self.period,
                    Err(()) => self.retry,
                },
            };
            tokio::select! {
                () = tokio::time::sleep_until(began + pause) => {}
                () = changed(&mut sessions) => {}
                () = self.fleet.closed() => return,
            }
        }
    }

    /// `Err`: something went wrong, was told, and should be tried again soon.
    async fn round(&mut self, session: &Session) -> Result<(), ()> {
        let api: Api<Lease> = Api::namespaced(session.client.clone(), &self.claim.namespace);
        let claimed = self.claim_name(&api).await;
        // Also of use to one that has no Lease itself.
        let listed = match &claimed {
            Err(Trouble::Away(_)) => Err(None),
            _ => self.look_at_all(&api).await.map_err(Some),
        };
        if listed.is_err() {
            self.observer.missed();
        }
        let well = claimed.is_ok() && listed.is_ok();
        self.settle(claimed, listed.err().flatten());
        if well { Ok(()) } else { Err(()) }
    }

    /// Takes or renews the own Lease, or says why it is not ours.
    async fn claim_name(&mut self, api: &Api<Lease>) -> Result<Standing, Trouble> {
        for _ in 0..CONFLICTS {
            let current = match self.own.take() {
                // Nobody else should have written; the API server says if somebody did.
                Some(own) => Some(own),
                None => self.look_at_own(api).await?,
            };
            let silent = self.observer.is_silent(&self.claim.instance);
            if current.as_ref().is_some_and(|lease| self.claim.is_disputed_by(lease)) {
                tracing::warn!(
                    machine = machine::short(&self.claim.machine),
                    "another machine or process with this machine's id has claimed the name of this instance; it is taken back. Look \
                     for a clone of this machine, and give it a machine id and a name of its own"
                );
            }
            let mut creating = false;
            let written = match self.claim.step(current.as_ref(), silent, Timestamp::now()) {
                Step::Refused(reason) => {
                    self.claim.refused();
                    return Ok(Standing::Refused { reason });
                }
                Step::Create(lease) => {
                    creating = true;
                    self.request(api.create(&PostParams::default(), &lease)).await
                }
                Step::Replace(lease) => {
                    self.request(api.replace(&self.claim.instance, &PostParams::default(), &lease)).await
                }
            };
            match written {
                Ok((look, lease)) => {
                    self.claim.wrote(current.as_ref(), &lease);
                    self.observer.one(look, &self.claim.instance, lease.spec.as_ref());
                    self.own = Some(lease);
                    return Ok(Standing::Held);
                }
                Err(Trouble::Conflict) => {}
                // Deleted meanwhile.
                Err(Trouble::Missing(_)) if !creating => {}
                Err(trouble) => return Err(trouble),
            }
        }
        Err(Trouble::Away(format!(
            "Lease {}/{} is being written by somebody else all the time",
            self.claim.namespace, self.claim.instance
        )))
    }

    async fn look_at_own(&mut self, api: &Api<Lease>) -> Result<Option<Lease>, Trouble> {
        let (look, lease) = self.request(api.get_opt(&self.claim.instance)).await?;
        let spec = lease.as_ref().map(|l| l.spec.clone().unwrap_or_default());
        self.observer.one(look, &self.claim.instance, spec.as_ref());
        Ok(lease)
    }

    async fn look_at_all(&mut self, api: &Api<Lease>) -> Result<(), Trouble> {
        // Without a resourceVersion: what is there now, not what a cache held a moment ago.
        let parameters = ListParams::default().labels(&format!("{LABEL}={PROGRAM}"));
        let (look, list) = self.request(api.list(&parameters)).await?;
        let named = list.items.iter().filter_map(|l| l.metadata.name.as_deref().zip(l.spec.as_ref()));
        self.observer.all(look, named);
        Ok(())
    }

    async fn request<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<(Look, T), Trouble> {
        let begun = Instant::now();
        match tokio::time::timeout(self.patience, request).await {
            Ok(Ok(answer)) => Ok((Look { begun, ended: Instant::now() }, answer)),
            Ok(Err(error)) => Err(Trouble::of(&error, &self.claim.namespace)),
            Err(_) => Err(Trouble::late(self.patience)),
        }
    }

    fn settle(&mut self, claimed: Result<Standing, Trouble>, list: Option<Trouble>) {
        let unreadable = list.map(|trouble| match trouble {
            Trouble::Away(reason) => Told::Away(reason),
            Trouble::Denied(reason) | Trouble::Missing(reason) => {
                Told::Trouble(format!("who else is there is not known: {reason}"))
            }
            Trouble::Conflict => Told::Away("the list of Leases ended in a conflict".to_owned()),
        });
        let (standing, told) = match claimed {
            Ok(Standing::Refused { reason }) => {
                (Some(Standing::Refused { reason: reason.clone() }), Told::Trouble(reason))
            }
            Ok(standing) => (Some(standing), unreadable.unwrap_or(Told::Current)),
            Err(Trouble::Denied(reason) | Trouble::Missing(reason)) => {
                let reason = format!(
                    "this instance cannot hold its Lease {}/{}, others do not see that it lives: {reason}",
                    self.claim.namespace, self.claim.instance
                );
                // Rights that were taken away free no name.
                let refused = matches!(self.fleet.borrow().standing, Standing::Refused { .. });
                ((!refused).then(|| Standing::Unregistered { reason: reason.clone() }), Told::Trouble(reason))
            }
            Err(Trouble::Away(reason)) => (None, Told::Away(reason)),
            Err(Trouble::Conflict) => (None, Told::Away("the Lease is written by somebody else".to_owned())),
        };
        self.teller.tell(told);
        self.fleet.send_if_modified(|fleet| {
            let before = fleet.clone();
            if let Some(standing) = standing {
                fleet.standing = standing;
            }
            self.observer.fill(fleet);
            if fleet.standing == Standing::Held {
                fleet.unjudged.remove(&self.claim.instance);
                fleet.silent.remove(&self.claim.instance);
                fleet.alive.insert(self.claim.instance.clone());
            }
            tell_lives(&before, fleet);
            *fleet != before
        });
    }
}

fn tell_lives(before: &Fleet, now: &Fleet) {
    for (name, renewed) in now.silent.iter().filter(|(name, _)| !before.silent.contains_key(*name)) {
        let renewed = renewed.map_or_else(|| "never".to_owned(), |t| t.to_string());
        tracing::warn!(
            instance = name,
            renewed,
            "an instance is silent: its Lease was not renewed for its whole duration. If it is gone for good, `smartnat-manager forget \
             {name}` releases what it held"
        );
    }
    for name in before.silent.keys().filter(|name| now.alive.contains(*name)) {
        tracing::info!(instance = name, "an instance that was silent renews its Lease again");
    }
}

async fn changed(sessions: &mut Sessions) {
    if sessions.changed().await.is_err() {
        // Nobody will make another.
        std::future::pending::<()>().await;
    }
}

/// Says how it stands: in the report every time, in the log when it is news.
struct Teller {
    reports: watch::Sender<Report>,
    told: Option<Told>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Current,
    Away(String),
    Trouble(String),
}

impl Teller {
    fn state(&self, state: SourceState) {
        self.reports.send_modify(|r| r.source_state(SOURCE, state, SystemTime::now()));
    }

    fn tell(&mut self, now: Told) {
        // Reasons of an outage change by the second.
        let news = match (&self.told, &now) {
            (Some(Told::Away(_)), Told::Away(_)) => false,
            (before, now) => before.as_ref() != Some(now),
        };
        match &now {
            Told::Current if news => tracing::info!("this instance's Lease is held"),
            Told::Away(reason) if news => {
                tracing::warn!(reason, "this instance's Lease cannot be renewed; tried again")
            }
            Told::Trouble(reason) if news => tracing::error!("{reason}"),
            _ => {}
        }
        self.state(match &now {
            Told::Current => SourceState::Current,
            Told::Away(reason) | Told::Trouble(reason) => SourceState::Away { reason: reason.clone() },
        });
        self.told = Some(now);
    }
}

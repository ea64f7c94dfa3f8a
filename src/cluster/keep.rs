//! Keeps a session: makes it, and another one when what it was made of changes.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::config::Signs;
use super::credential::{self, Credential};
use super::renewal::{Renewal, Renewed};
use super::session::{self, Session, Sessions};
use super::{ConnectError, config};
use crate::error_chain;
use crate::report::Report;
use crate::settings::ObjectSource;
use crate::sources::{SourceName, SourceState, kubernetes};

/// Files are looked at so often: they are few and small, and links and mounts change without a notice.
const LOOK: Duration = Duration::from_secs(2);
/// A client that cannot be made (a credential plugin that fails) is tried again after [`LOOK`], then less often.
const LAST_RETRY: Duration = Duration::from_secs(10);
/// A credential that is refused for so long is got anew, and when that does not help, less often.
const FIRST_RENEWAL: Duration = Duration::from_secs(10);
const LAST_RENEWAL: Duration = Duration::from_secs(300);
/// An expiry is warned about so often.
const REMINDER: Duration = Duration::from_secs(24 * 3600);
/// Under this name a kubeconfig is reported that has become bad while a session is in force.
const KUBECONFIG: SourceName = "kubeconfig";

/// Makes the session and looks after it as long as somebody holds the receiver. Troubles go to the report; a credential's times too.
pub fn run(source: ObjectSource, reports: watch::Sender<Report>) -> Sessions {
    let (sessions, receiver) = watch::channel(None);
    let keeper = Keeper {
        source,
        reports,
        sessions,
        held: None,
        credential: None,
        retry: LOOK,
        renewal: FIRST_RENEWAL,
        trouble: None,
        bad_looks: 0,
        reminded: None,
    };
    tokio::spawn(keeper.run());
    receiver
}

struct Keeper {
    source: ObjectSource,
    reports: watch::Sender<Report>,
    sessions: watch::Sender<Option<Session>>,
    held: Option<Held>,
    /// As the files said last.
    credential: Option<Credential>,
    retry: Duration,
    renewal: Duration,
    /// What was told last.
    trouble: Option<String>,
    /// In a row. A kubeconfig that is just being written is bad for one look.
    bad_looks: u32,
    reminded: Option<Instant>,
}

/// What the session in force was made of.
struct Held {
    session: Session,
    fingerprint: [u8; 32],
    /// As long as they stand, nothing has to be read.
    signs: Signs,
    renewal: Renewal,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let pause = match self.look().await {
                Ok(()) => {
                    self.trouble_is_over();
                    self.retry = LOOK;
                    LOOK
                }
                Err(error) => {
                    self.tell(&error);
                    if matches!(error, ConnectError::Client { .. } | ConnectError::Plugin { .. }) {
                        self.retry = (self.retry * 2).min(LAST_RETRY);
                    }
                    self.retry
                }
            };
            tokio::select! {
                () = self.sessions.closed() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn look(&mut self) -> Result<(), ConnectError> {
        let setup = match self.held.as_ref().is_some_and(|held| held.signs.stand()) {
            true => None,
            false => Some(config::read(&self.source).await?),
        };
        if let Some(setup) = &setup {
            self.credential = credential::of_setup(setup);
        }
        self.report_credential();
        if let Some(held) = &mut self.held
            && setup.as_ref().is_none_or(|setup| setup.fingerprint == held.fingerprint)
        {
            if let Some(setup) = &setup {
                held.signs = setup.signs.clone();
            }
            let renewed = held.renewal.look(&held.session.server).await?;
            if renewed == Renewed::Yes {
                tracing::info!("the token for the API server was renewed");
            }
            let refused_for = held.session.refused_for();
            if refused_for.is_zero() {
                self.renewal = FIRST_RENEWAL;
            }
            if renewed != Renewed::NeedsClient {
                if refused_for < self.renewal {
                    return Ok(());
                }
                self.renewal = (self.renewal * 2).min(LAST_RENEWAL);
                tracing::info!(server = held.session.server, "the credential is refused; getting it anew");
            }
        }
        let setup = match setup {
            Some(setup) => setup,
            None => config::read(&self.source).await?,
        };
        let (fingerprint, signs) = (setup.fingerprint, setup.signs.clone());
        let (session, renewal) = session::open(setup).await?;
        tracing::info!(server = session.server, "the API server is spoken to with the credential as it is now");
        self.sessions.send_replace(Some(session.clone()));
        self.held = Some(Held { session, fingerprint, signs, renewal });
        Ok(())
    }

    fn tell(&mut self, error: &ConnectError) {
        self.bad_looks += 1;
        let mut text = error_chain(error);
        let source = match &self.held {
            Some(_) if self.bad_looks < 2 => return,
            Some(_) => {
                text += "; going on with what was read before";
                KUBECONFIG
            }
            None => kubernetes::SOURCE,
        };
        if self.trouble.as_ref() == Some(&text) {
            return;
        }
        tracing::warn!("{text}");
        let state = SourceState::Away { reason: text.clone() };
        self.reports.send_modify(|r| r.source_state(source, state, SystemTime::now()));
        self.trouble = Some(text);
    }

    fn trouble_is_over(&mut self) {
        self.bad_looks = 0;
        if self.trouble.take().is_some() {
            self.reports.send_if_modified(|r| {
                let told = r.sources.contains_key(KUBECONFIG);
                if told {
                    r.source_state(KUBECONFIG, SourceState::Current, SystemTime::now());
                }
                told
            });
        }
    }

    fn report_credential(&mut self) {
        let credential = self.credential.clone();
        let now = Timestamp::now();
        if let Some(credential) = credential.as_ref().filter(|c| c.is_due(now)) {
            if self.reminded.is_none_or(|at| at.elapsed() >= REMINDER) {
                self.reminded = Some(Instant::now());
                tracing::warn!("{}; {}", credential.expiry(now), credential.kind.remedy());
            }
        } else {
            self.reminded = None;
        }
        let expired = credential.as_ref().is_some_and(|c| c.is_expired(now));
        self.reports.send_if_modified(|r| {
            let changed = r.credential != credential || r.credential_expired != expired;
            r.credential = credential;
            r.credential_expired = expired;
            changed
        });
    }
}

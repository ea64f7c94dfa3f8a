//! Answers in the Kubernetes API: finalizers, statuses, Events. The report of what the daemon found, written where the Mappings stand.
//!
//! One task owns what is known of every Mapping there ([`Record`]s from the watch and from answers to writes) and what the daemon's last good
//! pass said. Whatever changes marks Mappings; for each a pure function ([`decide()`]) names the one next step, if any.
//!
//! A new Mapping: finalizer, then this instance's entry in the status, then the daemon programs it, then the entry says so. A deleted one: the
//! kernel first, then the entry goes, and who finds no entry left, or none but its own, removes the finalizer. A crash between any
//! two of these leaves a state from which the same decisions go on.

mod decide;
mod events;
mod pace;
mod queue;
mod statement;
mod telling;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use kube::runtime::events::{Recorder, Reporter};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use decide::{Step, View, decide};
pub use statement::{Shared, Statement, Verdict, own_entry, shared, statement};

use crate::cluster::{Fleet, KeptRecord, Record, RecordEvent, Session, Sessions};
use crate::error_chain;
use crate::model::{ObjectKey, changes};
use crate::report::{Outcomes, Report};
use crate::sources::SourceState;
use pace::{Paces, Trouble};
use queue::Queue;
use telling::{Events, Told, tell};
use write::{WriteError, Writer};

/// Name under which troubles of writing are told.
const SOURCE: &str = "status";
/// Requests under way at once.
const CONCURRENCY: usize = 8;
/// What was changed meanwhile is looked at again when the watch tells, or after this.
const OUTDATED: Duration = Duration::from_millis(500);
/// What the API server rejects is tried again after this.
const REJECTED: Duration = Duration::from_secs(60);
/// The API server is asked for its time again after this.
const TIME_VALID: Duration = Duration::from_secs(60);

/// What the publisher needs to know.
pub struct Settings {
    /// Name of this instance.
    pub instance: String,
    /// `SNCTRLR_MAX_FINALIZE_WAIT_MINUTES`.
    pub max_wait: Duration,
    /// Duration of Leases; each instance looks at all of them four times in it.
    pub lease: Duration,
}

/// Runs until the channel of records closes.
pub async fn run(
    settings: Settings,
    mut records: mpsc::Receiver<RecordEvent>,
    mut sessions: Sessions,
    mut fleet: watch::Receiver<Fleet>,
    reports: watch::Sender<Report>,
) {
    let mut outcomes = reports.subscribe();
    let mut publisher = Publisher::new(settings, reports);
    loop {
        publisher.begin();
        let due = publisher.due();
        tokio::select! {
            event = records.recv() => match event {
                Some(event) => publisher.take_record(event),
                None => return,
            },
            Ok(()) = outcomes.changed() => {
                let report = outcomes.borrow_and_update();
                if report.ready {
                    let known = Arc::clone(&report.outcomes);
                    drop(report);
                    publisher.take_outcomes(known);
                }
            }
            Ok(()) = sessions.changed() => publisher.take_session(sessions.borrow_and_update().clone()),
            Ok(()) = fleet.changed() => publisher.take_fleet(fleet.borrow_and_update().clone()),
            Some(job) = publisher.jobs.join_next() => publisher.take_job(job),
            () = sleep_until(due) => {}
        }
    }
}

/// What a task of its own came to.
enum Job {
    Write { key: ObjectKey, before: Box<Record>, step: Step, result: Result<Box<Record>, WriteError> },
    Clock(Result<(Timestamp, Instant), WriteError>),
    Event,
}

struct Publisher {
    settings: Settings,
    reports: watch::Sender<Report>,
    session: Option<(Session, Recorder)>,
    fleet: Fleet,
    records: BTreeMap<ObjectKey, KeptRecord>,
    /// Of the last good pass; `None` before the first full one.
    outcomes: Option<Arc<Outcomes>>,
    queue: Queue,
    paces: Paces,
    trouble: Trouble,
    /// What time it was at least for the API server, and when: from then on our own time goes by, whatever somebody sets our clock to.
    server_time: Option<(Timestamp, Instant)>,
    asking: bool,
    events: Events,
    jobs: JoinSet<Job>,
}

impl Publisher {
    fn new(settings: Settings, reports: watch::Sender<Report>) -> Self {
        Publisher {
            settings,
            reports,
            session: None,
            fleet: Fleet::default(),
            records: BTreeMap::new(),
            outcomes: None,
            queue: Queue::default(),
            paces: Paces::default(),
            trouble: Trouble::default(),
            server_time: None,
            asking: false,
            events: Events::default(),
            jobs: JoinSet::new(),
        }
    }

    fn take_record(&mut self, event: RecordEvent) {
        match event {
            RecordEvent::All(all) => {
                self.records = all;
                self.queue.mark_all(self.records.keys());
            }
            RecordEvent::Set(key, record) => {
                self.keep(&key, record);
                self.queue.mark(key);
            }
            RecordEvent::Gone(key) => {
                self.records.remove(&key);
                self.paces.forget(&key);
            }
        }
    }

    /// Answers to writes and the watch come in any order: an older version never replaces a newer one.
    fn keep(&mut self, key: &ObjectKey, kept: KeptRecord) {
        let known = self.records.get(key).and_then(KeptRecord::head);
        if let (Some(known), Some(record)) = (known, kept.head())
            && known.is_newer_than(&record)
        {
            return;
        }
        self.records.insert(key.clone(), kept);
    }

    fn known(&self, key: &ObjectKey) -> Option<Record> {
        self.records.get(key).and_then(KeptRecord::open)
    }

    /// That object, not another one of its name.
    fn knows(&self, key: &ObjectKey, uid: &str) -> bool {
        self.records.get(key).and_then(KeptRecord::head).is_some_and(|head| head.uid == uid)
    }

    fn take_outcomes(&mut self, outcomes: Arc<Outcomes>) {
        let old = self.outcomes.replace(Arc::clone(&outcomes));
        match old {
            Some(old) if Arc::ptr_eq(&old, &outcomes) => {}
            Some(old) => {
                self.queue.mark_all(changes(&old.mappings, &outcomes.mappings).into_iter().map(|changed| changed.key));
            }
            None => self.queue.mark_all(self.records.keys()),
        }
    }

    fn take_session(&mut self, session: Option<Session>) {
        let reporter = Reporter {
            controller: "smartnat.aureacentral.com/border".to_owned(),
            instance: Some(self.settings.instance.clone()),
        };
        self.session = session.map(|s| {
            let recorder = Recorder::new(s.client.clone(), reporter);
            (s, recorder)
        });
        self.trouble.over();
    }

    fn take_fleet(&mut self, fleet: Fleet) {
        self.fleet = fleet;
        self.queue.mark_all(self.records.keys());
    }

    /// Begins as many steps as may be under way, and an Event when it is its turn.
    fn begin(&mut self) {
        self.begin_steps();
        if self.trouble.lasts() {
            return;
        }
        if let Some((_, recorder)) = &self.session
            && let Some(told) = self.events.next(self.queue.is_idle(), Instant::now())
        {
            let recorder = recorder.clone();
            self.jobs.spawn(async move {
                tell(&recorder, told).await;
                Job::Event
            });
        }
    }

    fn begin_steps(&mut self) {
        let now = Instant::now();
        self.queue.wake(now);
        let limit = if self.trouble.lasts() { 1 } else { CONCURRENCY };
        while self.may_write() && !self.trouble.waits(now) && self.queue.under_way() < limit {
            let Some(key) = self.queue.next() else {
                if self.trouble.lasts() && self.queue.under_way() == 0 {
                    // What could not be written needs no writing any more.
                    self.well();
                }
                return;
            };
            self.step(key, now);
        }
    }

    fn may_write(&self) -> bool {
        self.session.is_some() && self.fleet.standing.may_serve() && self.outcomes.is_some()
    }

    fn step(&mut self, key: ObjectKey, now: Instant) {
        let (Some(record), Some(outcomes)) = (self.known(&key), self.outcomes.clone()) else { return };
        let server_now = self.server_time.and_then(|(time, at)| {
            let since = now.saturating_duration_since(at);
            time.checked_add(since).ok().filter(|_| since < TIME_VALID)
        });
        let view = View {
            instance: &self.settings.instance,
            fleet: &self.fleet,
            max_wait: self.settings.max_wait,
            seen_after: self.settings.lease / 2,
            now: Timestamp::now(),
            server_now,
            waited: self.queue.waited(&key, now),
        };
        match decide(&record, outcomes.mappings.get(&key).map(Arc::as_ref), &view) {
            Step::Nothing => self.queue.rest(&key),
            Step::Wait(time) => self.queue.wait(key, now, time),
            Step::AskClock => self.ask_clock(key),
            // What failed is tried at the pace of failures, so that none of it seems to be done while it waits.
            step if self.trouble.lasts() => self.write(key, record, step),
            step => match self.paces.may(&key, &step, now) {
                Ok(()) => self.write(key, record, step),
                Err(later) => self.queue.wait(key, now, later),
            },
        }
    }

    fn ask_clock(&mut self, key: ObjectKey) {
        let Some((session, _)) = &self.session else { return };
        self.queue.await_clock(key);
        if !self.asking {
            self.asking = true;
            let session = session.clone();
            self.jobs.spawn(async move { Job::Clock(write::server_time(&session).await) });
        }
    }

    fn write(&mut self, key: ObjectKey, record: Record, step: Step) {
        let Some((session, _)) = &self.session else { return };
        self.queue.begin(key.clone());
        let writer = Writer { session: session.clone(), instance: self.settings.instance.clone() };
        self.jobs.spawn(async move {
            let result = writer.take(&key, &record, &step).await;
            Job::Write { key, before: Box::new(record), step, result: result.map(Box::new) }
        });
    }

    fn take_job(&mut self, job: Result<Job, tokio::task::JoinError>) {
        match job {
            Ok(Job::Clock(Ok(known))) => {
                self.asking = false;
                self.server_time = Some(known);
                self.queue.clock_known();
            }
            Ok(Job::Clock(Err(error))) => {
                self.asking = false;
                self.queue.clock_known();
                self.ill(&error);
            }
            Ok(Job::Event) => self.events.ended(),
            Ok(Job::Write { key, before, step, result }) => {
                if result.is_ok() {
                    let told = events::events(&before, &step, &self.settings.instance);
                    let about = |event| Told { key: key.clone(), uid: before.uid.clone(), event };
                    self.events.add(told.into_iter().map(about));
                }
                self.take_write(key, &before.uid, &step, result);
            }
            // A task that panicked says so itself; its Mapping is looked at again with the next change.
            Err(error) => {
                self.events.ended();
                tracing::error!(%error, "a write to the API ended early");
            }
        }
    }

    fn take_write(&mut self, key: ObjectKey, uid: &str, step: &Step, result: Result<Box<Record>, WriteError>) {
        let now = Instant::now();
        self.queue.ended(&key);
        match result {
            Ok(after) => {
                if let Some((kind, _)) = step.kind() {
                    self.reports.send_modify(|r| *r.counters.api_writes.entry(kind).or_default() += 1);
                }
                self.well();
                if let Step::Release { unconfirmed } = step {
                    if !unconfirmed.is_empty() {
                        tracing::warn!(mapping = %key, instances = unconfirmed.join(", "), "released without their confirmation");
                    }
                    // The watch tells when it is gone.
                    self.queue.wait(key, now, OUTDATED);
                } else if self.knows(&key, uid) {
                    self.keep(&key, KeptRecord::of(&after));
                    self.queue.mark(key);
                }
            }
            Err(WriteError::Outdated(_)) => self.queue.wait(key, now, OUTDATED),
            Err(WriteError::Gone(_)) => {
                if self.knows(&key, uid) {
                    self.records.remove(&key);
                }
            }
            Err(error @ WriteError::Rejected { .. }) => {
                tracing::warn!(error = error_chain(&error), "tried again with its next change, or in a minute");
                self.reports.send_modify(|r| r.counters.api_failures += 1);
                self.queue.wait(key, now, REJECTED);
            }
            Err(error) => {
                self.ill(&error);
                self.queue.mark(key);
            }
        }
    }

    fn ill(&mut self, error: &WriteError) {
        let now = Instant::now();
        let busy = self.session.as_ref().and_then(|(session, _)| session.busy_until());
        let asked = busy.map_or(Duration::ZERO, |until| Instant::from_std(until).saturating_duration_since(now));
        let pause = self.trouble.again(now, asked);
        let server = self.session.as_ref().map_or("", |(session, _)| &session.server);
        let reason = error.explain(server);
        if self.trouble.is_new(&reason) {
            tracing::warn!(
                error = reason,
                retry_ms = pause.as_millis() as u64,
                "statuses in the API cannot be written; serving goes on"
            );
        }
        self.reports.send_modify(|r| {
            r.counters.api_failures += 1;
            r.source_state(SOURCE, SourceState::Away { reason }, SystemTime::now());
        });
    }

    fn well(&mut self) {
        if self.trouble.over() {
            self.reports.send_modify(|r| r.source_state(SOURCE, SourceState::Current, SystemTime::now()));
        }
    }

    /// When something is to be done without anything having happened.
    fn due(&self) -> Option<Instant> {
        let trouble = self.trouble.until().filter(|_| self.queue.under_way() == 0);
        let wake = [self.queue.next_wake(), trouble];
        wake.into_iter().flatten().min().filter(|_| self.may_write())
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

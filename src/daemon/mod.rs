//! The one task that owns the snapshot: gathers what sources deliver, plans, applies, reports.
//!
//! An event only marks the snapshot dirty; the loop does the work when it is quiet for a moment, or at a bound. What the loop holds besides
//! the snapshot can be lost: a restart reads the kernel back and goes on.

mod flows;
mod retry;
mod snapshot;
mod stop;
mod told;
mod wiring;

use stop::Stop;

pub use snapshot::Snapshot;
use told::Told;
pub use wiring::{DaemonError, border, run};

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::apply::{Applied, Applier, ApplyError, NatHold, Scope, Tools};
use crate::error_chain;
use crate::plan::{Plan, Planner};
use crate::report::{Outcomes, PassReport, Report, Systemd};
use crate::settings::Settings;
use crate::sources::SourceEvent;
use crate::sources::debounce::Debounce;
use flows::Flows;
use retry::Retry;

/// A lone change is applied after this much quiet: sources have gathered what belongs together, this is for several of them at once.
const QUIET: Duration = Duration::from_millis(2);
/// Under a storm a pass begins at least this often.
const BOUND: Duration = Duration::from_millis(250);
/// The loop shows that it is alive at least this often, watchdog or not.
const HEARTBEAT: Duration = Duration::from_secs(5);

struct Daemon {
    settings: Settings,
    snapshot: Snapshot,
    planner: Planner,
    applier: Applier,
    /// Shared with the applier: counts its calls, also of a pass that failed.
    tools: Tools,
    reports: watch::Sender<Report>,
    systemd: Systemd,
    dirty: Debounce,
    retry: Retry,
    /// READY has been sent: the border is closed.
    announced: bool,
    flows: Flows,
    nat_hold: NatHold,
    told: Told,
    /// The last pass left nothing to be done, and nothing that it was planned from has changed since.
    settled: bool,
}

impl Daemon {
    fn new(settings: Settings, snapshot: Snapshot, tools: Tools, reports: watch::Sender<Report>) -> Self {
        let flows = Flows::new(settings.border.marks);
        Daemon {
            planner: Planner::new(settings.border.clone()),
            snapshot,
            applier: Applier::new(tools.clone(), settings.state_dir.clone()),
            settings,
            tools,
            reports,
            systemd: Systemd::from_env(),
            dirty: Debounce::new(QUIET, BOUND),
            retry: Retry::default(),
            announced: false,
            flows,
            nat_hold: NatHold::default(),
            told: Told::default(),
            settled: false,
        }
    }

    /// Runs until it is asked to stop. The dataplane stays as it is then.
    async fn run(&mut self, events: &mut mpsc::Receiver<SourceEvent>, mut stop: Stop) {
        let mut refresh = every(self.settings.autorefresh);
        let mut beat = every(self.systemd.heartbeat_interval().map_or(HEARTBEAT, |i| i.min(HEARTBEAT)));
        // The border is closed before anything is heard from the sources.
        stop.unless_late(self.pass(&mut beat)).await;
        loop {
            tokio::select! {
                biased;
                signal = stop.asked() => {
                    tracing::info!(signal, "stopping; the dataplane stays as it is");
                    self.systemd.stopping();
                    return;
                }
                due = self.next(events, &mut refresh, &mut beat) => if due {
                    stop.unless_late(self.pass(&mut beat)).await;
                },
            }
            self.show_alive();
            self.systemd.status(&self.reports.borrow());
        }
    }

    /// At the end of each piece of work.
    fn show_alive(&mut self) {
        self.reports.send_modify(Report::beat);
        self.systemd.heartbeat(std::time::Instant::now());
    }

    /// Waits for one thing to happen; whether a pass is due.
    async fn next(
        &mut self,
        events: &mut mpsc::Receiver<SourceEvent>,
        refresh: &mut Interval,
        beat: &mut Interval,
    ) -> bool {
        tokio::select! {
            Some(event) = events.recv() => self.take(event),
            () = self.flows.due(), if !self.retry.is_waiting() => return true,
            () = async { self.dirty.due().await; self.retry.allowed().await } => return true,
            () = self.retry.due() => return true,
            _ = refresh.tick() => {
                self.applier.invalidate();
                // A connection that was between translation and its entry while rules changed is judged now.
                self.flows.invalidate();
                if !self.look().await {
                    self.dirty.mark(Instant::now());
                }
            }
            _ = beat.tick() => {}
        }
        false
    }

    fn take(&mut self, event: SourceEvent) {
        let changed = match event {
            SourceEvent::Host { host, begun } => self.snapshot.take_host(host, begun),
            SourceEvent::Objects(objects) => self.snapshot.take_objects(objects),
            SourceEvent::State { source, state } => {
                self.reports.send_modify(|r| r.source_state(source, state, SystemTime::now()));
                false
            }
            SourceEvent::SwitchesChanged => true,
            SourceEvent::TablesChanged => {
                self.applier.invalidate();
                true
            }
        };
        if changed {
            self.settled = false;
            self.dirty.mark(Instant::now());
        }
    }

    /// Whether everything is as the last pass left it: then there is nothing to plan.
    async fn look(&mut self) -> bool {
        let begun = Instant::now();
        if !self.settled || !self.applier.holds().await {
            return false;
        }
        tracing::debug!("everything is as it was");
        let mut flows_removed = BTreeMap::new();
        if self.applier.is_translating() {
            self.nat_hold.hold(self.tools.ledger()).await;
            flows_removed = self.flows.clean().await;
        }
        self.reports.send_modify(|r| r.pass_found_all_well(begun.elapsed(), &flows_removed, SystemTime::now()));
        true
    }

    async fn pass(&mut self, beat: &mut Interval) {
        self.dirty.clear();
        self.settled = false;
        let begun = Instant::now();
        let plan = self.planner.plan(self.snapshot.world());
        self.show_alive();
        self.told.tell(&plan.interfaces);
        let scope = if self.snapshot.is_complete() { Scope::Full } else { Scope::Border };
        self.snapshot.keep_slots(&plan);
        if let Some(objects) = &self.snapshot.world().objects {
            self.flows.look(&plan.flows, objects, begun).await;
        }
        self.show_alive();
        let calls_before = self.tools.calls();
        let result = self.apply(&plan, scope, beat).await;
        self.show_alive();
        let mut flows_removed = BTreeMap::new();
        if self.applier.is_translating() {
            self.nat_hold.hold(self.tools.ledger()).await;
            if self.applier.take_nat_damaged() {
                self.flows.end_unmapped(&plan.flows).await;
            }
            // Connections that lost their right go, whatever else failed.
            flows_removed = self.flows.clean().await;
            self.show_alive();
        }
        if let Some(routing) = self.applier.take_written_routing() {
            self.snapshot.wrote(routing);
        }
        match result {
            Ok(applied) => self.succeeded(plan, scope, &applied, flows_removed, begun.elapsed()),
            Err(error) => {
                if self.applier.is_closed() {
                    self.announce();
                }
                let delay = self.retry.failed(Instant::now());
                let message = error_chain(&error);
                tracing::error!(
                    error = message,
                    retry_seconds = delay.as_secs(),
                    "apply failed; what worked goes on working (`smartnat-manager check` looks for causes)"
                );
                let calls = (self.tools.calls() - calls_before) as u64;
                self.reports.send_modify(|r| r.pass_failed(error.step(), message, calls, SystemTime::now()));
            }
        }
    }

    /// Shows meanwhile that it is alive, as long as it gets on: one call of a tool after the other, or a long one.
    async fn apply(&mut self, plan: &Plan, scope: Scope, beat: &mut Interval) -> Result<Applied, ApplyError> {
        let applying = self.applier.apply(&plan.dataplane, &self.snapshot.world().host, scope);
        tokio::pin!(applying);
        let mut progress = self.tools.progress();
        loop {
            tokio::select! {
                result = &mut applying => return result,
                _ = beat.tick() => if progress != self.tools.progress() {
                    progress = self.tools.progress();
                    self.reports.send_modify(Report::beat);
                    self.systemd.heartbeat(std::time::Instant::now());
                }
            }
        }
    }

    fn succeeded(
        &mut self,
        plan: Plan,
        scope: Scope,
        applied: &Applied,
        flows_removed: BTreeMap<&'static str, u64>,
        took: Duration,
    ) {
        self.retry.succeeded();
        self.settled = scope == Scope::Full && applied.waiting_routes.is_empty() && applied.stuck_sets.is_empty();
        let pass = PassReport {
            took,
            full: scope == Scope::Full,
            outcomes: Outcomes { mappings: plan.mappings, interfaces: plan.interfaces },
            tool_calls: applied.tool_calls as u64,
            writes: writes_by_kind(applied),
            repairs: repairs_by_kind(applied),
            flows_removed,
        };
        self.reports.send_modify(|r| r.pass_ok(pass, SystemTime::now()));
        self.announce();
    }

    /// Once: whoever waits for us waits for this.
    fn announce(&mut self) {
        if !self.announced {
            self.announced = true;
            tracing::info!("the border is closed");
            self.systemd.ready();
        }
    }
}

fn writes_by_kind(applied: &Applied) -> BTreeMap<&'static str, u64> {
    let w = &applied.writes;
    [
        ("chain", w.chains),
        ("hook", w.hooks),
        ("set", w.sets),
        ("member", w.members),
        ("route", w.routes),
        ("rule", w.rules),
        ("sysctl", w.sysctls),
    ]
    .into_iter()
    .filter(|(_, n)| *n > 0)
    .map(|(kind, n)| (kind, n as u64))
    .collect()
}

fn repairs_by_kind(applied: &Applied) -> BTreeMap<&'static str, u64> {
    let mut by_kind = BTreeMap::new();
    for repair in &applied.repairs {
        *by_kind.entry(repair.kind.as_str()).or_default() += 1;
    }
    by_kind
}

fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

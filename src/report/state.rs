use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::cluster::credential::Credential;
use crate::model::{Changed, ObjectKey, changes};
use crate::plan::{InterfaceOutcome, MappingOutcomes};
use crate::sources::{SourceName, SourceState};

/// Everything there is to say, filled by the loop; tasks that speak with the API server add what only they know. Cheap to clone: the outcomes
/// are shared.
#[derive(Debug, Clone)]
pub struct Report {
    pub started: SystemTime,
    /// Last sign of life of the loop, on the monotonic clock: a step of the wall clock must not look like a stuck loop.
    pub heartbeat: Instant,
    pub sources: BTreeMap<SourceName, SourceReport>,
    /// The border's deny is in force.
    pub border_closed: bool,
    /// The first full apply is done: every source was there and everything planned is in the kernel.
    pub ready: bool,
    /// The last pass that went well, of the border alone or of everything.
    pub last_pass: Option<LastPass>,
    /// Set while passes fail.
    pub failure: Option<Failure>,
    pub outcomes: Arc<Outcomes>,
    /// For every Mapping in `outcomes`.
    pub transitions: Arc<BTreeMap<ObjectKey, Transitions>>,
    pub counters: Counters,
    /// By what the API server knows this instance, if it is the source.
    pub credential: Option<Credential>,
    pub credential_expired: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceReport {
    pub state: SourceState,
    /// When it went into this state (a new reason for being away is no new state).
    pub since: SystemTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastPass {
    pub at: SystemTime,
    pub took: Duration,
}

/// A run of failed passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The first of the run.
    pub since: SystemTime,
    /// Passes that failed since then.
    pub attempts: u32,
    /// The command (or operation) that failed last.
    pub command: String,
    /// Its stderr or the error's text.
    pub message: String,
}

/// What the last good pass said about every Mapping and interface.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcomes {
    pub mappings: Arc<MappingOutcomes>,
    pub interfaces: Vec<InterfaceOutcome>,
}

#[cfg(test)]
impl Outcomes {
    pub fn of(
        mappings: impl IntoIterator<Item = (ObjectKey, crate::plan::MappingOutcome)>,
        interfaces: Vec<InterfaceOutcome>,
    ) -> Self {
        let mappings = mappings.into_iter().map(|(key, outcome)| (key, outcome.into())).collect();
        Outcomes { mappings: Arc::new(mappings), interfaces }
    }
}

/// When the two conditions of a Mapping took the status that they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transitions {
    pub accepted: SystemTime,
    pub programmed: SystemTime,
}

/// What one good pass did, to be added to the counters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PassReport {
    pub took: Duration,
    /// False for a pass of the border alone, before every source was there.
    pub full: bool,
    pub outcomes: Outcomes,
    pub tool_calls: u64,
    /// Objects written by kind: `chain`, `set`, `rule`, `route`, `sysctl`, ...
    pub writes: BTreeMap<&'static str, u64>,
    /// Objects put right after others changed them, by the same kinds.
    pub repairs: BTreeMap<&'static str, u64>,
    /// Connections cut by reason: `not_mapped`, `source_not_allowed`, `server_gone`.
    pub flows_removed: BTreeMap<&'static str, u64>,
}

/// Totals since the start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters {
    pub passes: u64,
    pub failed_passes: u64,
    pub tool_calls: u64,
    pub writes: BTreeMap<&'static str, u64>,
    pub repairs: BTreeMap<&'static str, u64>,
    pub flows_removed: BTreeMap<&'static str, u64>,
    /// Writes to Mappings in the Kubernetes API by kind: `finalizer_add`, `status_apply`, ...
    pub api_writes: BTreeMap<&'static str, u64>,
    pub api_failures: u64,
    pub durations: PassDurations,
}

/// A histogram of how long good passes took.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PassDurations {
    /// Passes per bucket, not cumulative; the last one is everything above the highest bound.
    pub buckets: [u64; PassDurations::BOUNDS.len() + 1],
    pub sum: Duration,
}

impl PassDurations {
    /// Upper bounds in seconds: one changed Mapping takes some 16 ms, thousands at once up to seconds.
    pub const BOUNDS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

    pub fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = Self::BOUNDS.iter().position(|b| seconds <= *b).unwrap_or(Self::BOUNDS.len());
        self.buckets[bucket] += 1;
        self.sum += took;
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl Report {
    pub fn new(now: SystemTime) -> Self {
        Report {
            started: now,
            heartbeat: Instant::now(),
            sources: BTreeMap::new(),
            border_closed: false,
            ready: false,
            last_pass: None,
            failure: None,
            outcomes: Arc::default(),
            transitions: Arc::default(),
            counters: Counters::default(),
            credential: None,
            credential_expired: false,
        }
    }

    /// The loop came round. Call it at least once per autorefresh period.
    pub fn beat(&mut self) {
        self.heartbeat = Instant::now();
    }

    pub fn source_state(&mut self, source: SourceName, state: SourceState, now: SystemTime) {
        let since = match self.sources.get(source) {
            Some(old) if std::mem::discriminant(&old.state) == std::mem::discriminant(&state) => old.since,
            _ => now,
        };
        self.sources.insert(source, SourceReport { state, since });
    }

    /// A pass went well (also one that found nothing to do).
    pub fn pass_ok(&mut self, pass: PassReport, now: SystemTime) {
        self.border_closed = true;
        self.ready |= pass.full;
        // Most passes change nothing; readers then keep what they share.
        let mappings = self.take_mappings(&pass.outcomes.mappings, now);
        if mappings || self.outcomes.interfaces != pass.outcomes.interfaces {
            self.outcomes = Arc::new(pass.outcomes);
        }
        let c = &mut self.counters;
        c.tool_calls += pass.tool_calls;
        add(&mut c.writes, &pass.writes);
        add(&mut c.repairs, &pass.repairs);
        self.pass_found_all_well(pass.took, &pass.flows_removed, now);
    }

    /// A pass found everything as the one before had left it.
    pub fn pass_found_all_well(
        &mut self,
        took: Duration,
        flows_removed: &BTreeMap<&'static str, u64>,
        now: SystemTime,
    ) {
        self.beat();
        self.last_pass = Some(LastPass { at: now, took });
        self.failure = None;
        self.counters.passes += 1;
        self.counters.durations.observe(took);
        add(&mut self.counters.flows_removed, flows_removed);
    }

    /// A pass failed; `tool_calls` were made until then.
    pub fn pass_failed(
        &mut self,
        command: impl Into<String>,
        message: impl Into<String>,
        tool_calls: u64,
        now: SystemTime,
    ) {
        self.beat();
        self.counters.passes += 1;
        self.counters.failed_passes += 1;
        self.counters.tool_calls += tool_calls;
        let (since, attempts) = self.failure.as_ref().map_or((now, 0), |f| (f.since, f.attempts));
        self.failure =
            Some(Failure { since, attempts: attempts + 1, command: command.into(), message: message.into() });
    }

    /// Keeps the transitions in step. Whether anything is said otherwise now.
    fn take_mappings(&mut self, new: &MappingOutcomes, now: SystemTime) -> bool {
        let changed = changes(&self.outcomes.mappings, new);
        if changed.is_empty() {
            return false;
        }
        let transitions = Arc::make_mut(&mut self.transitions);
        for Changed { key, before, now: outcome } in changed {
            let Some(outcome) = outcome else {
                transitions.remove(key);
                continue;
            };
            let mut t = Transitions { accepted: now, programmed: now };
            if let (Some(before), Some(known)) = (before, transitions.get(key)) {
                if before.refused.is_some() == outcome.refused.is_some() {
                    t.accepted = known.accepted;
                }
                if before.programmed.ok == outcome.programmed.ok {
                    t.programmed = known.programmed;
                }
            }
            transitions.insert(key.clone(), t);
        }
        true
    }

    /// Endpoints (address, protocol, port) served on this box.
    pub fn endpoints(&self) -> usize {
        self.outcomes.mappings.values().map(|m| m.endpoints).sum()
    }
}

fn add(totals: &mut BTreeMap<&'static str, u64>, more: &BTreeMap<&'static str, u64>) {
    for (kind, n) in more {
        *totals.entry(kind).or_default() += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{MappingOutcome, Programmed, ProgrammedReason};

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_source_keeps_its_since_while_it_stays_in_one_state() {
        let mut r = Report::new(at(0));
        let away = |reason: &str| SourceState::Away { reason: reason.into() };
        r.source_state("manifests", SourceState::Syncing, at(1));
        r.source_state("manifests", away("a"), at(2));
        r.source_state("manifests", away("b"), at(3));
        assert_eq!(r.sources["manifests"], SourceReport { state: away("b"), since: at(2) });
        r.source_state("manifests", SourceState::Current, at(4));
        assert_eq!(r.sources["manifests"].since, at(4));
    }

    #[test]
    fn failures_count_until_a_pass_goes_well() {
        let mut r = Report::new(at(0));
        r.pass_failed("iptables-restore", "boom", 2, at(5));
        r.pass_failed("ipset restore", "bang", 1, at(6));
        let expected = Failure { since: at(5), attempts: 2, command: "ipset restore".into(), message: "bang".into() };
        assert_eq!(r.failure, Some(expected));
        r.pass_ok(PassReport { writes: [("chain", 3)].into(), ..PassReport::default() }, at(7));
        r.pass_ok(PassReport { writes: [("chain", 1)].into(), full: true, ..PassReport::default() }, at(8));
        assert_eq!(r.failure, None);
        assert!(r.ready);
        assert_eq!((r.counters.passes, r.counters.failed_passes, r.counters.tool_calls), (4, 2, 3));
        assert_eq!(r.counters.writes["chain"], 4);
    }

    #[test]
    fn ready_needs_a_full_pass_and_outlives_later_ones() {
        let mut r = Report::new(at(0));
        r.pass_ok(PassReport::default(), at(1));
        assert!(r.border_closed && !r.ready);
        r.pass_ok(PassReport { full: true, ..PassReport::default() }, at(2));
        r.pass_failed("x", "y", 0, at(3));
        assert!(r.ready);
    }

    #[test]
    fn a_condition_keeps_its_transition_time_until_its_status_changes() {
        let outcomes = |ok: bool, message: &str| {
            let outcome = MappingOutcome {
                uid: None,
                generation: None,
                refused: None,
                programmed: Programmed { ok, reason: ProgrammedReason::Programmed, message: message.into() },
                service_vip: None,
                configured: [].into(),
                endpoints: 1,
            };
            Outcomes::of([(ObjectKey::new("a", "b"), outcome)], vec![])
        };
        let mut r = Report::new(at(0));
        for (second, outcomes) in [(1, outcomes(true, "x")), (2, outcomes(true, "y")), (3, outcomes(false, "y"))] {
            r.pass_ok(PassReport { outcomes, ..PassReport::default() }, at(second));
        }
        let expected = Transitions { accepted: at(1), programmed: at(3) };
        assert_eq!(r.transitions[&ObjectKey::new("a", "b")], expected);
    }

    #[test]
    fn durations_fall_into_the_bucket_of_their_upper_bound() {
        let mut d = PassDurations::default();
        d.observe(Duration::from_millis(5));
        d.observe(Duration::from_millis(6));
        d.observe(Duration::from_secs(60));
        assert_eq!(d.buckets, [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(d.count(), 3);
    }
}

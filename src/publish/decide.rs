//! The next step for one Mapping in the API. Pure: the same record, outcome and surroundings give the same step.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::statement::{entries, entry, own_entry, statement};
use crate::api::MappingStatus;
use crate::cluster::{Fleet, Record, Standing};
use crate::plan::{MappingOutcome, RefusalReason};

/// Those who would all write the same wait their turn, by rank, before they do.
const TURN: Duration = Duration::from_secs(2);

/// What surrounds the decision.
#[derive(Debug, Clone)]
pub struct View<'a> {
    pub instance: &'a str,
    pub fleet: &'a Fleet,
    /// How long a deleted Mapping waits for instances that do not withdraw.
    pub max_wait: Duration,
    /// After this much time the others have seen that this instance renews its Lease; before, they would put its mark of silence back.
    pub seen_after: Duration,
    /// This box's clock.
    pub now: Timestamp,
    /// That of the API server, by which deletions are stamped: it is this late at least. `None` when it was not asked lately.
    pub server_now: Option<Timestamp>,
    /// How long this instance has been finding that something is wrong which another could put right as well.
    pub waited: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// All is said, or somebody else is to act.
    Nothing,
    /// Look again after this, others may have done it by then.
    Wait(Duration),
    /// The API server's time is needed.
    AskClock,
    AddFinalizer,
    /// Take fields of the status away from managers that are no instances.
    DropForeign,
    /// This instance is back: the mark of its silence goes.
    ClearSilence,
    Apply(Box<MappingStatus>),
    /// Remove the finalizer; `unconfirmed` are the instances that were not waited for any longer.
    Release {
        unconfirmed: Vec<String>,
    },
}

/// `outcome` is what the last good pass of the daemon said about the Mapping of that name.
pub fn decide(record: &Record, outcome: Option<&MappingOutcome>, view: &View) -> Step {
    let outcome = outcome.filter(|o| o.uid.as_deref() == Some(&record.uid));
    if record.deleting_since.is_some() { withdraw(record, outcome, view) } else { answer(record, outcome, view) }
}

fn answer(record: &Record, outcome: Option<&MappingOutcome>, view: &View) -> Step {
    // The daemon has not seen this version yet; its next pass will.
    let Some(outcome) = outcome.filter(|o| o.generation == record.generation) else { return Step::Nothing };
    if record.foreign_status {
        return Step::DropForeign;
    }
    let own = own_entry(outcome, view.instance);
    // The finalizer first: from the entry on the daemon may program it.
    if own.is_some() && !record.is_held_back() {
        return Step::AddFinalizer;
    }
    let statement = statement(record, outcome, own, view.instance, view.fleet, view.now);
    if statement.own_differs {
        return Step::Apply(Box::new(statement.status));
    }
    // One without a Lease seems silent to the others, whatever it does.
    let marked = entry(record, view.instance).is_some_and(|e| e.silent_since.is_some());
    if marked && view.fleet.standing == Standing::Held {
        return once_waited(view, view.seen_after, Step::ClearSilence);
    }
    if statement.shared_differs {
        return in_turn(view, Step::Apply(Box::new(statement.status)));
    }
    Step::Nothing
}

fn withdraw(record: &Record, outcome: Option<&MappingOutcome>, view: &View) -> Step {
    if entry(record, view.instance).is_some() {
        // As long as the kernel holds it, or may: the entry stays.
        let Some(outcome) = outcome.filter(|o| is_withdrawn(o)) else { return Step::Nothing };
        // With the last entry and the last finalizer the object goes as a whole. Another entry would make another version of it.
        if record.is_held_back_by_us_alone() && entries(record).all(|e| e.name == view.instance) {
            return Step::Release { unconfirmed: vec![] };
        }
        let statement = statement(record, outcome, None, view.instance, view.fleet, view.now);
        return Step::Apply(Box::new(statement.status));
    }
    if outcome.is_some_and(|o| !is_withdrawn(o) && own_entry(o, view.instance).is_some()) {
        return Step::Nothing;
    }
    if !record.is_held_back() {
        return Step::Nothing;
    }
    let unconfirmed: Vec<String> = entries(record).map(|i| i.name.clone()).collect();
    if unconfirmed.is_empty() {
        return in_turn(view, Step::Release { unconfirmed });
    }
    let (Some(since), Some(now)) = (record.deleting_since, view.server_now) else { return Step::AskClock };
    let waited = now.duration_since(since);
    let max_wait = SignedDuration::try_from(view.max_wait).unwrap_or(SignedDuration::MAX);
    match Duration::try_from(max_wait - waited) {
        Ok(left) if !left.is_zero() => Step::Wait(left.min(Duration::from_secs(30))),
        _ => in_turn(view, Step::Release { unconfirmed }),
    }
}

/// The daemon's last pass took it out of the kernel.
fn is_withdrawn(outcome: &MappingOutcome) -> bool {
    outcome.refused.as_ref().is_some_and(|r| r.reason == RefusalReason::Deleting)
}

fn in_turn(view: &View, step: Step) -> Step {
    let turn = TURN * u32::try_from(view.fleet.rank(view.instance)).unwrap_or(u32::MAX).min(30);
    once_waited(view, turn, step)
}

fn once_waited(view: &View, time: Duration, step: Step) -> Step {
    match time.checked_sub(view.waited) {
        Some(left) if !left.is_zero() => Step::Wait(left),
        _ => step,
    }
}

//! Decisions on values: what the API holds, what the daemon found, who else is there.

mod deletion;
mod documented;
mod fold;
mod life;

use std::net::IpAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Step, View, decide};
use crate::api::{MappingInstance, MappingStatus};
use crate::cluster::{FINALIZER, Fleet, Record, Standing};
use crate::plan::{MappingOutcome, Programmed, ProgrammedReason, Refusal, RefusalReason};

const ME: &str = "border-1";
const OTHER: &str = "border-2";
const HERE: &str = "203.0.113.10";
const POD: &str = "10.244.1.2";
const HOUR: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_secs(5);

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn record() -> Record {
    Record {
        uid: "u1".to_owned(),
        resource_version: "7".to_owned(),
        generation: Some(1),
        addresses: vec![HERE.to_owned()],
        deleting_since: None,
        finalizers: vec![],
        status: MappingStatus::default(),
        foreign_status: false,
    }
}

fn held(status: MappingStatus) -> Record {
    Record { finalizers: vec![FINALIZER.to_owned()], status, ..record() }
}

fn outcome(reason: ProgrammedReason) -> MappingOutcome {
    let ok = reason == ProgrammedReason::Programmed;
    let pods: Vec<IpAddr> = if ok { vec![POD.parse().unwrap()] } else { vec![] };
    MappingOutcome {
        generation: Some(1),
        uid: Some("u1".to_owned()),
        refused: None,
        programmed: Programmed { ok, reason, message: format!("it is {reason:?}") },
        service_vip: Some("10.96.0.10".parse().unwrap()),
        configured: [(HERE.parse().unwrap(), pods)].into(),
        endpoints: 1,
    }
}

/// None of its addresses is here.
fn elsewhere() -> MappingOutcome {
    MappingOutcome { configured: Default::default(), ..outcome(ProgrammedReason::NoAddressHere) }
}

fn refused(reason: RefusalReason) -> MappingOutcome {
    let refusal = Refusal { reason, message: format!("it is {reason:?}") };
    MappingOutcome { refused: Some(refusal), service_vip: None, ..elsewhere() }
}

fn entry(name: &str, programmed: bool) -> MappingInstance {
    let reason = if programmed { "Programmed" } else { "NoReadyEndpoints" };
    MappingInstance {
        name: name.to_owned(),
        programmed,
        reason: reason.to_owned(),
        message: format!("it is {reason}"),
        addresses: vec![HERE.to_owned()],
        observed_generation: Some(1),
        silent_since: None,
    }
}

fn fleet(alive: &[&str]) -> Fleet {
    Fleet { standing: Standing::Held, alive: alive.iter().map(|n| (*n).to_owned()).collect(), ..Fleet::default() }
}

fn step(record: &Record, outcome: Option<&MappingOutcome>, fleet: &Fleet) -> Step {
    step_after(record, outcome, fleet, Duration::ZERO)
}

fn step_after(record: &Record, outcome: Option<&MappingOutcome>, fleet: &Fleet, waited: Duration) -> Step {
    let server_now = Some(now());
    decide(
        record,
        outcome,
        &View { instance: ME, fleet, max_wait: HOUR, seen_after: SOON, now: now(), server_now, waited },
    )
}

#[track_caller]
fn applied(step: Step) -> MappingStatus {
    match step {
        Step::Apply(status) => *status,
        other => panic!("a status was expected, not {other:?}"),
    }
}

/// The record after a status was applied: entries of others and their addresses stay.
fn after(mut record: Record, status: MappingStatus) -> Record {
    let others = record.status.instances.into_iter().filter(|i| i.name != ME);
    let mine = status.instances.iter().filter(|i| i.name == ME).cloned();
    record.status = MappingStatus { instances: others.chain(mine).collect(), ..status };
    record
}

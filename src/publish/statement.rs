//! What a Mapping's status should say, as functions of what stands in the API and of what this instance found. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::api::{MappingInstance, MappingPodIps, MappingStatus};
use crate::cluster::{Fleet, Record};
use crate::plan::{MappingOutcome, noted};

/// Pods named in one status altogether. 10,000 addresses of pods take some 200 KB; etcd takes objects of 1.5 MB.
const MAX_PODS: usize = 10_000;

/// Longest message in bytes; the definition allows as many characters. One more, and the API server would refuse the whole status.
const MAX_MESSAGE: usize = 32_768;

/// Conditions of a Mapping.
pub const ACCEPTED: &str = "Accepted";
pub const PROGRAMMED: &str = "Programmed";

/// What this instance says about itself in `instances[]`; `None` when the Mapping does not concern it.
pub fn own_entry(outcome: &MappingOutcome, instance: &str) -> Option<MappingInstance> {
    let entry = |reason: String, message: &str| MappingInstance {
        name: instance.to_owned(),
        programmed: outcome.programmed.ok,
        reason,
        message: bounded(message.to_owned(), MAX_MESSAGE),
        addresses: outcome.configured.keys().map(ToString::to_string).collect(),
        observed_generation: outcome.generation,
        silent_since: None,
    };
    match &outcome.refused {
        // The limit is a setting of each instance.
        Some(r) if r.reason.is_of_this_box() => Some(entry(format!("{:?}", r.reason), &r.message)),
        Some(_) => None,
        None if outcome.configured.is_empty() => None,
        None => Some(entry(format!("{:?}", outcome.programmed.reason), &outcome.programmed.message)),
    }
}

/// Pods behind each address of this instance, at most [`MAX_PODS`] in all.
pub fn own_addresses(outcome: &MappingOutcome) -> BTreeMap<String, MappingPodIps> {
    let each = MAX_PODS / outcome.configured.len().max(1);
    outcome
        .configured
        .iter()
        .map(|(address, pods)| {
            (address.to_string(), MappingPodIps { pod_ips: pods.iter().take(each).map(ToString::to_string).collect() })
        })
        .collect()
}

/// At most `max` bytes, cut between characters.
pub(super) fn bounded(mut text: String, max: usize) -> String {
    const CUT: &str = " ...";
    if text.len() > max {
        let end = (0..=max - CUT.len()).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
        text.push_str(CUT);
    }
    text
}

/// The entries that say something. When an instance takes its entry away while another still owns the mark on it, a shell of it stays,
/// until that one writes again: it means nothing.
pub fn entries(record: &Record) -> impl Iterator<Item = &MappingInstance> {
    record.status.instances.iter().filter(|i| !i.reason.is_empty())
}

/// What an instance said last.
pub fn entry<'a>(record: &'a Record, instance: &str) -> Option<&'a MappingInstance> {
    entries(record).find(|i| i.name == instance)
}

/// The fields that belong to no instance: functions of the cluster's objects and of all entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    pub invalid: String,
    /// Empty without one.
    pub service_vip: String,
    pub observed_generation: Option<i64>,
    pub accepted: Verdict,
    pub programmed: Verdict,
}

/// A condition without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub ok: bool,
    pub reason: String,
    pub message: String,
}

impl Verdict {
    fn new(ok: bool, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Verdict { ok, reason: reason.into(), message: bounded(message.into(), MAX_MESSAGE) }
    }

    fn condition(&self, kind: &str, generation: Option<i64>, old: &[Condition], now: Timestamp) -> Condition {
        let status = if self.ok { "True" } else { "False" };
        let known = old.iter().find(|c| c.type_ == kind && c.status == status);
        Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: self.reason.clone(),
            message: self.message.clone(),
            observed_generation: generation,
            last_transition_time: known.map_or(Time(now), |c| c.last_transition_time.clone()),
        }
    }

    fn stands_in(&self, kind: &str, generation: Option<i64>, conditions: &[Condition]) -> bool {
        conditions.iter().any(|c| {
            c.type_ == kind
                && (c.status == "True") == self.ok
                && c.reason == self.reason
                && c.message == self.message
                && c.observed_generation == generation
        })
    }
}

/// `addresses` are those of the spec, `instances` all entries as they will be.
pub fn shared(outcome: &MappingOutcome, addresses: &[String], instances: &[MappingInstance]) -> Shared {
    let accepted = accepted(outcome, instances);
    let programmed = if accepted.ok {
        programmed(addresses, instances)
    } else {
        Verdict::new(false, accepted.reason.clone(), accepted.message.clone())
    };
    Shared {
        invalid: if accepted.ok { "no".to_owned() } else { accepted.message.clone() },
        service_vip: outcome.service_vip.map(|vip| vip.to_string()).unwrap_or_default(),
        observed_generation: outcome.generation,
        accepted,
        programmed,
    }
}

fn accepted(outcome: &MappingOutcome, instances: &[MappingInstance]) -> Verdict {
    const TOO_MANY: &str = "TooManyPorts";
    if let Some(refusal) = outcome.refused.as_ref().filter(|r| !r.reason.is_of_this_box()) {
        return Verdict::new(false, format!("{:?}", refusal.reason), &refusal.message);
    }
    match instances.first() {
        Some(first) if instances.iter().all(|i| i.reason == TOO_MANY) => Verdict::new(false, TOO_MANY, &first.message),
        _ => Verdict::new(true, "Accepted", ""),
    }
}

fn programmed(addresses: &[String], instances: &[MappingInstance]) -> Verdict {
    let (silent, heard): (Vec<_>, Vec<_>) = instances.iter().partition(|i| i.silent_since.is_some());
    let silence: Vec<String> = silent
        .iter()
        .filter_map(|i| Some(format!("{} is silent since {}", i.name, i.silent_since.as_ref()?.0)))
        .collect();
    let failing: Vec<String> =
        heard.iter().filter(|i| !i.programmed).map(|i| format!("{}: {}", i.name, i.message)).collect();
    if let Some(first) = heard.iter().find(|i| !i.programmed) {
        return Verdict::new(false, &first.reason, [failing, silence].concat().join("; "));
    }
    let served: BTreeSet<&str> = heard.iter().flat_map(|i| &i.addresses).map(String::as_str).collect();
    let wanted: BTreeSet<&str> = addresses.iter().map(String::as_str).collect();
    let missing: Vec<&str> = wanted.difference(&served).copied().collect();
    let names: Vec<&str> = heard.iter().map(|i| i.name.as_str()).collect();
    let notes: Vec<String> =
        heard.iter().filter_map(|i| Some(format!("{} notes: {}", i.name, noted(&i.message)?))).collect();
    let told = |first: String| [vec![first], notes.clone(), silence.clone()].concat().join("; ");
    if missing.is_empty() {
        let what = if wanted.len() == 1 { "the address".to_owned() } else { format!("all {} addresses", wanted.len()) };
        return Verdict::new(true, PROGRAMMED, told(format!("{what} served by {}", names.join(", "))));
    }
    let missing = missing.join(", ");
    match (names.is_empty(), silent.is_empty()) {
        (true, true) => Verdict::new(
            false,
            "NoAddressHere",
            format!(
                "no border router has {missing} on an external interface; assign it to one, or correct spec.addresses"
            ),
        ),
        (true, false) => Verdict::new(false, "InstanceSilent", silence.join("; ")),
        (false, _) => Verdict::new(
            false,
            "PartiallyProgrammed",
            told(format!("not served: {missing}; the others are, by {}", names.join(", "))),
        ),
    }
}

/// Everything that this instance wants a status to say, and whether it says so already.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// What to apply: this instance's entry, its addresses, the shared fields, and marks on silent instances.
    pub status: MappingStatus,
    /// What belongs to this instance alone is not as it should be.
    pub own_differs: bool,
    /// What any instance could put right is not as it should be.
    pub shared_differs: bool,
}

/// `outcome` speaks of the object in `record`. Without `own` the instance withdraws.
pub fn statement(
    record: &Record,
    outcome: &MappingOutcome,
    own: Option<MappingInstance>,
    instance: &str,
    fleet: &Fleet,
    now: Timestamp,
) -> Statement {
    let old = &record.status;
    let (mut entries, marks) = others(record, instance, fleet, now);
    let unmarked = marks.iter().any(|m| old.instances.iter().any(|i| i.name == m.name && i.silent_since.is_none()));
    let known = entry(record, instance);
    let configured = match &own {
        Some(_) => own_addresses(outcome),
        None => BTreeMap::new(),
    };
    let configured: BTreeMap<_, _> = configured
        .into_iter()
        // Where several instances have the address, one that forwards knows better.
        .filter(|(a, _)| {
            own.as_ref().is_some_and(|o| o.programmed)
                || !entries.iter().any(|i| i.programmed && i.addresses.contains(a))
        })
        .collect();
    let left = known.into_iter().flat_map(|k| &k.addresses).any(|a| {
        !configured.contains_key(a)
            && !entries.iter().any(|i| i.addresses.contains(a))
            && old.configured_addresses.contains_key(a)
    });
    // Where several forward for an address, all say the same of it, one a moment before the other: as of what is shared.
    let is_shared = |address: &String| entries.iter().any(|i| i.programmed && i.addresses.contains(address));
    let (shared_pods, own_pods): (Vec<_>, Vec<_>) = configured
        .iter()
        .filter(|(address, pods)| old.configured_addresses.get(*address) != Some(*pods))
        .map(|(address, _)| address)
        .partition(|address| is_shared(address));
    let own_differs = known.map(without_silence) != own || left || !own_pods.is_empty();
    let pods_differ = !shared_pods.is_empty();
    // The others see the mark on it until it is taken away, and all are to arrive at the same.
    let silence = known.and_then(|k| k.silent_since.clone());
    entries.extend(own.clone().map(|own| MappingInstance { silent_since: silence, ..own }));
    entries.sort_by(|a, b| a.name.cmp(&b.name));

    let shared = shared(outcome, &record.addresses, &entries);
    let generation = shared.observed_generation;
    let shared_differs = unmarked
        || pods_differ
        || old.invalid.as_ref() != Some(&shared.invalid)
        || old.service_vip.as_deref().unwrap_or_default() != shared.service_vip
        || old.observed_generation != generation
        || !shared.accepted.stands_in(ACCEPTED, generation, &old.conditions)
        || !shared.programmed.stands_in(PROGRAMMED, generation, &old.conditions);
    let mut instances = marks;
    instances.extend(own);
    let status = MappingStatus {
        conditions: vec![
            shared.accepted.condition(ACCEPTED, generation, &old.conditions, now),
            shared.programmed.condition(PROGRAMMED, generation, &old.conditions, now),
        ],
        invalid: Some(shared.invalid),
        // Written empty over another's value: what is left out stays as long as anybody else owns it.
        service_vip: Some(shared.service_vip).filter(|vip| !vip.is_empty() || old.service_vip.is_some()),
        configured_addresses: configured,
        observed_generation: generation,
        instances,
    };
    Statement { status, own_differs, shared_differs }
}

fn without_silence(entry: &MappingInstance) -> MappingInstance {
    MappingInstance { silent_since: None, ..entry.clone() }
}

/// The entries of other instances as they should read, and of these the marks that this instance puts on silent ones: the name and since
/// when. A mark that is there is kept; only its instance takes it away, when it is back.
fn others(
    record: &Record,
    instance: &str,
    fleet: &Fleet,
    now: Timestamp,
) -> (Vec<MappingInstance>, Vec<MappingInstance>) {
    let mut entries = Vec::new();
    let mut marks = Vec::new();
    for entry in self::entries(record).filter(|i| i.name != instance) {
        let mut entry = entry.clone();
        // One that has no Lease at all may live and lack the right to hold one.
        if let Some(last) = fleet.silent.get(&entry.name) {
            let last = last.unwrap_or(now);
            let since = entry.silent_since.clone().unwrap_or(Time(last));
            marks.push(MappingInstance {
                name: entry.name.clone(),
                silent_since: Some(since.clone()),
                ..MappingInstance::default()
            });
            entry.silent_since = Some(since);
        }
        entries.push(entry);
    }
    (entries, marks)
}

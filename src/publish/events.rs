//! What is worth an Event, told once, by the instance whose write made the difference. Pure.

use kube::runtime::events::{Event, EventType};

use super::decide::Step;
use super::statement::{ACCEPTED, bounded, entry};
use crate::api::MappingStatus;
use crate::cluster::Record;

/// Longest note of an Event, in bytes (events.k8s.io/v1).
const MAX_NOTE: usize = 1024;

/// Events of a step that was taken on `before`.
pub fn events(before: &Record, step: &Step, instance: &str) -> Vec<Event> {
    match step {
        Step::Apply(status) if before.deleting_since.is_none() => {
            [judged(&before.status, status), programmed(before, status, instance)].into_iter().flatten().collect()
        }
        Step::Release { unconfirmed } if !unconfirmed.is_empty() => vec![event(
            EventType::Warning,
            "ForcedRelease",
            "Release",
            format!(
                "deleted without the confirmation of {} (SNCTRLR_MAX_FINALIZE_WAIT_MINUTES is over); they may still forward, and stop \
                 when they see the cluster again",
                unconfirmed.join(", ")
            ),
        )],
        _ => vec![],
    }
}

/// Refused, refused for another reason, or accepted again.
fn judged(before: &MappingStatus, after: &MappingStatus) -> Option<Event> {
    let of = |s: &MappingStatus| s.conditions.iter().find(|c| c.type_ == ACCEPTED).cloned();
    let (old, new) = (of(before), of(after)?);
    let was_refused = old.as_ref().is_some_and(|c| c.status == "False");
    if new.status == "False" {
        let known = old.is_some_and(|c| c.status == "False" && c.reason == new.reason && c.message == new.message);
        return (!known).then(|| event(EventType::Warning, &new.reason, "Accept", new.message));
    }
    let conflict = old.is_some_and(|c| c.reason == "Conflict");
    let reason = if conflict { "ConflictEnded" } else { "Accepted" };
    was_refused.then(|| event(EventType::Normal, reason, "Accept", "it is accepted now".to_owned()))
}

/// This instance forwards now, or no longer, or fails for another reason.
fn programmed(before: &Record, after: &MappingStatus, instance: &str) -> Option<Event> {
    let old = entry(before, instance);
    let Some(new) = after.instances.iter().find(|i| i.name == instance) else {
        let served = old.filter(|o| o.programmed)?;
        let note = format!("{instance} does not serve {} any more", served.addresses.join(", "));
        return Some(event(EventType::Normal, "Withdrawn", "Program", note));
    };
    // On its way: nothing to tell yet. A refusal has its own Event.
    if new.reason == "Pending" || new.reason == "TooManyPorts" {
        return None;
    }
    let same = old.is_some_and(|o| o.reason == new.reason && o.addresses == new.addresses);
    let (kind, note) = match new.programmed {
        true => (EventType::Normal, format!("{instance} serves {}", new.addresses.join(", "))),
        false => (EventType::Warning, format!("{instance}: {}", new.message)),
    };
    (!same).then(|| event(kind, &new.reason, "Program", note))
}

fn event(type_: EventType, reason: &str, action: &str, note: String) -> Event {
    let note = bounded(note, MAX_NOTE);
    Event { type_, reason: reason.to_owned(), note: Some(note), action: action.to_owned(), secondary: None }
}

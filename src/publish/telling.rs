use std::collections::VecDeque;
use std::time::Duration;

use kube::runtime::events::{Event, Recorder};
use kube::{Resource, api::ObjectMeta};
use tokio::time::Instant;

use crate::api::Mapping;
use crate::error_chain;
use crate::model::ObjectKey;

/// Events that wait. Of more at once nobody reads all; the oldest go.
const MOST: usize = 10_000;
/// While finalizers and statuses are written without a pause, an Event is told this often all the same.
const PACE: Duration = Duration::from_secs(1);

/// Events about objects that are to be told, one after the other. No client and no status waits for an Event: they come when all else is
/// written.
#[derive(Default)]
pub(super) struct Events {
    waiting: VecDeque<Told>,
    /// One is under way.
    telling: bool,
    /// The last one was begun then.
    last: Option<Instant>,
}

pub(super) struct Told {
    pub key: ObjectKey,
    pub uid: String,
    pub event: Event,
}

impl Events {
    pub(super) fn add(&mut self, events: impl IntoIterator<Item = Told>) {
        self.waiting.extend(events);
        let too_many = self.waiting.len().saturating_sub(MOST);
        self.waiting.drain(..too_many);
    }

    /// The next one that may be told now, if any; `idle` is whether nothing else is to be written.
    pub(super) fn next(&mut self, idle: bool, now: Instant) -> Option<Told> {
        let due = idle || self.last.is_none_or(|last| now.duration_since(last) >= PACE);
        if self.telling || !due {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.telling = true;
        self.last = Some(now);
        Some(next)
    }

    /// What was under way has ended.
    pub(super) fn ended(&mut self) {
        self.telling = false;
    }
}

/// Events are told as well as can be: one that cannot be written is logged, and no reason to do anything again.
pub(super) async fn tell(recorder: &Recorder, Told { key, uid, event }: Told) {
    let object = Mapping {
        metadata: ObjectMeta {
            name: Some(key.name.to_string()),
            namespace: Some(key.namespace.to_string()),
            uid: Some(uid),
            // Without a resourceVersion: the same Event about another version is the same Event.
            ..ObjectMeta::default()
        },
        ..Mapping::default()
    };
    if let Err(error) = recorder.publish(&event, &object.object_ref(&())).await {
        tracing::warn!(mapping = %key, reason = event.reason, error = error_chain(&error), "an Event could not be written");
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::events::EventType;

    use super::*;

    fn told(n: usize) -> Told {
        let event = Event {
            type_: EventType::Normal,
            reason: n.to_string(),
            note: None,
            action: "Program".to_owned(),
            secondary: None,
        };
        Told { key: ObjectKey::new("x", "a"), uid: "u".to_owned(), event }
    }

    fn reason(told: Option<Told>) -> Option<String> {
        told.map(|told| told.event.reason)
    }

    #[tokio::test]
    async fn they_come_one_after_the_other_when_nothing_else_is_to_be_written_or_at_a_pace() {
        let mut events = Events::default();
        let now = Instant::now();
        events.add((0..5).map(told));
        assert_eq!(reason(events.next(false, now)).as_deref(), Some("0"), "a first one takes nobody's place");
        assert_eq!(reason(events.next(true, now)), None, "one is under way");
        events.ended();
        assert_eq!(reason(events.next(false, now + PACE / 2)), None);
        assert_eq!(reason(events.next(true, now + PACE / 2)).as_deref(), Some("1"));
        events.ended();
        assert_eq!(reason(events.next(false, now + PACE)), None);
        assert_eq!(reason(events.next(false, now + PACE * 3 / 2)).as_deref(), Some("2"));
        events.ended();
        assert_eq!(reason(events.next(true, now + PACE * 3 / 2)).as_deref(), Some("3"));
    }

    #[tokio::test]
    async fn of_too_many_the_oldest_go() {
        let mut events = Events::default();
        events.add((0..MOST + 2).map(told));
        assert_eq!(reason(events.next(true, Instant::now())).as_deref(), Some("2"));
        assert_eq!(events.waiting.len(), MOST - 1);
    }
}
